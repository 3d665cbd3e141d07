"""What became of a recipe on tasks that nothing used, beside what its study saw of it."""

from __future__ import annotations

from functools import partial

import pandas as pd

from analysis.confirmation_result import SHRINKS, Confirmation
from analysis.plain import p_is
from analysis.report.blocks import Block, Code, Details, Notes, Terms, Text, table_of
from analysis.report.content import Confirmed, ReportContent
from analysis.report.drawings import drawn


def confirmation(content: ReportContent) -> list[Block]:
    """What became of a recipe on tasks that nothing used."""
    given = content.confirmed
    if given is None:
        return []
    found = given.result
    notes = [Notes(tuple(given.notes))] if given.notes else []
    blocks: list[Block] = []
    if found is None:
        blocks += [Text(given.fault, "warning" if given.recipe else ""), *notes]
    else:
        blocks += [*_compared(found, given), *notes]
    if given.evidence:
        said = Terms(tuple((key, value) for key, value in given.evidence.items()))
        about = Text(f"Of the recipe's design where it was chosen: {SHRINKS}.", "small")
        blocks.append(Details("What the recipe's file says of itself", (about, said)))
    if given.code is not None:
        blocks.append(Code(given.code.words, given.code.language, given.code.code))
    return blocks


def verdict(content: ReportContent) -> list[str]:
    """A confirmation in a sentence or two; none where there is none."""
    found = content.confirmed.result if content.confirmed else None
    if found is None:
        return []
    tasks = f"{len(found.tasks)} task{'s' * (len(found.tasks) != 1)}"
    return [f"On {tasks} that nothing used: {line}" for line in _noninferior(found)]


def _compared(found: Confirmation, given: Confirmed) -> list[Block]:
    frame = found.to_frame()
    shown = pd.DataFrame({"against": frame["against"]})
    if given.parameters:
        shown["parameters"] = frame["against"].map(given.parameters)
    shown["mean"] = frame["mean"]
    shown["difference"] = [_signed(value) for value in frame["difference"]]
    shown[f"{found.level:.0%} from"] = [_signed(value) for value in frame["lower"]]
    shown["to"] = [_signed(value) for value in frame["upper"]]
    shown["p (Holm)"] = [p_is(value).removeprefix("= ") for value in frame["p_adjusted"]]
    shown["better on"] = [f"{better} of {tasks}" for better, tasks in zip(frame["better"], frame["tasks"], strict=True)]
    if "difference_earlier" in frame and frame["difference_earlier"].notna().any():
        shown["difference in the study"] = [_signed(value) for value in frame["difference_earlier"]]
    numbers = {str(column) for column in shown if column != "against"}
    caption = f"{found.response}: {found.chosen} less each other, paired by task"
    blocks: list[Block] = [
        Notes(tuple(_noninferior(found))),
        table_of(shown, caption, numeric=numbers),
    ]
    if found.earlier is not None:
        blocks.append(
            Text(
                f"In the study the design had a mean {found.response} of {found.earlier.mean:.3f} on its own tasks, "
                f"here {found.mean:.3f}. The first was {SHRINKS}; the tasks differ too.",
            )
        )
    if frame["difference"].notna().any():
        blocks.append(
            drawn(
                "confirmation", partial(found.plot), f"Differences in {found.response} to each other method",
                "Above 0 the recipe is better. Every interval is on its own.",
            )
        )  # fmt: skip
    return [*blocks, Details("In words", (Notes(tuple(found.explain().splitlines())),))]


def _noninferior(found: Confirmation) -> list[str]:
    """The sentences of a confirmation that are about non-inferiority, or why nothing is tested."""
    lines = found.explain().splitlines()
    told = [line for line in lines if "non-inferior" in line or line.startswith("Non-inferiority")]
    untested = [line for line in lines[1:2] if not found.tested]
    return [*untested, *told] or lines[:1]


def _signed(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.3f}"
