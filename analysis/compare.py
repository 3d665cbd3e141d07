"""Comparisons of means: declared contrasts, all pairs, the best; every one on the chosen error term.

Nothing is said of a contrast that the data do not determine: it is marked ``estimable`` False and NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from adapters.faults import InputFault
from analysis.compare_tables import BestSet, ContrastTable
from analysis.compared import Compared, Estimated, by_holm_or_alone, check_adjust, check_level
from analysis.declared import AUTO
from analysis.means import LEVEL
from analysis.multiplicity import LargestT, nearest_correlation, tukey_critical, tukey_p


def contrasts(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    contrasts: Mapping[str, Mapping[str | tuple[str, ...], float]],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    error: str = AUTO,
    adjust: str = "holm",
    level: float = LEVEL,
    pooled: bool = False,
) -> ContrastTable:
    """Declared contrasts of the levels of a factor, or of the combinations of several.

    Parameters
    ----------
    of : str or sequence of str
        One or more of ``factors``. Of several, combinations are compared and their interaction is in the model.
    contrasts : mapping
        Name → weight of each level that takes part (a tuple of levels for several columns); weights sum to 0.
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`.
    adjust : "holm" or "none"
        Intervals are Bonferroni's for "holm", which has none of its own.
    level : float
        Of the intervals, together.
    pooled : bool
        Under a block: take the error of all levels of ``of`` together, which has more degrees of freedom and holds if
        all differences vary equally over the block. Else each contrast is measured by its own variation over the
        block's levels, an exact t on balanced rows.

    Returns
    -------
    ContrastTable

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; a level that does not occur; weights that do not sum to 0; an unknown ``adjust``.
    """
    check_adjust(adjust, ("holm", "none"))
    check_level(level)
    compared = Compared(frame, response, of, factors, blocks, interactions, error)
    if not contrasts:
        raise InputFault("No contrast was given; name at least one, such as {'a - b': {'a': 1, 'b': -1}}.")
    matrix = np.zeros((len(contrasts), len(compared.labels)))
    for row, (name, weights) in zip(matrix, contrasts.items(), strict=True):
        for key, weight in weights.items():
            row[compared.number(key)] += weight
        if not row.any() or abs(row.sum()) > 1e-9 * np.abs(row).max():
            raise InputFault(
                f"The weights of the contrast {name!r} sum to {row.sum():g}; they must sum to 0, not all 0."
            )
    return declared_contrasts(compared, matrix, list(contrasts), adjust, level, pooled, "contrasts")


def declared_contrasts(
    compared: Compared, matrix: np.ndarray, labels: Sequence[str], adjust: str, level: float, pooled: bool, method: str,
    notes: Sequence[str] = (), departure: dict[str, float] | None = None,
) -> ContrastTable:  # fmt: skip
    """Contrasts (k, levels), pooled or each on its own variation over the block."""
    pooled = pooled or compared.fit.block is None
    found = compared.estimate(matrix) if pooled else compared.estimate_by_block(matrix)
    said = [*compared.notes(pooled), *notes]
    if not pooled:
        said.append(f"Each contrast is measured by its own variation from {compared.block} to {compared.block}.")
    p, multiple, intervals = by_holm_or_alone(found, adjust, level)
    return compared.table(
        found, {"contrast": labels}, adjust, level, p, multiple, intervals, method, said, departure
    )  # fmt: skip


def pairwise(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    error: str = AUTO,
    adjust: str = "tukey",
    level: float = LEVEL,
    reference: str | Sequence[str] | None = None,
) -> ContrastTable:
    """Differences of all pairs of levels of a factor, or of combinations of several; or of all levels to one.

    Parameters
    ----------
    of : str or sequence of str
        One or more of ``factors``. Of several, the combinations that occur are compared and their interaction is in
        the model, so that every pair of them can be compared.
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`.
    adjust : "tukey", "holm", "dunnett" or "none"
        ``tukey``: Tukey-Kramer, for all pairs of the levels that can be compared with another; exact on balanced rows,
        wider than needed elsewhere (proved for one-way layouts, Hayter 1984). ``dunnett``: the largest of the
        differences to ``reference``. ``holm``: intervals are Bonferroni's, since Holm has none of his own.
    level : float
        Of the intervals, together.
    reference : str or sequence of str, optional
        A level (of each column of ``of``): it alone is what the others are compared with, as level − reference.

    Returns
    -------
    ContrastTable
        Of each pair, its first level less its second.

    Notes
    -----
    On rows that are not balanced, standard errors under a block may differ in what they come from; every pair has its
    own degrees of freedom then, and the adjustment is approximate.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; an unknown ``adjust`` or ``reference``; "dunnett" without a reference, "tukey" with
        one.
    """
    check_adjust(adjust, ("tukey", "holm", "dunnett", "none"))
    check_level(level)
    if (adjust == "dunnett") != (reference is not None) and adjust in ("tukey", "dunnett"):
        raise InputFault(
            "Dunnett's adjustment is for comparisons with a reference level, and Tukey's for all pairs: "
            + ("name the reference." if reference is None else "use 'dunnett' or 'holm' with a reference.")
        )
    compared = Compared(frame, response, of, factors, blocks, interactions, error)
    texts = compared.texts
    if reference is None:
        pairs = list(combinations(range(len(texts)), 2))
    else:
        base = compared.number(reference if isinstance(reference, str) else tuple(reference))
        pairs = [(k, base) for k in range(len(texts)) if k != base]
    found = compared.estimate(_differences(pairs, len(texts)))
    notes = compared.notes()
    if adjust == "tukey":
        count = len({k for pair, good in zip(pairs, found.estimable, strict=True) if good for k in pair})
        p = tukey_p(found.t, max(count, 2), found.df)
        multiple = tukey_critical(level, max(count, 2), found.df)
        intervals = f"simultaneous, Tukey-Kramer for {count} means"
    elif adjust == "dunnett":
        p, multiple = _dunnett(compared, found, pairs, level)
        intervals = "simultaneous, Dunnett"
    else:
        p, multiple, intervals = by_holm_or_alone(found, adjust, level)
    contrast = {
        "contrast": [f"{texts[a]} − {texts[b]}" for a, b in pairs],
        "first": [texts[a] for a, _ in pairs], "second": [texts[b] for _, b in pairs],
    }  # fmt: skip
    return compared.table(found, contrast, adjust, level, p, multiple, intervals, "pairwise", notes)


def best(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    error: str = AUTO,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> BestSet:
    """Multiple comparisons with the best (Hsu): which levels may be the best, and by how much.

    With d_ij how much better level i is than j, and se_ij its standard error, upper_i = max(0, min_j(d_ij + q_i
    se_ij)), where q_i bounds the largest t statistic of the d_ij (one-sided, multivariate t with their correlations).
    Level i may be the best iff upper_i > 0. Where it alone may, lower_i = 0; else lower_i = min(0, min_j(d_ij − q_j
    se_ij)) over the other levels j that may be.

    Parameters
    ----------
    of : str or sequence of str
        One or more of ``factors``. Of several, the combinations that occur are compared and their interaction is in
        the model. Levels in different components of two factors cannot be compared: each component has its own set,
        at the given level on its own.
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`.
    higher_is_better : bool
        Which end of the response is good.
    level : float
        The confidence with which the best is in the set.

    Returns
    -------
    BestSet

    Notes
    -----
    Critical values are exact where the differences' correlations have one factor, as in a one-way layout, and right to
    1e-3 elsewhere (to 6e-3 for dozens of levels with correlations far from one factor). Where the pairs' standard
    errors come from different combinations of mean squares, a level takes the smallest degrees of freedom of its pairs,
    and the result is marked approximate.

    References
    ----------
    J. C. Hsu (1984), Constrained simultaneous confidence intervals for multiple comparisons with the best, Ann.
    Statist. 12; (1996) Multiple Comparisons, Chapman & Hall, §§4.2, 7.3.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`.
    """
    check_level(level)
    compared = Compared(frame, response, of, factors, blocks, interactions, error)
    count = len(compared.labels)
    pairs = list(combinations(range(count), 2))
    found = compared.estimate(_differences(pairs, count))
    value, se, df = (np.full((count, count), np.nan) for _ in range(3))
    sign = 1.0 if higher_is_better else -1.0
    a, b = np.array(pairs).T
    value[a, b], value[b, a] = sign * found.value, -sign * found.value
    se[a, b] = se[b, a] = found.se
    df[a, b] = df[b, a] = found.df
    there = np.flatnonzero(found.estimable)
    links = coo_array((np.ones(len(there)), (a[there], b[there])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    rows = compared.means()
    rows.insert(list(rows.columns).index("n"), "component", component + 1)
    numbers = pd.DataFrame(
        np.nan, rows.index, ["estimate", "se", "df", "critical", "p_adjusted", "lower", "upper"], dtype=float
    )
    rows = pd.concat([rows, numbers], axis=1)
    rows["may_be_best"] = pd.Series([None] * count, dtype=object)
    for number in np.unique(component):
        inside = np.flatnonzero(component == number)
        if len(inside) > 1:
            square = np.ix_(inside, inside)
            columns = _with_the_best(value[square], se[square], df[square], level)
            for name, column in columns.items():
                rows.loc[inside, name] = column
    rows["estimable"] = np.bincount(component)[component] > 1
    rows["error"] = found.error
    may_be = tuple(rows.loc[[flag is True for flag in rows["may_be_best"]], "level"])
    return BestSet(
        response=response, of=tuple(compared.of), higher_is_better=higher_is_better, level=level, error=found.error,
        approximate=found.approximate, n=compared.sample.n, n_missing=compared.sample.n_missing,
        question=compared.question(), notes=tuple(_notes_on_best(compared, found, rows)), may_be_best=may_be, rows=rows,
    )  # fmt: skip


def _with_the_best(value: np.ndarray, se: np.ndarray, df: np.ndarray, level: float) -> dict[str, list[Any]]:
    """Columns of one component; NaN and None where some difference has no standard error.

    Parameters
    ----------
    value, se, df
        (k, k): how much better i is than j, its standard error and degrees of freedom; the diagonal is not used.
    """
    count = len(value)
    others = [np.delete(np.arange(count), i) for i in range(count)]
    rival = [int(others[i][np.argmin(value[i, others[i]])]) for i in range(count)]
    columns: dict[str, list[Any]] = {
        "estimate": [value[i, j] for i, j in enumerate(rival)],
        "se": [se[i, j] for i, j in enumerate(rival)],
    }
    if np.isnan(se[~np.eye(count, dtype=bool)]).any():
        return columns
    own_df = [float(df[i, others[i]].min()) for i in range(count)]
    known: dict[bytes, tuple[LargestT, float]] = {}
    critical, p = np.zeros(count), np.zeros(count)
    for i in range(count):
        correlation = _correlation(np.square(se), i, others[i])
        # The levels of a balanced layout share their distribution.
        key = np.round(correlation, 9).tobytes() + np.float64(own_df[i]).tobytes()
        if key not in known:
            largest = LargestT(correlation, own_df[i])
            known[key] = largest, largest.critical(level)
        largest, critical[i] = known[key]
        p[i] = largest.p(-float((value[i, others[i]] / se[i, others[i]]).min()))
    upper = [max(0.0, float((value[i, o] + critical[i] * se[i, o]).min())) for i, o in enumerate(others)]
    inside = [i for i in range(count) if upper[i] > 0]
    lower = []
    for i in range(count):
        rest = [j for j in inside if j != i]
        ends = value[i, rest] - critical[rest] * se[i, rest]
        lower.append(min(0.0, float(ends.min())) if rest else 0.0)
    return columns | {
        "df": own_df, "critical": critical.tolist(), "p_adjusted": p.tolist(), "lower": lower, "upper": upper,
        "may_be_best": [bound > 0 for bound in upper],
    }  # fmt: skip


def _correlation(variance: np.ndarray, base: int, others: np.ndarray) -> np.ndarray:
    """Correlations of the differences of one level to others, from the variances (k, k) of all differences.

    cov(i − j, i − l) = (var(i − j) + var(i − l) − var(j − l)) / 2, whatever the covariance of the means.
    """
    own = variance[base, others]
    between = np.where(np.eye(len(others), dtype=bool), 0.0, variance[np.ix_(others, others)])
    return nearest_correlation((own[:, None] + own[None, :] - between) / 2)


def _dunnett(
    compared: Compared, found: Estimated, pairs: Sequence[tuple[int, int]], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p values and multiples of the standard error of differences to one level."""
    p, multiple = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    good = np.flatnonzero(~np.isnan(found.t) & ~np.isnan(found.df)).tolist()
    if not good:
        return p, multiple
    levels, base = np.array([pairs[k][0] for k in good]), pairs[0][1]
    place = {k: position for position, k in enumerate([*levels.tolist(), base])}
    variance = np.zeros((len(place), len(place)))
    for (a, b), size in zip([pairs[k] for k in good], np.square(found.se[good]), strict=True):
        variance[place[a], place[b]] = variance[place[b], place[a]] = size
    between = list(combinations(levels.tolist(), 2))
    if between:
        sizes = np.square(compared.estimate(_differences(between, len(compared.labels))).se)
        for (a, b), size in zip(between, sizes, strict=True):
            variance[place[a], place[b]] = variance[place[b], place[a]] = size
    correlation = _correlation(variance, len(good), np.arange(len(good)))
    largest = LargestT(correlation, float(found.df[good].min()), two_sided=True)
    p[good] = [largest.p(abs(float(t))) for t in found.t[good]]
    multiple[good] = largest.critical(level)
    return p, multiple


def _differences(pairs: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """Contrasts (pairs, count), the first level less the second."""
    matrix = np.zeros((len(pairs), count))
    at = np.arange(len(pairs))
    matrix[at, [a for a, _ in pairs]], matrix[at, [b for _, b in pairs]] = 1.0, -1.0
    return matrix


def _notes_on_best(compared: Compared, found: Estimated, rows: pd.DataFrame) -> list[str]:
    said, parts = compared.notes(), rows["component"].nunique()
    if parts > 1:
        said.append(
            f"The levels fall into {parts} components that cannot be compared with each other; each has its own set, "
            "and the confidence holds for each on its own. Combinations of the factors can all be compared."
        )
    if found.approximate:
        said.append(
            "The rows are not balanced: standard errors or their degrees of freedom are approximate, and so are the "
            "critical values."
        )
    if rows["estimable"].any() and rows["lower"].isna().all():
        said.append("Nothing is left to measure the error with.")
    return said
