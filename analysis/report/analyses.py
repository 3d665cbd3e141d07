"""The statistics of a report beyond its table: each is a result, or the sentence that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.anova_table import AnovaTable, TermRow
from analysis.declared import AUTO, RESIDUAL
from analysis.means import marginal_means
from analysis.report.content import ReportContent
from analysis.report.drawings import lines_fit

if TYPE_CHECKING:
    from analysis.checks import Checks
    from analysis.compare_tables import BestSet
    from analysis.failures_result import Failures
    from analysis.importance_result import Importance
    from analysis.robust_tests import Robust
    from analysis.several_scores import Several
    from analysis.variance_result import VarianceResult

DRAWS, PERMUTATIONS = 300, 499
"""Few, so that a page is made in seconds; the commands that the page names take more."""

MOST_COMPARED = 80
"""Designs beyond which comparisons with the best would take minutes."""

_PLOTS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """A result, or None and why there is none."""

    result: T | None
    fault: str = ""


def attempt(ask: Callable[[], T]) -> Attempt[T]:
    """Ask for a result; a fault of the input becomes a sentence."""
    try:
        return Attempt(ask())
    except InputFault as fault:
        return Attempt(None, str(fault))


@dataclass(frozen=True)
class Interaction:
    """A tested interaction of two factors, and the means of their combinations (None where too many to draw)."""

    row: TermRow
    factors: tuple[str, str]
    means: pd.DataFrame | None


@dataclass(frozen=True)
class Analyses:
    """What a report asks beyond its table of variance; None stands for a question that does not arise.

    All of it is about the tasks that were run, but for ``best_on_new_tasks``.
    """

    importance: Attempt[Importance] | None
    interactions: Attempt[list[Interaction]] | None
    best: Attempt[BestSet]
    best_on_new_tasks: Attempt[BestSet] | None
    variance: Attempt[VarianceResult]
    check: Attempt[Checks]
    robust: Attempt[Robust]
    failures: Attempt[Failures] | None
    several: Attempt[Several] | None


def analyse(content: ReportContent, of: Sequence[str], designs: int) -> Analyses:
    """Ask everything of a report's content.

    Parameters
    ----------
    of : sequence of str
        The columns whose combinations are the designs.
    designs : int
        How many of them have a mean.
    """
    from analysis.checks import check
    from analysis.compare import best
    from analysis.failed_trials import failures
    from analysis.importance_shares import importance
    from analysis.robust_tests import robust
    from analysis.several_scores import several
    from analysis.variance import variance_components

    frame, response = content.frame, content.response
    factors, blocks = list(content.factors), list(content.blocks)
    there = frame[frame[response].notna()]
    varying = [f for f in factors if there[f].nunique() > 1]
    crossed = [":".join(content.pair)] if content.pair else []
    model: dict[str, Any] = {"factors": factors, "blocks": blocks}
    terms: dict[str, Any] = {**model, "interactions": [*crossed, *content.interactions] or "none"}
    several_tasks = "task" in blocks and there["task"].nunique() > 1
    scores = [s for s in dict.fromkeys([response, *content.scores]) if s in frame and frame[s].notna().any()]

    def compared(error: str) -> Attempt[BestSet]:
        if designs > MOST_COMPARED:
            return Attempt(None, f"{designs} designs are too many to compare each with the best in a page's time.")
        return attempt(
            partial(best, frame, response, list(of), error=error, higher_is_better=content.higher_is_better, **model)
        )

    return Analyses(
        importance=attempt(
            partial(importance, frame, response, pair=content.pair, draws=DRAWS, error=RESIDUAL, **model)
        ) if len(varying) > 1 else None,
        interactions=attempt(partial(interactions, content, varying)) if len(varying) > 1 else None,
        best=compared(RESIDUAL),
        best_on_new_tasks=compared(AUTO) if several_tasks else None,
        variance=attempt(partial(variance_components, frame, response, **model)),
        check=attempt(partial(check, frame, response, **terms)),
        robust=attempt(partial(robust, frame, response, permutations=PERMUTATIONS, **terms)),
        failures=attempt(
            partial(
                failures, frame, response, higher_is_better=content.higher_is_better, error=RESIDUAL,
                permutations=PERMUTATIONS, **terms,
            )
        ) if frame[response].isna().any() and len(there) else None,
        several=attempt(partial(several, frame, scores, error=RESIDUAL, **terms)) if len(scores) > 1 else None,
    )  # fmt: skip


def interactions(content: ReportContent, varying: Sequence[str]) -> list[Interaction]:
    """Test every interaction of two factors; those that have lines to draw come with their means, clearest first.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`.
    """
    pairs = list(combinations(varying, 2))
    asked = [":".join(pair) for pair in pairs]
    given = content.frame, content.response, list(content.factors), list(content.blocks)
    table: AnovaTable = anova(*given, interactions=asked, error=RESIDUAL, pair=content.pair)
    tested = [(table[_label(table, pair)], pair) for pair in pairs]
    tested.sort(key=lambda entry: 2.0 if entry[0].p is None else entry[0].p)
    there = content.frame[content.frame[content.response].notna()]
    found = []
    for place, (row, pair) in enumerate(tested):
        means = None
        if place < _PLOTS and row.df and lines_fit(there, *pair):
            means = marginal_means(*given[:2], list(pair), *given[2:], [":".join(pair)], "cells", error=RESIDUAL)
            means = _with_lines(means[means["estimable"]], *pair)
        found.append(Interaction(row, pair, means if means is not None and len(means) else None))
    return found


def _label(table: AnovaTable, pair: tuple[str, str]) -> str:
    """The row of an interaction: of the report's own pair the order of the names may be another."""
    named = {row.term for row in table.terms}
    return ":".join(pair) if ":".join(pair) in named else ":".join(reversed(pair))


def _with_lines(means: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Combinations whose levels each meet two levels of the other factor; the rest say nothing of an interaction."""
    while True:
        many = (means.groupby(first)[second].transform("size") > 1) & (
            means.groupby(second)[first].transform("size") > 1
        )
        if many.all():
            return means
        means = means[many]
