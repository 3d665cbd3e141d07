"""One recommendation on a page: the design in a few words, how sure it is, what else may be the best, and its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.compare_tables import percent
from analysis.declared import RESIDUAL
from analysis.recommended import CHOSEN, EXCLUDED, Recommendation
from analysis.report.blocks import Block, Code, Details, Notes, Text, table_of
from analysis.report.content import Recommended, ReportContent

_SHOWN = 8
"""Designs that a table of the answer shows before the rest is folded up."""


def design_name(found: Recommendation, levels: Mapping[Any, Any], pair: tuple[str, str] | None) -> str:
    """A design by the factors in which designs differ, the pair as the page writes it: ``CA_out → FFN_in, scale 1``."""
    if "design" in found.factors:  # a name of all that tells designs apart
        return str(levels["design"])
    varying = [f for f in found.factors if found.designs[f].nunique() > 1]
    others = [f for f in varying if not (pair and f in pair)]
    parts = [" → ".join(str(levels[f]) for f in pair)] if pair and set(pair) & set(varying) else []
    alone = len(varying) == 1
    return ", ".join([*parts, *(str(levels[f]) if alone else f"{f} {levels[f]}" for f in others)])


def lead_of(found: Recommendation, content: ReportContent, head: str, sized: bool = True) -> str:
    """What is recommended, its mean and size, and how many designs may be the best; ``head`` says for what."""
    row = rows_of(found, content)[0]
    size = f" and {row['parameters']:,.0f} parameters" if sized and pd.notna(row.get("parameters")) else ""
    own = f" ({row['observed']:.3f} over its own trials)" if found.adds_up else ""
    mean = "" if pd.isna(row["counted"]) else f", with a mean {found.response} of {row['counted']:.3f}{own}{size}"
    return " ".join([f"{head}: {row['name']}{mean}.", _why(found, content), *_sets(found)]).replace("  ", " ")


def evidence_of(found: Recommendation, content: ReportContent) -> list[Block]:
    """The question, how far the design is ahead, and what may be the best as well."""
    inside = _table(found, content)
    steps = ", ".join(f"{count} {what}" for what, count in found.steps)
    rule = f"The rule, from {len(found.designs)} designs on: {steps}."
    told = [*_ahead(found, rows_of(found, content)[0]["name"]), *_on_these_tasks(found, content), rule]
    return [
        Text(found.question, "question"),
        Notes(tuple(told)),
        table_of(inside, "The recommended design, and what may be the best as well", most=_SHOWN),
        Text(f"Not tested: {'; '.join(each.rstrip('.') for each in found.not_tested)}.", "small"),
    ]


def code_of(given: Recommended) -> list[Block]:
    """How to get the recipe and use it, and the recipe itself, folded up."""
    blocks: list[Block] = [Code(each.words, each.language, each.code) for each in given.code]
    if given.recipe is not None:
        recipe = Code(given.recipe.words, given.recipe.language, given.recipe.code)
        blocks.append(Details("The recipe itself", (recipe,)))
    return blocks


def details_of(found: Recommendation, content: ReportContent) -> list[Block]:
    """The rule, the whole set, and why the others are not in it, folded up."""
    inside = _table(found, content)
    blocks: list[Block] = [Details("The rule", (Notes(found.rule),))]
    if len(inside) > _SHOWN:
        blocks.append(Details("All that may be the best", (table_of(inside, "Designs that may be the best"),)))
    if found.excluded:
        out = table_of(_excluded(found, content), "Designs that are not the best")
        blocks.append(Details("Why not the others", (out,)))
    return blocks


def rows_of(found: Recommendation, content: ReportContent) -> list[dict[str, Any]]:
    """The designs with their names as the page writes them, the recommended one first."""
    records = found.designs.to_dict("records")
    return [{**{str(k): v for k, v in row.items()}, "name": design_name(found, row, content.pair)} for row in records]


def _table(found: Recommendation, content: ReportContent) -> pd.DataFrame:
    rows = [row for row in rows_of(found, content) if row["verdict"] != EXCLUDED]
    columns = {"trials": "trials", "counted": f"mean {found.response}"}
    if found.adds_up:
        columns = {"trials": "trials", "counted": f"{found.response}, effects added up", "observed": "its own trials"}
    if found.n_failed:
        columns["failed"] = "failed"
    others = [c for c in found.designs.columns if c in content.scores]
    columns |= {c: c for c in (*others, "parameters")}
    shown = pd.DataFrame({"design": [row["name"] for row in rows]})
    for column, words in columns.items():
        if column in found.designs and any(pd.notna(row[column]) for row in rows):
            shown[words] = [row[column] for row in rows]
    shown["why not this one"] = [
        CHOSEN if row["verdict"] == CHOSEN else str(row["reason"]) or "within noise" for row in rows
    ]
    return shown


def _excluded(found: Recommendation, content: ReportContent) -> pd.DataFrame:
    rows = [row for row in rows_of(found, content) if row["verdict"] == EXCLUDED]
    return pd.DataFrame(
        {
            "design": [row["name"] for row in rows],
            f"mean {found.response}": [row["counted"] for row in rows],
            "why": [row["reason"] for row in rows],
        }
    )


def _why(found: Recommendation, content: ReportContent) -> str:
    """Whether it has the best mean; if not, which design has and why that one is not recommended."""
    rows = rows_of(found, content)
    known = [row for row in rows if pd.notna(row["counted"])]
    if not known or len(rows) < 2:
        return ""
    end = "highest" if found.higher_is_better else "lowest"
    first = (max if found.higher_is_better else min)(known, key=lambda row: row["counted"])
    if first["verdict"] == CHOSEN:
        how = ", with effects added up" if found.adds_up else ""
        return f"No design has a {'higher' if found.higher_is_better else 'lower'} mean{how}."
    told = f"The {end} mean has {first['name']} ({first['counted']:.3f})"
    if first["verdict"] == EXCLUDED:
        return f"{told}, which is not in the set: {first['reason']}."
    return f"{told}, a difference within noise, but {first['reason']}."


def where_of(found: Recommendation) -> str:
    """What the recommendation is for, in words: these tasks, or new ones."""
    if found.error == RESIDUAL:
        return "these tasks"
    return f"new {found.error}s" if found.error.isidentifier() else f"new levels of {found.error}"


def _sets(found: Recommendation) -> list[str]:
    """How many designs may be the best, for new tasks and for these."""
    count = len(found.designs)
    sure = f"{_many(len(found.may_be_best), count)} ({percent(found.level)} confidence)"
    if found.error == RESIDUAL:
        return [f"On these tasks {sure}."]
    here = len(found.on_these_tasks)
    own = "any" if here == count else here
    return [f"On {where_of(found)} like these {sure}, on those that were run {own} of them."]


def _many(inside: int, count: int) -> str:
    if inside == 1:
        return f"it is the best of the {count}"
    return f"{'any' if inside == count else inside} of the {count} may be the best"


def _ahead(found: Recommendation, name: str) -> list[str]:
    """How far the design is ahead of the best other, with Hsu's intervals; a sentence a part."""
    said = []
    for part in found.ahead:
        what = name
        if len(found.ahead) > 1:
            what = f"Of the levels of {' and '.join(part['of'])}, {' → '.join(part['level'].split(':'))}"
        if part["estimate"] is None:
            said.append(f"{what} cannot be compared with another.")
            continue
        side = "ahead of" if part["estimate"] >= 0 else "behind"
        between = "nothing measures how surely"
        if part["lower"] is not None:
            between = (
                f"{percent(round(found.sets[0].level, 3))} simultaneous interval of the lead {part['lower']:+.3f} to "
                f"{part['upper']:+.3f}, standard errors from {found.error}"
            )
        said.append(f"{what} is {side} the best other by {abs(part['estimate']):.3f} in {found.response} ({between}).")
    return said


def _on_these_tasks(found: Recommendation, content: ReportContent) -> list[str]:
    if found.error == RESIDUAL:
        return []
    if set(found.on_these_tasks) == set(found.may_be_best):
        return ["On the tasks that were run the same designs may be the best."]
    here = [row["name"] for row in rows_of(found, content) if row["design"] in found.on_these_tasks]
    more = f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else ""
    return [f"On the tasks that were run these may be the best: {'; '.join(here[:_SHOWN])}{more}."]
