"""The answer: the recommended design, how sure that is, and what else may be the best."""

from __future__ import annotations

import pandas as pd

from analysis.report import across
from analysis.report.blocks import Block, Text
from analysis.report.content import ReportContent
from analysis.report.recommendation import (
    code_of,
    design_name,
    details_of,
    evidence_of,
    lead_of,
    rows_of,
    where_of,
)


def lead(content: ReportContent) -> str:
    """The recommendation in a few sentences; empty where there is none."""
    given = content.recommended
    if given is None or not given.named:
        return ""
    if given.across is not None:
        return across.lead(given.across, content)
    assert given.result is not None
    return lead_of(given.result, content, "Recommended")


def facts(content: ReportContent) -> list[tuple[str, str]]:
    """The recommendation in names and values; none where there is none."""
    given = content.recommended
    if given is None:
        return []
    if given.across is not None and given.result is None:
        return [
            (f"recommended on {name}", design_name(own.result, own.result.levels, content.pair))
            for name, own in given.each.items() if own.result is not None
        ]  # fmt: skip
    found = given.result
    if found is None:
        return []
    row = rows_of(found, content)[0]
    mean = "not known" if pd.isna(row["counted"]) else f"{row['counted']:.3f}"
    return [
        (f"recommended on each {content.across}" if given.across is not None else "recommended", row["name"]),
        (f"its mean {found.response}", mean),
        (f"may be the best on {where_of(found)}", f"{len(found.may_be_best)} of {len(found.designs)}"),
    ]  # fmt: skip


def recommended(content: ReportContent) -> list[Block]:
    """The recommended design: what is asked, how sure the answer is, the rule, what else may be the best, the code."""
    given = content.recommended
    if given is None:
        return []
    if not given.named:
        return [Text(f"Nothing can be recommended: {given.fault}", "warning")]
    if given.across is not None:
        return across.blocks(given, given.across, content)
    assert given.result is not None
    return [*evidence_of(given.result, content), *code_of(given), *details_of(given.result, content)]
