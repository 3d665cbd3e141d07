"""Comparisons of cells with unequal variances: Welch's analysis of variance and Games-Howell's pairs.

One-way: blocks, other factors and the error term are ignored, and rows are taken as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.compare_tables import ContrastTable, WelchTest
from analysis.compared import check_level
from analysis.declared import names
from analysis.means import LEVEL
from analysis.multiplicity import tukey_critical, tukey_p
from analysis.sample import Sample, read_sample

_IGNORED = (
    "One-way: the cells' own variances are the error; blocks, other factors and the error term are ignored, and "
    "rows of one task or seed are taken as independent."
)


def welch(frame: pd.DataFrame, response: str, of: str | Sequence[str]) -> WelchTest:
    """Welch's analysis of variance of the cells of ``of``, whose variances may differ.

    Returns
    -------
    WelchTest
        Without numbers where a cell has one row or does not vary.

    Raises
    ------
    InputFault
        Columns missing, text as response, fewer than two cells.

    References
    ----------
    B. L. Welch (1951), On the comparison of several mean values, Biometrika 38.
    """
    from statsmodels.stats.oneway import anova_oneway

    of, sample, values, labels = _cells(frame, response, of)
    notes = [_IGNORED]
    poor = [label for label, value in zip(labels, values, strict=True) if len(value) < 2 or not np.ptp(value) > 0]
    f = df1 = df2 = p = None
    if poor:
        notes.append(f"Welch's test needs rows that vary in every cell; {', '.join(poor)} have one row or do not vary.")
    else:
        found = anova_oneway(values, use_var="unequal", welch_correction=True)
        f, p = float(found.statistic), float(found.pvalue)
        df1, df2 = (float(df) for df in found.df)
    return WelchTest(response, of, sample.n, sample.n_missing, len(values), f, df1, df2, p, tuple(notes))


def games_howell(frame: pd.DataFrame, response: str, of: str | Sequence[str], level: float = LEVEL) -> ContrastTable:
    """Differences of all pairs of cells of ``of``, whose variances may differ.

    Each pair has its own variance and Welch-Satterthwaite degrees of freedom; p values and intervals come from the
    studentized range.

    Returns
    -------
    ContrastTable
        Of each pair, its first cell less its second; NaN where a cell has one row.

    Raises
    ------
    InputFault
        As :func:`welch`; a level that is no probability.

    References
    ----------
    P. A. Games & J. F. Howell (1976), Pairwise multiple comparison procedures with unequal n's and/or variances,
    J. Educ. Statist. 1.
    """
    check_level(level)
    of, sample, values, labels = _cells(frame, response, of)
    pairs = list(combinations(range(len(values)), 2))
    a, b = np.array(pairs).T
    size = np.array([len(value) for value in values])
    mean = np.array([value.mean() for value in values])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.array([value.var(ddof=1) if len(value) > 1 else np.nan for value in values]) / size
        se = np.sqrt(share[a] + share[b])
        df = (share[a] + share[b]) ** 2 / (share[a] ** 2 / (size[a] - 1) + share[b] ** 2 / (size[b] - 1))
        se = np.where(se > 0, se, np.nan)
        t = (mean[a] - mean[b]) / se
        p = 2 * t_distribution.sf(np.abs(t), df)
    count = int((size > 1).sum())
    half = tukey_critical(level, max(count, 2), np.where(np.isnan(se), np.nan, df)) * se
    rows = pd.DataFrame(
        {
            "contrast": [f"{labels[i]} − {labels[j]}" for i, j in pairs],
            "first": [labels[i] for i, _ in pairs], "second": [labels[j] for _, j in pairs],
            "estimate": mean[a] - mean[b], "se": se, "df": np.where(np.isnan(se), np.nan, df), "t": t, "p": p,
            "p_adjusted": tukey_p(t, max(count, 2), df), "lower": mean[a] - mean[b] - half,
            "upper": mean[a] - mean[b] + half, "estimable": True, "error": "each pair's own variance",
        }
    )  # fmt: skip
    return ContrastTable(
        response=response, of=of, method="Games-Howell", adjust="games-howell", level=level,
        intervals=f"simultaneous, Games-Howell for {count} means", error="each pair's own variance", approximate=True,
        n=sample.n, n_missing=sample.n_missing,
        question=f"Which cells of {':'.join(of)} differ in {response}, their variances not taken as equal?",
        notes=(_IGNORED,), rows=rows,
    )  # fmt: skip


def _cells(
    frame: pd.DataFrame, response: str, of: str | Sequence[str]
) -> tuple[tuple[str, ...], Sample, list[np.ndarray], list[str]]:
    """The columns, the sample, and of each cell its values and its name."""
    columns = tuple(names(of))
    sample = read_sample(frame, response, columns)
    cells = sample.cells(columns)
    labels = [":".join(sample.levels[c][k] for c, k in zip(columns, key, strict=True)) for key in cells.levels]
    if len(labels) < 2:
        raise InputFault(
            f"{':'.join(columns)} has one cell in the rows with a {response}; there is nothing to compare."
        )
    return columns, sample, [sample.y[cells.codes == k] for k in range(cells.count)], labels
