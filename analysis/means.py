"""Means of factor levels and of their valid combinations, with intervals; nothing is given for a forbidden cell.

Means come from a linear model with the blocks taken out (blocks count equally). A mean that the data do not determine
is NaN and marked ``estimable`` False. Standard errors come from the residual, so that an interval speaks about these
tasks; or from the interaction with a block, ``task``, for new ones: what the levels of the block have in common is then
no part of them, since it is the same for all that is compared. Intervals are each on its own, not simultaneous.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.declared import AUTO, declared, names
from analysis.linear import Fit

LEVEL = 0.95


def marginal_means(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    over: str = "cells",
    level: float = LEVEL,
    error: str = AUTO,
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
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`.

    Returns
    -------
    DataFrame
        Columns ``of``…, n, mean, se, df, lower, upper, estimable.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; ``of`` not among the factors; an unknown ``over``.
    """
    of = names(of)
    if over not in ("cells", "levels"):
        raise InputFault(f"Means are taken over 'cells' or 'levels', not {over!r}.")
    strange = [c for c in of if c not in factors]
    if strange:
        raise InputFault(f"{', '.join(strange)} is not among the factors {', '.join(factors)}.")
    plan = declared(factors, blocks, interactions)
    sample = plan.read(frame, response)
    fit = Fit(sample, plan, error, of)
    cells = sample.cells(tuple(of))
    weights = [fit.weights(of, key, factors, over) for key in cells.levels]
    known = [k for k, row in enumerate(weights) if row is not None]
    out = pd.DataFrame([{c: sample.levels[c][k] for c, k in zip(of, key, strict=True)} for key in cells.levels])
    out["n"] = np.bincount(cells.codes, minlength=cells.count)
    out[["mean", "se", "df"]], out["estimable"] = np.nan, False
    if known:
        found = fit.estimate(np.stack([weights[k] for k in known]))  # type: ignore[misc]
        for column, values in (("mean", found.value + fit.centre), ("se", found.se), ("df", found.df)):
            out.loc[known, column] = values
        out.loc[known, "estimable"] = found.estimable
    return with_interval(out, "mean", level)


def cell_means(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    level: float = LEVEL,
    error: str = AUTO,
) -> pd.DataFrame:
    """Means of the valid combinations of ``factors``, adjusted for blocks; always defined where blocks are connected.

    Same columns as :func:`marginal_means`; forbidden combinations have no row.
    """
    factors = names(factors)
    return marginal_means(frame, response, factors, factors, blocks, crossed(factors), "cells", level, error)


def differences(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    reference: Sequence[str],
    blocks: Sequence[str] = (),
    level: float = LEVEL,
    error: str = AUTO,
) -> pd.DataFrame:
    """Differences of every valid combination of ``factors`` to one of them, adjusted for blocks.

    Parameters
    ----------
    reference : sequence of str
        A level of each factor, in their order; the combination all others are compared with.
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`.

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
    factors, reference = names(factors), [str(r) for r in reference]
    plan = declared(factors, blocks, crossed(factors))
    sample = plan.read(frame, response)
    fit = Fit(sample, plan, error, factors)
    cells = sample.cells(tuple(factors))
    labels = [tuple(sample.levels[c][k] for c, k in zip(factors, key, strict=True)) for key in cells.levels]
    if tuple(reference) not in labels:
        raise InputFault(
            f"The reference {':'.join(reference)} does not occur; there are {', '.join(map(':'.join, labels))}."
        )
    weights = np.stack([fit.weights(factors, key, factors, "cells") for key in cells.levels])  # type: ignore[misc]
    base = labels.index(tuple(reference))
    found = fit.estimate(np.delete(weights - weights[base], base, axis=0))
    out = pd.DataFrame([label for k, label in enumerate(labels) if k != base], columns=factors)
    out["n"] = np.delete(np.bincount(cells.codes, minlength=cells.count), base)
    out["difference"], out["se"], out["df"], out["estimable"] = found.value, found.se, found.df, found.estimable
    with np.errstate(divide="ignore", invalid="ignore"):
        out["p"] = 2 * t_distribution.sf(np.abs(found.value) / found.se, found.df)
    return with_interval(out, "difference", level)


def crossed(factors: Sequence[str]) -> list[str]:
    """All interactions of factors, which make the model that of their combinations."""
    return [":".join(c) for k in range(2, len(factors) + 1) for c in combinations(factors, k)]


def with_interval(frame: pd.DataFrame, column: str, level: float) -> pd.DataFrame:
    """Add t intervals from `se` and `df`, and put the columns into order."""
    half = t_distribution.ppf((1 + level) / 2, frame["df"]) * frame["se"]
    frame["lower"], frame["upper"] = frame[column] - half, frame[column] + half
    last = ["n", column, "se", "df", "lower", "upper", *(["p"] if "p" in frame else []), "estimable"]
    return frame[[c for c in frame.columns if c not in last] + last]
