"""The answer of a study on several backbones: one design for all, or one for each, and what each says of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from analysis.compare_tables import percent
from analysis.recommended import EXCLUDED
from analysis.recommended_across import RecommendedAcross
from analysis.report import recommendation
from analysis.report.blocks import Block, Details, Heading, Notes, Text, table_of
from analysis.report.content import Recommended, ReportContent


def lead(found: RecommendedAcross, content: ReportContent) -> str:
    """What is recommended and whether that depends on the backbone, in a few sentences."""
    if found.apart or found.average is None:
        own = [recommendation.lead_of(each, content, f"Recommended on {name}") for name, each in found.each.items()]
        if found.interacting:
            own.insert(0, f"Effects are shown to depend on the {found.across} ({_terms(found.interacting)}).")
        return " ".join(own)
    head = f"Recommended on every {found.across}, by the mean over them"
    tested = tuple(term["term"] for term in found.terms)
    told = f"Whether effects depend on the {found.across} cannot be tested."
    if tested:
        told = (
            f"Effects are not shown to depend on the {found.across} ({_terms(tested)}), which does not show that they "
            "do not."
        )
    return f"{recommendation.lead_of(found.average, content, head, sized=False)} {told}"


def blocks(given: Recommended, found: RecommendedAcross, content: ReportContent) -> list[Block]:
    """The verdict, the backbones side by side, and the evidence of what is recommended."""
    named = partial(recommendation.design_name, next(iter(found.each.values())), pair=content.pair)
    out: list[Block] = [
        Notes(tuple(found.verdict(named))),
        table_of(side_by_side(found, content), f"What each {found.across}'s own trials say"),
    ]
    if found.average is not None and not found.apart:
        out += [Heading(f"On average over the {found.across}s"), *recommendation.evidence_of(found.average, content)]
        out.append(Text(found.average.notes[0], "small"))  # what a trial is here
        for name, own in given.each.items():
            out += [Heading(f"The recipe for {name}"), *recommendation.code_of(own)]
        return [*out, Heading("How it was chosen"), *recommendation.details_of(found.average, content)]
    for name, own in given.each.items():
        if own.result is not None:
            out += [Heading(f"On {name}, by its own trials"), *recommendation.evidence_of(own.result, content)]
            out += [*recommendation.code_of(own), *recommendation.details_of(own.result, content)]
    if found.average is not None:
        inside = (Notes(tuple(found.said_of_average(name) for name in found.each)),)
        out.append(Details(f"What would be recommended by the mean over the {found.across}s", inside))
    return out


def side_by_side(found: RecommendedAcross, content: ReportContent) -> pd.DataFrame:
    """One row a backbone: what its own trials recommend and, where one design is recommended for all, say of that."""
    rows: list[dict[str, Any]] = []
    score = found.response
    for name, own in found.each.items():
        chosen = recommendation.design_name(own, own.levels, content.pair)
        row: dict[str, Any] = {
            found.across: name, "recommended by its own trials": chosen,
            f"mean {score}": own.designs.iloc[0]["counted"], "lead": _leads(own.ahead),
            "may be the best": f"{len(own.may_be_best)} of {len(own.designs)}",
        }  # fmt: skip
        average = found.average_on(name)
        if average is not None and found.average is not None and not found.apart:
            what = recommendation.design_name(found.average, found.average.levels, content.pair)
            excluded = average["verdict"] == EXCLUDED
            row[f"{what}: mean"] = average["counted"]
            row[f"{what}: ahead by"] = _leads(average["leads"])
            row["there"] = f"not the best: {average['reason']}" if excluded else average["verdict"]
        rows.append(row)
    level = percent(round(found.own_level, 6))
    return pd.DataFrame(rows).rename(columns={"lead": f"ahead of the best other ({level} interval)"})


def _leads(parts: Any) -> str:
    """Leads with their intervals, a part each."""
    told = []
    for part in parts:
        what = f"{part['level']} " if len(parts) > 1 else ""
        if part["estimate"] is None:
            told.append(f"{what}not known")
            continue
        between = "" if part["lower"] is None else f" ({part['lower']:+.3f} to {part['upper']:+.3f})"
        told.append(f"{what}{part['estimate']:+.3f}{between}")
    return "; ".join(told)


def _terms(terms: tuple[str, ...]) -> str:
    return ", ".join(" × ".join(term.split(":")) for term in terms)
