"""Error strata: what a term or a contrast varies by when some terms of the model are random.

Against a residual alone, a claim holds on the tasks that were run. One about new tasks needs the variance of what is
compared from task to task, so `T:task` is added to the model for every declared term T, as a random term. Variances are
found by equating mean squares, each adjusted for all terms that do not contain it, to their expectations (Henderson
1953, method III). What is tested is given the combination of mean squares that has its expectation under the null
hypothesis; where that is a single one, as on balanced data, the test is exact, otherwise Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.anova_table import ErrorTerm
from analysis.model import Design, Space, Term, contains, name

RESIDUAL = "residual"

# Relative size below which a coefficient of an expected mean square is what rounding left of 0.
_NOTHING = 1e-8

Loads = Mapping[Term, float]
"""How much of each random term's variance is in a mean square, in multiples; the residual's is in it once."""


@dataclass(frozen=True)
class _MeanSquare:
    df: int
    value: float
    loads: dict[Term, float]


class Strata:
    """The random terms of a model and its residual, with their mean squares.

    Parameters
    ----------
    design
        The models of a sample.
    y
        The response (n,), centred.
    fixed, random
        The terms. Those of `random` are taken to be drawn anew with each repetition of the experiment.
    whole
        The terms of the model whose residual is the residual, where they are others.
    given
        Random term → the terms that its mean square is adjusted for, where they are others than those that do not
        contain it.
    """

    def __init__(
        self,
        design: Design,
        y: np.ndarray,
        fixed: Sequence[Term],
        random: Sequence[Term] = (),
        whole: Sequence[Term] | None = None,
        given: Mapping[Term, Sequence[Term]] | None = None,
    ) -> None:
        self.design = design
        self.y = y
        self.fixed = tuple(fixed)
        self.random = tuple({frozenset(term): term for term in random}.values())
        self._whole = self.terms if whole is None else tuple(whole)
        self._given = {frozenset(term): others for term, others in (given or {}).items()}
        self._squares: dict[Term, _MeanSquare] = {}

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms."""
        return (*self.fixed, *self.random)

    @cached_property
    def residuals(self) -> np.ndarray:
        """What the whole model leaves of the response."""
        return self.design.space(self._whole).residuals(self.y)

    @cached_property
    def df(self) -> int:
        """Degrees of freedom of the residual."""
        return self.design.sample.n - self.design.space(self._whole).rank

    @cached_property
    def sum_sq(self) -> float:
        """Sum of squares of the residual."""
        return float(self.residuals @ self.residuals) if self.df else 0.0

    def loads_between(self, small: Space, large: Space, df: int) -> dict[Term, float]:
        """Loads of the mean square by which one model is larger than another."""
        return self.design.once((small.terms, large.terms, self.random), lambda: self._between(small, large, df))

    def _between(self, small: Space, large: Space, df: int) -> dict[Term, float]:
        loads = {}
        for term in self.random:
            cells = self.design.sample.cells(term)
            inside = small.size_outside(cells.codes, cells.count) - large.size_outside(cells.codes, cells.count)
            loads[term] = _clean(inside / df, self.design.sample.n / cells.count)
        return loads

    def loads_of(self, weights: np.ndarray) -> dict[Term, float]:
        """Loads of the square of a linear function, given by weights (n,) of the rows that have length 1."""
        loads = {}
        for term in self.random:
            cells = self.design.sample.cells(term)
            inside = np.square(np.bincount(cells.codes, weights, minlength=cells.count)).sum()
            loads[term] = _clean(float(inside), self.design.sample.n / cells.count)
        return loads

    def error(self, loads: Loads) -> ErrorTerm:
        """What a mean square with such loads is tested against.

        Returns
        -------
        ErrorTerm
            Its `mean_sq` is None when the data cannot give it: a term needed has no degrees of freedom, or the
            combination of mean squares is not positive.
        """
        left = {term: loads.get(term, 0.0) for term in self.random}
        parts: list[tuple[str, float, int, float]] = []  # name, coefficient, df, mean square
        # One adjusted for less holds variance of the others as what is tested does, so it is taken off before them.
        for term in sorted(self.random, key=lambda term: (frozenset(term) not in self._given, len(term))):
            if left[term] == 0.0:
                continue
            own = self._mean_square(term)
            if own.df == 0 or own.loads[term] == 0.0:
                return ErrorTerm(name(term), 0, None)
            factor = left[term] / own.loads[term]
            parts.append((name(term), factor, own.df, own.value))
            for other, load in own.loads.items():
                left[other] = _clean(left[other] - factor * load, max(loads.get(other, 0.0), load))
            left[term] = 0.0
        rest = 1 - sum(part[1] for part in parts)
        if abs(rest) > 1e-6:
            if self.df == 0:
                return ErrorTerm(" and ".join([*(part[0] for part in parts), RESIDUAL]), 0, None)
            parts.append((RESIDUAL, rest, self.df, self.sum_sq / self.df))
        if len(parts) == 1:
            label, _, df, value = parts[0]
            return ErrorTerm(label, df, value)
        label = " and ".join(part[0] for part in parts)
        value = sum(factor * square for _, factor, _, square in parts)
        if value <= 0:
            return ErrorTerm(label, 0, None, approximate=True)
        combined = value**2 / sum((factor * square) ** 2 / own_df for _, factor, own_df, square in parts)
        return ErrorTerm(label, float(combined), value, approximate=True)

    def variances(self) -> dict[str, float]:
        """Variance of each random term and of the residual; one below 0 is what the data say and is given as it is.

        A term without degrees of freedom has NaN.
        """
        found: dict[Term, float] = {}
        residual = self.sum_sq / self.df if self.df else float("nan")
        for term in sorted(self.random, key=len, reverse=True):
            own = self._mean_square(term)
            others = sum(load * found[other] for other, load in own.loads.items() if other != term and load)
            found[term] = (own.value - residual - others) / own.loads[term] if own.df else float("nan")
        return {**{name(term): found[term] for term in self.random}, RESIDUAL: residual}

    def mean_square(self, term: Term) -> tuple[int, float]:
        """Degrees of freedom and mean square of a random term."""
        own = self._mean_square(term)
        return own.df, own.value

    def _mean_square(self, term: Term) -> _MeanSquare:
        if term not in self._squares:
            others = self._given.get(frozenset(term), [t for t in self.terms if not contains(t, term)])
            small, large = self.design.space(others), self.design.space([*others, term])
            df = large.rank - small.rank
            if not df:
                self._squares[term] = _MeanSquare(0, float("nan"), dict.fromkeys(self.random, 0.0))
            else:
                change = small.residuals(self.y) - large.residuals(self.y)
                loads = self.loads_between(small, large, df)
                self._squares[term] = _MeanSquare(df, float(change @ change) / df, loads)
        return self._squares[term]


def with_block(terms: Iterable[Term], block: Term) -> list[Term]:
    """The interactions of terms with a block."""
    return [(*term, *(column for column in block if column not in term)) for term in terms]


def _clean(value: float, scale: float) -> float:
    return 0.0 if abs(value) <= _NOTHING * max(scale, 1.0) else value
