"""Means of factor levels and of their valid combinations, with intervals; nothing is given for a forbidden cell.

Means come from a linear model with the blocks taken out (blocks count equally). A mean that the data do not determine
(L ≠ L·X⁺X, Searle 1971 §5.4) is NaN and marked ``estimable`` False. The standard error is the model's residual, so an
interval speaks about these tasks, not about new ones; intervals are each on its own, not simultaneous.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.anova_fit import declare
from analysis.model import Design, Term, cross_counts, maximal
from analysis.sample import Sample

LEVEL = 0.95


class _Fit:
    """A least-squares fit of which linear functions of the one-hot coefficients can be asked for."""

    def __init__(self, sample: Sample, terms: Sequence[Term]) -> None:
        self.sample = sample
        self.terms = maximal(terms)
        space = Design(sample).space(terms)
        self.df = sample.n - space.rank
        self.centre = float(sample.y.mean())
        y = sample.y - self.centre
        residuals = space.residuals(y)
        self.variance = float(residuals @ residuals) / self.df if self.df else np.nan
        cells = [sample.cells(t) for t in self.terms]
        self.start = dict(zip(self.terms, np.cumsum([0, *(c.count for c in cells)])[:-1].tolist(), strict=True))
        self.width = sum(c.count for c in cells)
        codes = [c.codes + self.start[t] for t, c in zip(self.terms, cells, strict=True)]
        gram = np.zeros((self.width, self.width))
        for a, b in product(codes, codes):
            gram += cross_counts(a, self.width, b, self.width)
        self.scale = 1 / np.sqrt(np.diag(gram))
        values, vectors = np.linalg.eigh(gram * self.scale[:, None] * self.scale[None, :])
        keep = values > 1e-9 * max(1, len(self.terms))
        self.basis, self.values = vectors[:, keep], values[keep]
        fitted = y - residuals
        right = sum(np.bincount(c, fitted, minlength=self.width) for c in codes) * self.scale
        self.beta = self.basis @ ((self.basis.T @ right) / self.values)

    def estimate(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, standard errors and estimability of ``weights`` (k, width) @ coefficients; NaN rows stay NaN."""
        scaled = weights * self.scale
        known = scaled @ self.basis
        off = np.linalg.norm(scaled - known @ self.basis.T, axis=1)
        estimable = off <= 1e-7 * np.maximum(np.linalg.norm(scaled, axis=1), 1e-300)
        value = scaled @ self.beta
        error = np.sqrt(self.variance * ((known**2) / self.values).sum(axis=1))
        return np.where(estimable, value, np.nan), np.where(estimable, error, np.nan), estimable

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


def marginal_means(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    over: str = "cells",
    level: float = LEVEL,
) -> pd.DataFrame:
    """Means of the levels of ``of`` under a declared model.

    Parameters
    ----------
    of : str or sequence of str
        One or more of ``factors``; one row for each combination of them that occurs.
    over : "cells" or "levels"
        What the other factors are averaged over. ``cells``: the combinations that occur with that level, counted
        equally, so nothing is said of a forbidden one. ``levels``: all levels counted equally, as R's emmeans does;
        in an additive model these means differ by the adjusted effects alone. Not estimable where an interaction of the
        model meets an empty cell, or where the factors fall into components.
    level : float
        Of the t intervals.

    Returns
    -------
    DataFrame
        Columns ``of``…, n, mean, se, df, lower, upper, estimable.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; ``of`` not among the factors; an unknown ``over``.
    """
    of = [of] if isinstance(of, str) else list(of)
    if over not in ("cells", "levels"):
        raise InputFault(f"Means are taken over 'cells' or 'levels', not {over!r}.")
    strange = [c for c in of if c not in factors]
    if strange:
        raise InputFault(f"{', '.join(strange)} is not among the factors {', '.join(factors)}.")
    sample, terms = declare(frame, response, factors, blocks, interactions)
    fit = _Fit(sample, terms)
    cells = sample.cells(tuple(of))
    counts = np.bincount(cells.codes, minlength=cells.count)
    rows = []
    for key, n in zip(cells.levels, counts, strict=True):
        weights = fit.weights(of, key, factors, over)
        names = {c: sample.levels[c][k] for c, k in zip(of, key, strict=True)}
        if weights is None:
            rows.append({**names, "n": int(n), "mean": np.nan, "se": np.nan, "estimable": False})
            continue
        value, error, estimable = fit.estimate(weights[None])
        rows.append(
            {**names, "n": int(n), "mean": value[0] + fit.centre, "se": error[0], "estimable": bool(estimable[0])}
        )
    return _with_interval(pd.DataFrame(rows), "mean", fit.df, level)


def cell_means(
    frame: pd.DataFrame, response: str, factors: Sequence[str], blocks: Sequence[str] = (), level: float = LEVEL
) -> pd.DataFrame:
    """Means of the valid combinations of ``factors``, adjusted for blocks; always defined where blocks are connected.

    Same columns as :func:`marginal_means`; forbidden combinations have no row.
    """
    factors = [factors] if isinstance(factors, str) else list(factors)
    return marginal_means(frame, response, factors, factors, blocks, _crossed(factors), "cells", level)


def differences(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    reference: Sequence[str],
    blocks: Sequence[str] = (),
    level: float = LEVEL,
) -> pd.DataFrame:
    """Differences of every valid combination of ``factors`` to one of them, adjusted for blocks.

    Parameters
    ----------
    reference : sequence of str
        A level of each factor, in their order; the combination all others are compared with.

    Returns
    -------
    DataFrame
        Columns of the factors, then n, difference (combination − reference), se, df, lower, upper, p (two-sided t,
        each on its own), estimable.

    Raises
    ------
    InputFault
        As :func:`marginal_means`; the reference does not occur.
    """
    factors, reference = list(factors), [str(r) for r in reference]
    sample, terms = declare(frame, response, factors, blocks, _crossed(factors))
    fit = _Fit(sample, terms)
    cells = sample.cells(tuple(factors))
    names = [tuple(sample.levels[c][k] for c, k in zip(factors, key, strict=True)) for key in cells.levels]
    if tuple(reference) not in names:
        raise InputFault(
            f"The reference {':'.join(reference)} does not occur; there are {', '.join(map(':'.join, names))}."
        )
    weights = np.stack([fit.weights(factors, key, factors, "cells") for key in cells.levels])  # type: ignore[misc]
    base = names.index(tuple(reference))
    value, error, estimable = fit.estimate(np.delete(weights - weights[base], base, axis=0))
    out = pd.DataFrame([n for k, n in enumerate(names) if k != base], columns=factors)
    out["n"] = np.delete(np.bincount(cells.codes, minlength=cells.count), base)
    out["difference"], out["se"], out["estimable"] = value, error, estimable
    with np.errstate(divide="ignore", invalid="ignore"):
        out["p"] = 2 * t_distribution.sf(np.abs(value) / error, fit.df) if fit.df else np.nan
    return _with_interval(out, "difference", fit.df, level)


def _crossed(factors: Sequence[str]) -> list[str]:
    return [":".join(c) for k in range(2, len(factors) + 1) for c in combinations(factors, k)]


def _with_interval(frame: pd.DataFrame, column: str, df: int, level: float) -> pd.DataFrame:
    half = t_distribution.ppf((1 + level) / 2, df) * frame["se"] if df else np.nan
    frame["df"], frame["lower"], frame["upper"] = df, frame[column] - half, frame[column] + half
    last = ["n", column, "se", "df", "lower", "upper", *(["p"] if "p" in frame else []), "estimable"]
    return frame[[c for c in frame.columns if c not in last] + last]
