"""A least-squares fit of which linear functions can be asked for, with the error that a claim about them needs.

A function that the data do not determine (L ≠ L·X⁺X, Searle 1971 §5.4) is NaN. Its variance comes from the residual, or
from the interaction with a block of what is compared, as `analysis.strata` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.anova_table import ErrorTerm
from analysis.declared import Declared
from analysis.model import Design, Term, contains, cross_counts, maximal
from analysis.sample import Sample
from analysis.strata import RESIDUAL, Strata, with_block


@dataclass(frozen=True)
class Estimates:
    """Linear functions: `value`, `se`, `df` (each (k,)); NaN where not estimable, or for `se` and `df` not testable.

    Attributes
    ----------
    estimable : bool array (k,)
    error : str
        What the standard errors come from: "residual", or terms such as "input:task".
    approximate : bool
        Whether a standard error is combined from several mean squares.
    covariance : array (k, k) or None
        Of the functions, where all their standard errors come from one mean square; rows not estimable are NaN.
    """

    value: np.ndarray
    se: np.ndarray
    df: np.ndarray
    estimable: np.ndarray
    error: str
    approximate: bool
    covariance: np.ndarray | None


class Fit:
    """The fit of a declared model.

    Parameters
    ----------
    sample
        The rows.
    declared
        The model.
    error
        "auto", "residual" or a block, as in :func:`analysis.anova`.
    of
        The columns whose levels or combinations will be compared: under a block their own interaction with it is what
        they are measured by.
    """

    def __init__(self, sample: Sample, declared: Declared, error: str = RESIDUAL, of: Sequence[str] = ()) -> None:
        self.sample = sample
        self.terms = maximal(declared.terms)
        self.of = tuple(of)
        self.block = declared.error_block(error, sample)
        design = Design(sample)
        space = design.space(declared.terms)
        self.centre = float(sample.y.mean())
        y = sample.y - self.centre
        residuals = space.residuals(y)
        self.strata = _strata(design, y, declared, self.block, self.of)
        cells = [sample.cells(t) for t in self.terms]
        self.start = dict(zip(self.terms, np.cumsum([0, *(c.count for c in cells)])[:-1].tolist(), strict=True))
        self.width = sum(c.count for c in cells)
        self._codes = [c.codes + self.start[t] for t, c in zip(self.terms, cells, strict=True)]
        gram = np.zeros((self.width, self.width))
        for a, b in product(self._codes, self._codes):
            gram += cross_counts(a, self.width, b, self.width)
        self._scale = 1 / np.sqrt(np.diag(gram))
        values, vectors = np.linalg.eigh(gram * self._scale[:, None] * self._scale[None, :])
        keep = values > 1e-9 * max(1, len(self.terms))
        self._basis, self._values = vectors[:, keep], values[keep]
        fitted = y - residuals
        right = sum(np.bincount(c, fitted, minlength=self.width) for c in self._codes) * self._scale
        self._beta = self._basis @ ((self._basis.T @ right) / self._values)

    def estimate(self, weights: np.ndarray) -> Estimates:
        """Estimate `weights` (k, width) @ coefficients; the response's mean is not in them."""
        scaled = weights * self._scale
        known = scaled @ self._basis
        off = np.linalg.norm(scaled - known @ self._basis.T, axis=1)
        estimable = off <= 1e-7 * np.maximum(np.linalg.norm(scaled, axis=1), 1e-300)
        inverse = (known / self._values) @ known.T
        size = np.diag(inverse)
        coefficients = ((known / self._values) @ self._basis.T) * self._scale
        errors = [self._error(row, float(own)) for row, own in zip(coefficients, size, strict=True)]
        squares = np.array([np.nan if e.mean_sq is None else e.mean_sq for e in errors])
        df = np.array([np.nan if e.mean_sq is None else e.df for e in errors])
        with np.errstate(invalid="ignore"):
            se = np.sqrt(squares * size)
        single = len({(e.term, e.df, e.mean_sq) for e, good in zip(errors, estimable, strict=True) if good}) == 1
        wrong = ~estimable
        covariance = None
        if single:
            covariance = inverse * squares[np.argmax(estimable)]
            covariance[wrong, :] = covariance[:, wrong] = np.nan
        named = [e.term for e, good in zip(errors, estimable, strict=True) if good]
        return Estimates(
            value=np.where(wrong, np.nan, scaled @ self._beta),
            se=np.where(wrong, np.nan, se),
            df=np.where(wrong, np.nan, df),
            estimable=estimable,
            error="; ".join(dict.fromkeys(named)) or RESIDUAL,
            approximate=any(e.approximate for e in errors),
            covariance=covariance,
        )

    def _error(self, coefficients: np.ndarray, size: float) -> ErrorTerm:
        if self.block is None or size <= 0:
            return self.strata.error({})
        rows = np.sum([coefficients[codes] for codes in self._codes], axis=0)
        loads = self.strata.loads_of(rows / np.sqrt(size))
        if abs(rows.sum()) > 1e-8 * np.abs(rows).sum():
            # A mean: what all levels have in common is no part of its error.
            loads = {term: load for term, load in loads.items() if contains(term, self.of)}
        return self.strata.error(loads)

    def weights(self, of: Sequence[str], key: Sequence[int], factors: Sequence[str], over: str) -> np.ndarray | None:
        """Weights of the mean at one combination of ``of``; None when it needs the coefficient of an empty cell."""
        row = np.zeros(self.width)
        fixed = dict(zip(of, key, strict=True))
        for term in self.terms:
            cells, start = self.sample.cells(term), self.start[term]
            if not set(term) & set(factors):
                row[start : start + cells.count] = 1 / cells.count
                continue
            if over == "levels":
                at = np.ones(cells.count, dtype=bool)
                for k, c in enumerate(term):
                    if c in fixed:
                        at &= cells.levels[:, k] == fixed[c]
                if at.sum() < np.prod([len(self.sample.levels[c]) for c in term if c not in fixed], dtype=int):
                    return None
                row[start : start + cells.count] = at / at.sum()
            else:
                valid = self.sample.cells(tuple(factors)).levels
                for c, v in fixed.items():
                    valid = valid[valid[:, list(factors).index(c)] == v]
                number = {tuple(level.tolist()): k for k, level in enumerate(cells.levels)}
                for cell in valid[:, [list(factors).index(c) for c in term]]:
                    row[start + number[tuple(cell.tolist())]] += 1 / len(valid)
        return row


def _strata(
    design: Design, y: np.ndarray, declared: Declared, block: Term | None, of: Term
) -> Strata:
    if block is None:
        return Strata(design, y, declared.terms)
    inside = [t for t in declared.terms if set(t) < set(of)]
    fixed = [*(t for t in declared.terms if t not in inside), *([of] if of else [])]
    varying = [t for t in fixed if t not in declared.blocks]
    whole = [*declared.terms, *with_block([t for t in declared.terms if t not in declared.blocks], block)]
    return Strata(design, y, [*declared.terms, *([of] if of else [])], with_block(varying, block), whole)
