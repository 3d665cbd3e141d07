"""Linear models of categorical columns in which any cell may be empty: ranks, residuals, what is estimable.

A term is a tuple of columns and stands for the space of functions of its cells, so it holds the spaces of all its
margins. A model is a set of terms. Nothing here depends on a coding of the levels: columns are one-hot indicators of
*observed* cells, the rank is counted, and a least-squares fit is a projection.

Numbers: the Gram matrix is used for the projection only, never for a sum of squares. The response is centred, residuals
are formed explicitly and projected once more (iterative refinement), because y'y − explained loses every digit once
the mean is 10⁶ standard deviations away (NIST StRD's higher-difficulty sets).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from analysis.sample import Sample

Term = tuple[str, ...]

# Eigenvalues of the Gram matrix of unit columns: rounding leaves ~1e-13 where exact arithmetic leaves 0; a design held
# together by one row in 10⁶ still has 1e-6.
_TOLERANCE = 1e-9
_MANY_CELLS = 1000


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


@dataclass(frozen=True)
class Space:
    """The column space of a model on the rows of a sample.

    The term with most cells is eliminated exactly (subtracting cell means); the others are solved through the
    eigenvalues of their Schur complement. A one-way model therefore needs no matrix at all.
    """

    sample: Sample
    terms: tuple[Term, ...]

    @cached_property
    def _parts(self) -> tuple[np.ndarray, int, list[np.ndarray], int]:
        cells = [self.sample.cells(t) for t in self.terms]
        if not cells:
            return np.zeros(self.sample.n, dtype=np.int64), 1, [], 0
        first = max(range(len(cells)), key=lambda k: cells[k].count)
        rest, width = [], 0
        for k, c in enumerate(cells):
            if k != first:
                rest.append(c.codes + width)
                width += c.count
        return cells[first].codes, cells[first].count, rest, width

    @cached_property
    def _sizes(self) -> np.ndarray:
        codes, count, _, _ = self._parts
        return np.bincount(codes, minlength=count).astype(float)

    @cached_property
    def _cross(self) -> np.ndarray:
        """Counts of the eliminated term's cells against all other columns."""
        codes, count, rest, width = self._parts
        cross = np.zeros((count, width))
        for r in rest:
            cross += cross_counts(codes, count, r, width)
        return cross

    @cached_property
    def _solver(self) -> tuple[np.ndarray, int]:
        """Pseudo-inverse of the Schur complement and its rank."""
        _, _, rest, width = self._parts
        if not width:
            return np.zeros((0, 0)), 0
        gram = np.zeros((width, width))
        for i, r in enumerate(rest):
            for j, s in enumerate(rest):
                if i == j:
                    gram[np.arange(width), np.arange(width)] += np.bincount(r, minlength=width)
                else:
                    gram += cross_counts(r, width, s, width)
        scale = 1.0 / np.sqrt(np.diag(gram))
        schur = gram - self._cross.T @ (self._cross / self._sizes[:, None])
        values, vectors = np.linalg.eigh(schur * scale[:, None] * scale[None, :])
        keep = values > _TOLERANCE * len(self.terms)
        half = (vectors[:, keep] / np.sqrt(values[keep])) * scale[:, None]
        return half @ half.T, int(keep.sum())

    @cached_property
    def rank(self) -> int:
        """Dimension of the space, the mean included."""
        return self._parts[1] + self._solver[1]

    def _sweep(self, v: np.ndarray) -> np.ndarray:
        codes, count, rest, width = self._parts
        v = v - (np.bincount(codes, v, minlength=count) / self._sizes)[codes]
        if not width:
            return v
        right = np.zeros(width)
        for r in rest:
            right += np.bincount(r, v, minlength=width)
        gamma = self._solver[0] @ right
        fit = np.zeros_like(v)
        for r in rest:
            fit += gamma[r]
        return v - fit + (np.bincount(codes, fit, minlength=count) / self._sizes)[codes]

    def residuals(self, v: np.ndarray) -> np.ndarray:
        """What of ``v`` (n,) lies outside the space; three sweeps, the later ones take off what rounding left."""
        for _ in range(3):
            v = self._sweep(v)
        return v

    def outside(self, codes: np.ndarray, count: int) -> np.ndarray:
        """Gram matrix (count, count) of one-hot columns after the space is taken out of them."""
        own, n_own, rest, width = self._parts
        left = cross_counts(own, n_own, codes, count) / self._sizes[:, None]
        gram = np.diag(np.bincount(codes, minlength=count).astype(float))
        gram -= cross_counts(codes, count, own, n_own) @ left
        if width:
            right = np.zeros((width, count))
            for r in rest:
                right += cross_counts(r, width, codes, count)
            right -= self._cross.T @ left
            gram -= right.T @ self._solver[0] @ right
        return gram


class Design:
    """The models that can be made of a sample's columns; spaces are computed once and shared between comparisons."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._spaces: dict[frozenset[frozenset[str]], Space] = {}

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
