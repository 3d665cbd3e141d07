"""Linear models of categorical columns in which any cell may be empty: ranks, residuals, what is estimable.

A term is a tuple of columns and stands for the space of functions of its cells, so it holds the spaces of all its
margins. A model is a set of terms. Nothing here depends on a coding of the levels: columns are one-hot indicators of
*observed* cells, the rank is counted, and a least-squares fit is a projection.

Numbers: the Gram matrix is used for the projection only, never for a sum of squares. The response is centred, residuals
are formed explicitly and projected once more (iterative refinement), because y'y − explained loses every digit once
the mean is 10⁶ standard deviations away (NIST StRD's higher-difficulty sets).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack

from adapters.faults import InputFault
from analysis.sample import Sample

Term = tuple[str, ...]

# Eigenvalues of the Gram matrix of unit columns: rounding leaves ~1e-13 where exact arithmetic leaves 0; a design held
# together by one row in 10⁶ still has 1e-6.
_TOLERANCE = 1e-9
_MANY_CELLS = 1000
_MANY_COLUMNS = 4000


def name(term: Term) -> str:
    """A term as it is written: ``input:output``."""
    return ":".join(term)


def contains(big: Term, small: Term) -> bool:
    """Whether the space of ``big`` holds that of ``small``."""
    return set(small) <= set(big)


def maximal(terms: Iterable[Term]) -> list[Term]:
    """The terms no other one contains: they alone span the model."""
    unique = {frozenset(t): t for t in terms}
    return [t for key, t in unique.items() if not any(key < other for other in unique)]


def cross_counts(a: np.ndarray, n_a: int, b: np.ndarray, n_b: int) -> np.ndarray:
    """How often cell i of one term meets cell j of another: (n_a, n_b), exact integers as floats."""
    return np.bincount(a * n_b + b, minlength=n_a * n_b).reshape(n_a, n_b).astype(float)


def _indicators(codes: np.ndarray, count: int) -> csr_array:
    """One-hot columns (m, count)."""
    rows = np.arange(len(codes) + 1)
    return csr_array((np.ones(len(codes)), codes, rows), shape=(len(codes), count))


@dataclass(frozen=True)
class Space:
    """The column space of a model on the rows of a sample.

    Everything is worked out on the sample's points, each weighted by its rows, so that rows that no term tells apart
    cost one pass. The term with most cells is eliminated exactly (subtracting cell means); the others are solved
    through the eigenvalues of their Schur complement. A one-way model therefore needs no matrix at all.

    Raises
    ------
    InputFault
        When what is not eliminated has so many columns that the eigenvalues would take minutes.
    """

    sample: Sample
    terms: tuple[Term, ...]

    @cached_property
    def _codes(self) -> tuple[np.ndarray, int]:
        """Cell of each point in the eliminated term, and how many there are."""
        if not self.terms:
            return np.zeros(len(self.sample.points.first), dtype=np.int64), 1
        cells = self.sample.cells(self.terms[self._largest])
        return cells.codes[self.sample.points.first], cells.count

    @cached_property
    def _largest(self) -> int:
        counts = [self.sample.cells(t).count for t in self.terms]
        return max(range(len(counts)), key=counts.__getitem__)

    @cached_property
    def _rest(self) -> csr_array | None:
        """One-hot columns (m, width) of all terms but the eliminated one."""
        others = [t for k, t in enumerate(self.terms) if k != self._largest] if self.terms else []
        if not others:
            return None
        cells = [self.sample.cells(t) for t in others]
        width = sum(c.count for c in cells)
        if width > _MANY_COLUMNS:
            sizes = ", ".join(f"{name(t)} {self.sample.cells(t).count}" for t in self.terms)
            raise InputFault(
                f"The model is too large: beside its largest term it has {width} cells, more than {_MANY_COLUMNS} "
                f"({sizes}). Leave out interactions or factors, or join levels."
            )
        first = self.sample.points.first
        return hstack([_indicators(c.codes[first], c.count) for c in cells], format="csr")

    @cached_property
    def _sizes(self) -> np.ndarray:
        codes, count = self._codes
        return np.bincount(codes, self.sample.points.weights, minlength=count)

    def _means(self, v: np.ndarray) -> np.ndarray:
        """Weighted means (count,) of values (m,) over the eliminated term's cells."""
        codes, count = self._codes
        return np.bincount(codes, self.sample.points.weights * v, minlength=count) / self._sizes

    def _crossed(self, columns: csr_array) -> csr_array:
        """Rows in which the eliminated term's cells meet other one-hot columns: (count, columns)."""
        return (_indicators(*self._codes).T @ columns.multiply(self.sample.points.weights[:, None])).tocsr()

    @cached_property
    def _cross(self) -> csr_array:
        assert self._rest is not None
        return self._crossed(self._rest)

    @cached_property
    def _solver(self) -> tuple[np.ndarray, int]:
        """Pseudo-inverse of the Schur complement and its rank."""
        rest = self._rest
        if rest is None:
            return np.zeros((0, 0)), 0
        gram = (rest.T @ rest.multiply(self.sample.points.weights[:, None])).toarray()
        scale = 1.0 / np.sqrt(np.diag(gram))
        gram -= (self._cross.T @ self._cross.multiply(1 / self._sizes[:, None])).toarray()
        values, vectors = np.linalg.eigh(gram * scale[:, None] * scale[None, :])
        keep = values > _TOLERANCE * len(self.terms)
        half = (vectors[:, keep] / np.sqrt(values[keep])) * scale[:, None]
        return half @ half.T, int(keep.sum())

    @cached_property
    def rank(self) -> int:
        """Dimension of the space, the mean included."""
        return self._codes[1] + self._solver[1]

    def _sweep(self, v: np.ndarray) -> np.ndarray:
        codes, rest = self._codes[0], self._rest
        v = v - self._means(v)[codes]
        if rest is None:
            return v
        fit = rest @ (self._solver[0] @ (rest.T @ (self.sample.points.weights * v)))
        return v - fit + self._means(fit)[codes]

    def residuals(self, v: np.ndarray) -> np.ndarray:
        """What of ``v`` (n,) lies outside the space; later sweeps take off what rounding left."""
        points = self.sample.points
        for _ in range(2):
            means = points.means(v)
            left = self._sweep(self._sweep(means))
            v = v + (left - means)[points.of_row]
        return v

    def size_outside(self, codes: np.ndarray, count: int) -> float:
        """Sum of squares of one-hot columns, given by each row's cell, after the space is taken out of them."""
        cross, right = self._against(codes, count)
        size = self.sample.n - float((cross.power(2).sum(axis=1) / self._sizes).sum())
        if right is not None:
            size -= float(np.vdot(right, self._solver[0] @ right))
        return size

    def outside(self, codes: np.ndarray, count: int) -> np.ndarray:
        """Gram matrix (count, count) of one-hot columns after the space is taken out of them."""
        cross, right = self._against(codes, count)
        gram = np.diag(np.bincount(codes, minlength=count).astype(float))
        gram -= (cross.T @ cross.multiply(1 / self._sizes[:, None])).toarray()
        if right is not None:
            gram -= right.T @ self._solver[0] @ right
        return gram

    def _against(self, codes: np.ndarray, count: int) -> tuple[csr_array, np.ndarray | None]:
        """Products of one-hot columns with the eliminated term, and with the rest after that is taken out of both."""
        columns = _indicators(codes[self.sample.points.first], count)
        cross = self._crossed(columns)
        if self._rest is None:
            return cross, None
        right = self._rest.T @ columns.multiply(self.sample.points.weights[:, None])
        right = right - self._cross.T @ cross.multiply(1 / self._sizes[:, None])
        return cross, right.toarray()


