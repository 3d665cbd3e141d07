"""A report's content as a page: which sections there are, in which order, and what is in them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from analysis import figures
from analysis.anova_table import p_text
from analysis.report import confirmed, evidence, recipe, words
from analysis.report.analyses import DRAWS, PERMUTATIONS, Analyses, analyse
from analysis.report.blocks import Block, Code, Details, Heading, Notes, Page, Section, Terms, Text, table_of
from analysis.report.content import ReportContent
from analysis.report.drawings import drawn
from analysis.report.findings import Findings, find, keys
from analysis.report.tuning import CHOSEN, listing

MOST_BYTES = 4_000_000
"""Of pictures of one kind (galleries, maps), so that the page stays below 10 MB."""


def compose(content: ReportContent) -> Page:
    """Analyse a report's content and put the page together.

    What cannot be tested or is not given is said or left out, never invented.
    """
    findings = find(content)
    found = None if findings.designs.empty else analyse(content, keys(content), len(findings.designs))
    lead, more = words.answer(content, findings, found.best.result if found is not None else None)
    top: list[Block] = []
    if said := words.partial(content):
        top.append(Text(said, "warning"))
    top.append(Terms(tuple(_facts(content, findings)), "facts"))
    top.append(Notes(tuple(more)))
    sections = [
        Section("recipe", "The recommended design", tuple(recipe.recommended(content))),
        Section("confirmation", "Confirmed on tasks that nothing used?", tuple(confirmed.confirmation(content))),
        Section("coverage", "What was run", _coverage(content, findings)),
        Section("anova", "What makes a difference", tuple(evidence.variance_table(content, findings))),
        *(_statistics(content, findings, found) if found is not None else ()),
        Section("pictures", "Pictures, best to worst", _galleries(content)),
        Section("maps", "Attention and noise", _maps(content)),
        Section("tuning", "What was tuned first", _tuning(content)),
        Section("failures", "Failures", _failures(content, found)),
        *(_trust(content, found) if found is not None else ()),
        Section("method", "How this was computed", _method(content)),
        Section("provenance", "Where this comes from", _provenance(content)),
        Section("reuse", "How to use this", tuple(Code(s.words, s.language, s.code) for s in content.reuse)),
    ]
    return Page(content.title, lead, tuple(top), tuple(section for section in sections if section.blocks))


def _statistics(content: ReportContent, findings: Findings, found: Analyses) -> list[Section]:
    return [
        Section("importance", "What matters most", tuple(evidence.importance(content, found))),
        Section("designs", "Every design compared", tuple(evidence.designs(content, findings))),
        Section("best", "Which may be the best", tuple(evidence.best(content, found))),
        Section("effects", "One factor at a time", tuple(evidence.effects(content, findings))),
        Section("interactions", "Interactions", tuple(evidence.interactions(content, found))),
        Section("references", "Against the references", _references(findings)),
        Section("noise", "Where the noise comes from, and what to buy more of", tuple(evidence.noise(content, found))),
        Section("cost", "Quality against size", _cost(content, findings)),
        Section("scores", "Do the other scores agree?", tuple(evidence.scores(content, found))),
    ]


def _trust(content: ReportContent, found: Analyses) -> list[Section]:
    return [Section("assumptions", "Do the assumptions hold?", tuple(evidence.assumptions(content, found)))]


def _facts(content: ReportContent, findings: Findings) -> list[tuple[str, str]]:
    counts = content.counts
    done = int(content.frame[content.response].notna().sum())
    facts = recipe.facts(content)
    if not facts and not findings.designs.empty:
        best = findings.designs.iloc[0]
        facts.append((f"best mean {content.response}", f"{best['mean']:.3f}"))
        facts.append(("reached by", str(best["label"])))
    if findings.table is not None:
        row = findings.table["pair"] if content.pair else findings.table[content.factors[0]]
        facts.append((f"p of {row.term}", p_text(row.p)))
    facts.append(("trials with a result", f"{done} of {counts['planned']}" if "planned" in counts else str(done)))
    return facts


def _coverage(content: ReportContent, findings: Findings) -> tuple[Block, ...]:
    """Planned, done, diverged; forbidden combinations; components."""
    said = list(content.design)
    if content.counts:
        said.append(", ".join(f"{n} {state.replace('_', ' ')}" for state, n in content.counts.items()) + ".")
    for reason, count in content.forbidden.items():
        one = "combination of levels is" if count == 1 else "combinations of levels are"
        said.append(f"{count} {one} no design: {reason}.")
    connection = findings.connection
    if connection is not None and connection.split:
        said.append(connection.sentence())
    elif connection is not None:
        said.append(f"All levels of {connection.factors[0]} and {connection.factors[1]} are connected.")
    table = content.coverage if content.coverage is not None else _counted(content)
    shown = table.loc[:, [c for c in table if c in ("factor", "level", "planned", "done") or table[c].any()]]
    shown = shown.rename(columns=lambda name: str(name).replace("_", " "))
    blocks: list[Block] = [Notes(tuple(said))] if said else []
    return (*blocks, Details("Trials by level", (table_of(shown, "Trials of each level"),)))


def _counted(content: ReportContent) -> pd.DataFrame:
    """Trials of each level, and those with a result, counted from the rows that there are."""
    frame = content.frame
    columns = [c for c in dict.fromkeys([*content.factors, "task", "seed"]) if c in frame.columns]
    rows = []
    for column in columns:
        done = frame[content.response].notna().groupby(frame[column].astype(str), sort=False).agg(["size", "sum"])
        rows += [(column, level, int(n), int(k)) for level, n, k in done.itertuples()]
    return pd.DataFrame(rows, columns=["factor", "level", "trials", "done"])


def _references(findings: Findings) -> tuple[Block, ...]:
    if findings.references.empty:
        return ()
    return (
        table_of(findings.references, "The best design beside what needs no adapter"),
        Text(
            "Task by task, every task counting once. “Seed SD” is the pooled standard deviation between seeds of the "
            "same design and task. The leader was chosen among all designs by the same numbers, so its own mean "
            "flatters it a little.",
            "small",
        ),
    )


def _cost(content: ReportContent, findings: Findings) -> tuple[Block, ...]:
    designs = findings.designs
    measures = {c: said for c, said in (("parameters", "trained parameters"), ("train_seconds", "training time, s"))
                if c in designs and designs[c].notna().any()}  # fmt: skip
    if not measures:
        return ()
    escaped = designs.assign(label=designs["label"].str.replace("$", r"\$", regex=False))
    blocks: list[Block] = [
        drawn(
            "cost",
            partial(
                figures.cost, escaped, "mean", "label", measures,
                "component" if designs["component"].nunique() > 1 else None, content.higher_is_better,
                f"mean {content.response}",
            ),
            f"Mean {content.response} against {' and '.join(measures.values())}",
            "Times are those of this run on its machine, not a benchmark." if "train_seconds" in measures else "",
            mathematics=True,
        )
    ]  # fmt: skip
    if front := _front(designs):
        blocks.append(
            Text(
                "On the front of score against size, where no design of at most as many parameters has a better mean: "
                f"{'; '.join(front)}. Differences within the intervals above are noise.",
                "small",
            )
        )
    return tuple(blocks)


def _front(designs: pd.DataFrame) -> list[str]:
    """Designs on the front of score against size, small ones first; none where all are of one size."""
    if "front" not in designs or not designs["parameters"].max() >= 1.2 * designs["parameters"].min():
        return []
    on = designs[designs["front"]].sort_values("parameters")
    return [f"{row['label']} ({row['parameters']:,.0f})" for _, row in on.iterrows()]


def _galleries(content: ReportContent) -> tuple[Block, ...]:
    blocks: list[Block] = []
    left, shown = MOST_BYTES, 0
    for gallery in content.galleries:
        picture = drawn(
            f"pictures {gallery.task}", partial(figures.picture_grid, gallery.rows, gallery.real),
            f"Generated pictures of {gallery.task}, best design first, beside the real ones", photographs=True,
        )  # fmt: skip
        left -= len(picture.data)
        if left < 0:
            break
        blocks += [Heading(gallery.task), picture]
        shown += 1
    if not blocks:
        return ()
    said = "Each column starts from the same noise, with the same prompt: what differs in it is the design."
    if shown < len(content.galleries):
        said += f" {len(content.galleries) - shown} more tasks are left out, so that the page stays small."
    return (Text(said, "small"), *blocks)


def _maps(content: ReportContent) -> tuple[Block, ...]:
    blocks: list[Block] = [Text(content.maps_fault)] if content.maps_fault else []
    left = MOST_BYTES // 2
    for place, given in enumerate(content.maps):
        picture = drawn(f"map {place + 1} {given.heading}", given.draw, given.alt, given.caption)
        left -= len(picture.data)
        if left < 0:
            blocks.append(
                Text(f"{len(content.maps) - place} more are left out, so that the page stays small.", "small")
            )
            break
        blocks += [Heading(given.heading), *([Text(given.said)] if given.said else []), picture]
        if given.table is not None:
            blocks.append(Details("The numbers", (table_of(given.table, given.numbers),)))
        if given.words:
            blocks.append(Details("In words", (Notes(tuple(given.words)),)))
    return tuple(blocks)


def _tuning(content: ReportContent) -> tuple[Block, ...]:
    if content.tuning is None:
        return ()
    table, notes = listing(content.tuning, content.response)
    said = (
        f"Mean {content.response} of every grid point on {', '.join(content.tuning.tasks)}, which the study itself "
        f"does not use; {CHOSEN} marks the point that all designs of the group were then trained with."
    )
    shown = table_of(table, "Means of the grid points")
    return (Text(said), shown, *([Notes(tuple(notes))] if notes else []))


def _failures(content: ReportContent, found: Analyses | None) -> tuple[Block, ...]:
    lost = content.failures if content.failures is not None else pd.DataFrame()
    if lost.empty and not (found is not None and found.failures is not None):
        return (Text("No trial failed or diverged."),)
    blocks: list[Block] = [
        Text(
            "These trials gave no score. They are not in the table above, so a design that fails on hard tasks looks "
            "better than it is."
        )
    ]
    blocks += evidence.failed(content, found) if found is not None else []
    if not lost.empty:
        blocks.append(table_of(lost, "Trials without a score"))
    return tuple(blocks)


def _method(content: ReportContent) -> tuple[Block, ...]:
    of = " and ".join(content.pair) if content.pair else content.factors[0]
    taken = f" Blocks taken out first: {', '.join(content.blocks)}." if content.blocks else ""
    crossed = f" Interactions in the model besides: {', '.join(content.interactions)}." if content.interactions else ""
    said = [
        f"Every trial trains one design on one task with one seed and is scored by {content.response}. Designs are "
        f"compared by {of}; factors in the model: {', '.join(content.factors)}.{crossed}{taken}",
        "Sums of squares are differences of least-squares fits (Type II), so forbidden cells and failed trials need no "
        "special case; degrees of freedom are the estimable ones. Tests are against the residual and hold on these "
        "tasks, where nothing else is said.",
        "What matters most: general dominance (LMG) shares within components"
        f", intervals from {DRAWS} draws of the tasks. Which may be the best: Hsu's multiple comparisons. Noise: "
        "variance components by expected mean squares. Robust versions: HC3, "
        f"{PERMUTATIONS} permutations within blocks, aligned ranks. "
        "The commands at the end of this page give the same with more draws.",
    ]
    return (Details("The method in three paragraphs", tuple(Text(each) for each in said)),)


def _provenance(content: ReportContent) -> tuple[Block, ...]:
    pairs: dict[str, Any] = dict(content.provenance)
    return (Terms(tuple((name, str(value) or "not known") for name, value in pairs.items())),) if pairs else ()
