"""What the page says: the table, means, comparisons with references and costs of a report's content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.anova_table import AnovaTable, TermRow
from analysis.components import Connection, connect
from analysis.declared import RESIDUAL
from analysis.front import on_front
from analysis.means import cell_means, crossed, marginal_means
from analysis.report.content import ReportContent
from analysis.sample import read_sample


@dataclass(frozen=True)
class Findings:
    """Results of a report's content; ``fault`` says why there is no table when there is none.

    All of it speaks of the tasks that were run, but for ``on_new_tasks``.

    Attributes
    ----------
    on_new_tasks : TermRow or None
        What is compared, tested against its interaction with task; None with fewer than two tasks.
    designs : DataFrame
        One row a valid pair (or level of the first factor) whose mean is determined, best first: ``label``,
        ``component``, the columns of ``analysis.cell_means``, mean scores, parameters and seconds where known, and with
        parameters ``front``: whether no design of at most as many parameters has a better mean.
    effects : list of (caption, DataFrame)
        Adjusted means of single factors, each with a column ``label``: the pair's within a component, the others over
        valid combinations.
    references : DataFrame
        One row a reference and score: the best design's mean, the reference's, their difference, the seed-to-seed SD.
    """

    table: AnovaTable | None
    on_new_tasks: TermRow | None
    fault: str
    connection: Connection | None
    designs: pd.DataFrame
    effects: list[tuple[str, pd.DataFrame]]
    references: pd.DataFrame


def find(content: ReportContent) -> Findings:
    """Analyse a report's content; a fault of the analysis becomes a sentence, the rest of the page stays."""
    table, elsewhere, fault = None, None, ""
    given = content.frame, content.response, content.factors, content.blocks
    try:
        table = anova(*given, interactions=content.interactions, error=RESIDUAL, pair=content.pair)
        others = anova(*given, interactions=content.interactions, pair=content.pair)
        elsewhere = others["pair" if content.pair else content.factors[0]] if others.error != RESIDUAL else None
    except InputFault as reason:
        fault = str(reason)
    rows = content.frame[content.frame[content.response].notna()]
    if rows.empty:
        return Findings(table, elsewhere, fault, None, pd.DataFrame(), [], pd.DataFrame())
    connection = connect(read_sample(rows, content.response, content.pair), *content.pair) if content.pair else None
    designs = _designs(content, rows, connection)
    if designs.empty:
        return Findings(table, elsewhere, fault, connection, designs, [], pd.DataFrame())
    return Findings(
        table, elsewhere, fault, connection, designs, _effects(content, rows, connection), _references(content, designs)
    )


def keys(content: ReportContent) -> list[str]:
    """The columns whose valid combinations are the designs compared."""
    return list(content.pair) if content.pair else [content.factors[0]]


def _designs(content: ReportContent, rows: pd.DataFrame, connection: Connection | None) -> pd.DataFrame:
    by = keys(content)
    if content.across and content.across not in by:  # which not every design is on: its own level is taken out
        model = [*by, content.across], content.blocks, crossed(by), "levels"
        designs = marginal_means(rows, content.response, by, *model, error=RESIDUAL)
    else:
        designs = cell_means(rows, content.response, by, content.blocks, error=RESIDUAL)
    designs = designs[designs["estimable"]].reset_index(drop=True)
    designs.insert(0, "label", [" → ".join(row) for row in designs[by].itertuples(index=False)])
    if connection is not None:
        first = by[0]
        family = {level: c.name for c in connection.components for level in c.levels[first]}
        designs["component"] = designs[first].map(family)
    else:
        designs["component"] = ""
    extra = [c for c in (*content.scores, "parameters", "train_seconds") if c in rows.columns and c != content.response]
    costs = rows.groupby([rows[c].astype(str) for c in by])[extra].mean().reset_index()
    designs = designs.merge(costs, on=by, how="left")
    if "parameters" in designs:
        designs["front"] = on_front(designs["parameters"], designs["mean"], content.higher_is_better)
    return designs.sort_values("mean", ascending=not content.higher_is_better, kind="stable").reset_index(drop=True)


def _effects(
    content: ReportContent, rows: pd.DataFrame, connection: Connection | None
) -> list[tuple[str, pd.DataFrame]]:
    found = []
    factors = [f for f in content.factors if rows[f].nunique() > 1]
    paired = [":".join(content.pair)] if content.pair and set(content.pair) <= set(factors) else []
    for component in connection.components if connection is not None else ():
        part = rows
        for column, levels in component.levels.items():
            part = part[part[column].astype(str).isin(levels)]
        inside = [f for f in factors if part[f].nunique() > 1]
        for column, levels in component.levels.items():
            if len(levels) > 1 and column in inside:
                means = _try_means(content, part, column, inside, [], "levels")
                if means is not None:
                    found.append((f"{column} within {component.name}, adjusted for the other factors", means))
    for factor in factors if factors != keys(content) else ():  # else its levels are the designs, compared above
        if factor not in (content.pair or ()):
            means = _try_means(content, rows, factor, factors, paired, "cells")
            if means is not None:
                found.append((f"{factor}, averaged over the valid combinations of the other factors", means))
    return found


def _try_means(
    content: ReportContent, rows: pd.DataFrame, of: str, factors: list[str], crossed: list[str], over: str
) -> pd.DataFrame | None:
    means = marginal_means(rows, content.response, of, factors, content.blocks, crossed, over, error=RESIDUAL)
    means = means[means["estimable"]]
    if len(means) < 2:
        return None
    means.insert(0, "label", means[of])
    return means.sort_values("mean", ascending=not content.higher_is_better, kind="stable").reset_index(drop=True)


def seed_sd(content: ReportContent, score: str) -> float:
    """Seed-to-seed SD of a score: pooled over all combinations of factors and task; NaN with one seed."""
    by = [c for c in dict.fromkeys([*content.factors, "task"]) if c in content.frame.columns]
    groups = content.frame.groupby(by)[score]
    df = (groups.count() - 1).clip(lower=0)
    if not df.sum():
        return float("nan")
    return float(np.sqrt((groups.var().fillna(0) * df).sum() / df.sum()))


def _references(content: ReportContent, designs: pd.DataFrame) -> pd.DataFrame:
    """The best design against each reference, task by task, each task counting once."""
    given, by = content.references, keys(content)
    if given is None or given.empty:
        return pd.DataFrame()
    best = content.frame
    for column in by:
        best = best[best[column].astype(str) == designs.loc[0, column]]
    out = []
    for score in dict.fromkeys([content.response, *content.scores]):
        if score not in given.columns or score not in best.columns:
            continue
        ours = best.groupby("task")[score].mean()
        sd = seed_sd(content, score)
        for name, part in given.groupby("name", sort=False):
            theirs = part.groupby("task")[score].mean()
            both = pd.concat([ours, theirs], axis=1, keys=["ours", "theirs"]).dropna()
            if len(both):
                gap = float((both["ours"] - both["theirs"]).mean())
                out.append({
                    "reference": name, "score": score, "best design": both["ours"].mean(),
                    "reference mean": both["theirs"].mean(), "difference": gap, "seed SD": sd,
                    "difference / seed SD": gap / sd if sd > 0 else np.nan, "tasks": len(both),
                })  # fmt: skip
    return pd.DataFrame(out)
