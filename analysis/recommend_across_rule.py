"""Recommendations where designs were run under several conditions, such as backbones: one for all, or one for each.

A condition is nothing that a recipe chooses: whoever trains has a backbone and asks for the design. So designs are
compared on each condition by its own trials, and on average over the conditions; the interactions of the designs'
factors with the condition say which of the two is recommended. No interaction shown is not the same as none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.declared import AUTO, RESIDUAL, across_interactions, declared
from analysis.means import LEVEL
from analysis.recommend_rule import recommend
from analysis.recommended import Recommendation
from analysis.recommended_across import RecommendedAcross


def recommend_across(
    frame: pd.DataFrame,
    response: str,
    across: str,
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    pair: tuple[str, str] | None = None,
    error: str = AUTO,
    higher_is_better: bool = True,
    scores: Mapping[str, str] | None = None,
    parameters: str | None = None,
    costs: Sequence[str] = (),
    level: float = LEVEL,
) -> RecommendedAcross:
    """Recommend a design for all conditions or, where an interaction with the condition is shown, one for each.

    Parameters
    ----------
    across : str
        The column of the conditions.
    factors : str or sequence of str
        Columns whose combinations are the designs; not ``across``.
    level : float
        The confidence with which the truly best designs of all conditions are in their sets together (each set has
        1 − (1 − level)/conditions), and that of the set on average. A term is shown with p < 1 − level.
    frame, response, blocks, pair, error, higher_is_better, scores, parameters, costs
        As in :func:`analysis.recommend`.

    Returns
    -------
    RecommendedAcross

    Notes
    -----
    The interactions are those of each factor with the condition, tested on all rows in one model against the error that
    is asked for. They are not corrected for their number, since the two mistakes differ in weight: to part conditions
    needlessly costs precision, to join them wrongly gives a condition a design that may be bad there.

    The average is taken over designs that every condition has, of the means over the conditions of trials that are
    alike in factors and blocks, each condition counting once. On balanced rows its contrasts and errors are those of a
    model with all interactions with the condition.

    Raises
    ------
    InputFault
        As :func:`analysis.recommend` where it concerns the columns; no condition has two designs to choose from; rows
        of fewer than two conditions.
    """
    plan = declared(factors, blocks, pair=pair)
    own = [column for term in plan.factors for column in term]
    if across not in frame or across in plan.columns:
        raise InputFault(f"{across!r} must be a column that is neither factor nor block: designs are compared on each.")
    levels = list(dict.fromkeys(frame[across].astype(str)))
    if len(levels) < 2:
        raise InputFault(f"The rows are of one {across} ({', '.join(levels)}); use `recommend`.")
    given: dict[str, Any] = {
        "response": response, "factors": factors, "blocks": blocks, "pair": pair, "error": error,
        "higher_is_better": higher_is_better, "scores": scores, "parameters": parameters, "costs": costs,
    }  # fmt: skip
    each: dict[str, Recommendation] = {}
    faults: dict[str, str] = {}
    for condition in levels:
        try:
            rows = frame[frame[across].astype(str) == condition]
            each[condition] = recommend(rows, level=1 - (1 - level) / len(levels), **given)
        except InputFault as fault:
            faults[condition] = str(fault)
    if not each:
        raise InputFault("; ".join(f"{condition}: {fault}" for condition, fault in faults.items()))
    average, why = None, ""
    try:
        joined, told = _averaged(frame, across, own, plan.columns, [response, *(scores or {}), *costs], parameters)
        found = recommend(joined, level=level, **given)
        average = replace(found, notes=(told, *found.notes))
    except InputFault as fault:
        why = str(fault)
    used = next(iter(each.values())).error
    terms, untested = _interactions(frame, response, across, own, blocks, pair, error)
    here = () if used == RESIDUAL else _interactions(frame, response, across, own, blocks, pair, RESIDUAL)[0]
    return RecommendedAcross(
        response=response, across=across, factors=tuple(own), level=level, error=used, terms=terms,
        on_these_tasks=tuple(term["term"] for term in here if term["p"] < 1 - level), untested=untested,
        each=each, faults=faults, average=average, average_fault=why,
    )  # fmt: skip


def _averaged(
    frame: pd.DataFrame,
    across: str,
    own: Sequence[str],
    columns: Sequence[str],
    scores: Sequence[str],
    parameters: str | None,
) -> tuple[pd.DataFrame, str]:
    """Means over the conditions of the designs that all have: a row a design and task (and seed); and what they are."""
    count = frame[across].nunique()
    common = frame.groupby(list(own), observed=True)[across].transform("nunique") == count
    if not common.any():
        raise InputFault(f"no design was run on every {across}")
    numbers = list(dict.fromkeys([*scores, *([parameters] if parameters else [])]))
    strange = [c for c in numbers if not pd.api.types.is_numeric_dtype(frame[c])]
    if strange:
        raise InputFault(f"{', '.join(strange)} must hold numbers to be averaged over the {across}s")
    within = _strict_means(frame[common].groupby([*columns, across], sort=False, observed=True)[numbers])
    by = within.groupby(level=list(columns), sort=False)
    means, complete = _strict_means(by), by.size() == count
    if not complete.any():
        raise InputFault(f"no design has trials of one task on every {across}")
    told = (
        f"A trial on average is one of a design and task (and seed) on all {count} {across}s: its scores, parameters "
        f"and seconds are means over these, and it failed if one did. {int(common.sum())} of {len(frame)} trials are "
        f"of designs that every {across} has."
    )
    if not complete.all():
        told += f" {int((~complete).sum())} that are not there on every {across} are left out."
    return means[complete].reset_index(), told


def _strict_means(groups: Any) -> pd.DataFrame:
    """Means of groups, missing where one value is: else a failure would leave the mean of what went well."""
    return groups.mean().where(groups.count().eq(groups.size(), axis=0))


def _interactions(
    frame: pd.DataFrame,
    response: str,
    across: str,
    own: Sequence[str],
    blocks: str | Sequence[str],
    pair: tuple[str, str] | None,
    error: str,
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """The tests of each factor's interaction with the condition, and why others could not be tested."""
    asked = across_interactions([*own, across], across)
    try:
        table = anova(frame, response, [*own, across], blocks, interactions=asked, error=error, pair=pair)
    except InputFault as fault:
        return (), {term: str(fault) for term in asked}
    tested, untested = [], {}
    for row in (table[term] for term in asked):
        if row.df == 0:
            untested[row.term] = "no two of its levels are on the same conditions, so it has no degrees of freedom"
        elif row.F is None or row.p_decisive is None:
            untested[row.term] = "nothing measures its error"
        else:
            tested.append({
                "term": row.term, "F": row.F, "df": row.df, "df_nominal": row.df_nominal, "error_df": row.error.df,
                "p": row.p_decisive, "p_is_a_bound": row.p_conservative is not None,
            })  # fmt: skip
    return tuple(tested), untested