class Design:
    """The models that can be made of a sample's columns; what does not depend on the response is computed once."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._spaces: dict[frozenset[frozenset[str]], Space] = {}
        self._known: dict[Any, Any] = {}

    def with_response(self, y: np.ndarray) -> Design:
        """Return the same design with another response (n,); what is known of it is shared."""
        other = copy(self)
        other.sample = replace(self.sample, y=y)
        return other

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return what a function of the design alone gives, computed the first time it is asked for."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def space(self, terms: Iterable[Term]) -> Space:
        """Column space of a model (the mean is always in it)."""
        top = maximal(terms)
        key = frozenset(frozenset(t) for t in top)
        if key not in self._spaces:
            self._spaces[key] = Space(self.sample, tuple(top))
        return self._spaces[key]

    def nominal_df(self, term: Term, model: Iterable[Term], nested: bool = False) -> int:
        """Degrees of freedom ``term`` would have if every cell of its factors were filled.

        Parameters
        ----------
        model : terms
            The terms of the model; those that ``term`` properly contains have their share taken off.
        nested : bool
            Count the observed cells instead of all combinations: a block such as task:seed exists only where it is.
        """
        inner = [t for t in model if contains(term, t) and set(t) != set(term)]
        if nested:
            return self.sample.cells(term).count - self.space(inner).rank
        held = {frozenset(s) for t in inner for k in range(1, len(t) + 1) for s in combinations(t, k)}
        total = 0
        for k in range(1, len(term) + 1):
            for part in combinations(term, k):
                if frozenset(part) not in held:
                    total += int(np.prod([len(self.sample.levels[c]) - 1 for c in part]))
        return total

    def aliased(self, term: Term, others: Iterable[Term], missing: int) -> list[str]:
        """Name what takes ``missing`` degrees of freedom from a term.

        The empty cells, when they are as many as the degrees of freedom that are missing. Otherwise the columns of
        treatment coding (first level of each factor as the base, in order) that say nothing the others and the term's
        earlier columns have not said; an empty cell's column is one of them. Beyond ``_MANY_CELLS`` cells, where
        finding these takes minutes, the empty cells alone.
        """
        sample = self.sample
        cells = sample.cells(term)
        where = {tuple(int(c) for c in row): k for k, row in enumerate(cells.levels)}
        sizes = [len(sample.levels[c]) for c in term]
        empty = int(np.prod(sizes)) - cells.count
        if empty == missing or cells.count > _MANY_CELLS:
            return [sample.label(term, key) for key in np.ndindex(*sizes) if key not in where]
        gram = self.space(others).outside(cells.codes, cells.count)
        size = np.bincount(cells.codes, minlength=cells.count).astype(float)
        gram /= np.sqrt(size[:, None] * size[None, :])
        names = []
        for combo in np.ndindex(*(s - 1 for s in sizes)):
            key = tuple(c + 1 for c in combo)
            k = where.get(key)
            if k is None or gram[k, k] <= 10 * _TOLERANCE:
                names.append(sample.label(term, key))
            else:
                gram -= np.outer(gram[:, k], gram[k]) / gram[k, k]
        return names


def sum_coded(sample: Sample, term: Term) -> np.ndarray:
    """Columns (n, ∏(levels − 1)) of a term in sum-to-zero coding."""
    columns = np.ones((sample.n, 1))
    for c in term:
        k = len(sample.levels[c])
        coding = np.vstack([np.eye(k - 1), -np.ones((1, k - 1))])[sample.codes[c]]
        columns = (columns[:, :, None] * coding[:, None, :]).reshape(sample.n, -1)
    return columns
