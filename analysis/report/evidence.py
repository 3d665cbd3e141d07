"""The sections of a report that show statistics: each function returns the blocks of one section, or none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from analysis import figures
from analysis.anova_table import AnovaTable, TermRow, p_text
from analysis.importance_result import Importance
from analysis.plain import p_is
from analysis.report.analyses import Analyses, Attempt, Interaction
from analysis.report.blocks import Block, Details, Notes, Picture, Row, Side, Table, Text, number, table_of
from analysis.report.content import ReportContent
from analysis.report.drawings import both_ends, drawn, interaction
from analysis.report.findings import Findings
from analysis.report.words import design_names, may_be_best
from analysis.result import Result

ALPHA = 0.05
_SHORT = 8


def missing(what: str, attempt: Attempt) -> list[Block]:
    """The sentence that stands where a result would."""
    return [Text(f"There is no {what}: {attempt.fault}", "warning")]


def explained(result: Result, summary: str = "In words", skip: int = 0) -> Details:
    """A result's own sentences, folded up."""
    return Details(summary, (Notes(tuple(result.explain().splitlines()[skip:])),))


def variance_table(content: ReportContent, findings: Findings) -> list[Block]:
    """The analysis of variance: what it asks, its plain reading, the table."""
    table = findings.table
    if table is None:
        return [Text(f"There is no analysis of variance: {findings.fault}", "warning")]
    rows = [_term(row) for row in table.terms]
    left = str(table.residual["df"]), f"{table.residual['sum_sq']:.4g}"
    rows.append(Row(("residual", "", *left, *["–"] * 5), "muted"))
    level = f"{table.ci['level']:.0%} interval"
    columns = [("term", False), ("role", False), ("df", True), ("sum of squares", True), ("F", True),
               ("p", True), ("partial η²", True), (level, True), ("partial ω²", True)]  # fmt: skip
    asked = [row for row in table.terms if row.role != "block" and row.F is not None]
    blocks: list[Block] = [
        Text(table.question, "question"),
        Notes(tuple(_reading(row, content.response) for row in asked)),
        Table(f"Analysis of variance of {content.response}", tuple(columns), tuple(rows)),
        Details("How to read the table", (Notes(_notes(table)),)),
    ]
    if any(row.partial_eta_sq is not None for row in asked):
        blocks.append(
            drawn(
                "effect sizes", partial(figures.effects, table), "Effect sizes of all terms with their intervals",
                "Partial η² with its interval. Terms with more degrees of freedom can take up more by chance; compare "
                "ω² in the table.",
            )
        )  # fmt: skip
    return [block for block in blocks if not (isinstance(block, Notes) and not block.items)]


def _term(row: TermRow) -> Row:
    ci = row.partial_eta_sq_ci
    clear = row.p is not None and row.p < ALPHA and row.role != "block"
    cells = (
        row.term, row.role, str(row.df) if row.estimable else f"{row.df} of {row.df_nominal}", f"{row.sum_sq:.4g}",
        "–" if row.F is None else f"{row.F:.2f}", p_text(row.p), _size(row.partial_eta_sq),
        "–" if ci is None else f"{ci[0]:.2f} – {ci[1]:.2f}", _size(row.omega_sq),
    )  # fmt: skip
    return Row(cells, "muted" if row.role == "block" else "clear" if clear else "")


def _size(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _reading(row: TermRow, response: str) -> str:
    """A term's result in plain words."""
    what = {"pair": "The pair", "component": "The component"}.get(row.term, row.term)
    if row.role == "interaction":
        what = f"The effects of {row.term.replace(':', ' and ')}"
        verdict = "do not simply add up" if (row.p or 0) < ALPHA else "may simply add up: no interaction is shown"
    else:
        verdict = f"makes a difference to {response}" if (row.p or 0) < ALPHA else "shows no clear difference"
    size = "" if row.omega_sq is None else f", ω² {row.omega_sq:.2f}"
    return f"{what} {verdict} (p {p_is(row.p)}{size})."


def _notes(table: AnovaTable) -> tuple[str, ...]:
    lost = f", {table.n_missing} without a value left out" if table.n_missing else ""
    said = [f"Type {'I' * table.type} by comparison of models; {table.n} rows{lost}."]
    partly = next((row for row in table.terms if not row.estimable), None)
    if partly is not None:
        said.append(
            f"“{partly.df} of {partly.df_nominal}” are the estimable degrees of freedom of those {partly.term} would "
            "have if every combination existed."
        )
    said.append(f"A negative ω² is shown as 0. Interval of η²: {table.ci['convention']}.")
    return (*said, *(c["words"] for c in table.components), *table.notes)


def importance(content: ReportContent, found: Analyses) -> list[Block]:
    """Which factor explains how much."""
    if found.importance is None:
        return []
    result = found.importance.result
    if result is None:
        return missing("ranking of the factors", found.importance)
    single = all(len(part.factors) < 2 for part in result.components)
    if single:
        return [Text("Within every component only one factor varies, so there is nothing to rank."), explained(result)]
    order = _orders(result)
    frame = result.to_frame()
    shown = frame[["component", "factor", "df", "share", "of_within", "corrected", "omega_sq", "p"]].rename(
        columns={"of_within": "of all within blocks", "corrected": "noise taken off", "omega_sq": "partial ω²"}
    )
    shown["p"] = [p_text(None if pd.isna(p) else p) for p in frame["p"]]
    return [
        Notes(tuple(order)),
        drawn(
            "what matters most", result.plot, "Part of the variation that each factor explains, by component",
            "Shares are those of an additive model (LMG), within a component of levels that can be compared.",
        ),
        Details("The numbers", (table_of(shown, "Shares of the factors"),)),
        explained(result),
    ]  # fmt: skip


def _orders(result: Importance) -> list[str]:
    """The sentences about the order of the factors, with the component that each is about, the same one once."""
    found, where = [], ""
    for line in result.explain().splitlines():
        if line.startswith("In "):
            where = line.partition(" (")[0]
        elif " order " in line or " matters more than " in line:
            apart = where and len(result.components) > 1 and "because" not in line
            found.append(f"{where}: {line}" if apart else line)
    return list(dict.fromkeys(found))


def designs(content: ReportContent, findings: Findings) -> list[Block]:
    """Heat map, ranking and numbers of every design."""
    table = findings.designs
    if table.empty:
        return []
    blocks: list[Block] = []
    if content.pair:
        blocks.append(
            drawn(
                "heat map",
                partial(figures.heat_map, table, *content.pair, label=f"mean {content.response}", order=content.order),
                f"Heat map of mean {content.response} by {content.pair[0]} and {content.pair[1]}",
                f"Mean {content.response} of every valid combination, blocks taken out. Blank cells are no "
                "combinations.",
            )
        )
    lines = {}
    if content.references is not None and content.response in content.references:
        means = content.references.groupby(["name", "task"])[content.response].mean().groupby("name").mean()
        lines = {str(k): float(v) for k, v in means.items() if pd.notna(v)}
    shown, said = both_ends(table)
    blocks.append(
        drawn(
            "ranking",
            partial(figures.dot_plot, shown, "label", group=_group(table), axis=f"{content.response}, 95% interval",
                    lines=lines),
            "Ranking of the designs with intervals",
            f"Each interval is on its own, not simultaneous; dashed: references.{said}",
        )
    )  # fmt: skip
    blocks.append(Details("The numbers", (table_of(_design_table(content, table), "Every design, best first"),)))
    return blocks


def _group(designs: pd.DataFrame) -> str | None:
    return "component" if designs["component"].nunique() > 1 else None


def _design_table(content: ReportContent, designs: pd.DataFrame) -> pd.DataFrame:
    shown = designs[["label", "component", "n", "mean", "lower", "upper"]].rename(
        columns={"label": "design", "mean": content.response, "lower": "95% from", "upper": "to"}
    )
    for column in (*content.scores, "parameters", "train_seconds"):
        if column in designs and column != content.response:
            shown[column.replace("_", " ")] = designs[column]
    return shown.loc[:, [c for c in shown if c != "component" or shown[c].nunique() > 1]]


def effects(content: ReportContent, findings: Findings) -> list[Block]:
    """Adjusted means of one factor at a time."""
    if not findings.effects:
        return []
    pictures = [
        drawn(
            f"effect {caption}",
            partial(figures.dot_plot, levels, "label", axis=f"{content.response}, 95% interval", width=4.0),
            f"Adjusted means of {caption}", caption,
        )
        for caption, levels in findings.effects
    ]  # fmt: skip
    said = (
        "Means within a component assume that the effects of the two positions add up; the row of their interaction in "
        "the table says how far that holds."
    )
    return [*([Text(said)] if content.pair else []), Side(tuple(pictures))]


def interactions(content: ReportContent, found: Analyses) -> list[Block]:
    """Whether the effect of one factor depends on another."""
    if found.interactions is None:
        return []
    entries = found.interactions.result
    if entries is None:
        return missing("test of the interactions", found.interactions)
    told = [_reading(entry.row, content.response) for entry in entries if entry.row.F is not None]
    untested = [entry.row.term for entry in entries if entry.row.F is None]
    if untested:
        told.append(f"Cannot be tested with these rows: {', '.join(untested)}.")
    pictures = [_lines(content, entry) for entry in entries if entry.means is not None]
    blocks: list[Block] = [
        Text("Does the effect of one factor depend on another? All pairs of factors in one model."),
        Notes(tuple(told)),
    ]
    return [*blocks, *pictures]


def _lines(content: ReportContent, entry: Interaction) -> Picture:
    assert entry.means is not None
    first, second = entry.factors
    return drawn(
        f"interaction {first} {second}",
        partial(interaction, entry.means, first, second, content.response, content.order),
        f"Means of {content.response} for the combinations of {first} and {second}",
        f"{first} and {second}: parallel lines are effects that add up. Levels that meet only one level of the other "
        "are left out.",
    )


def best(content: ReportContent, found: Analyses) -> list[Block]:
    """The set of designs that may be the best."""
    result = found.best.result
    if result is None:
        return missing("comparison with the best", found.best)
    rows = result.rows[result.rows["lower"].notna()]
    if rows.empty:
        return [Text("No design can be compared with the best.", "warning"), explained(result)]
    rows = rows.sort_values(["component", "estimate"], ascending=[True, False], kind="stable")
    rows = rows.assign(
        label=design_names(result, rows),
        part=["may be the best" if flag else "is not the best" for flag in rows["may_be_best"].astype(bool)],
    )
    shown, said = both_ends(rows)
    blocks: list[Block] = [Text(words)] if (words := may_be_best(result)) else []
    if content.across:
        blocks.append(
            Text(
                f"These comparisons are of effects averaged over the {content.across}s, as if they were the same on "
                "each; the recommendation above compares designs on each by its own trials too.",
                "small",
            )
        )
    elsewhere = found.best_on_new_tasks
    if elsewhere is not None and elsewhere.result is not None:
        there = elsewhere.result.rows[elsewhere.result.rows["lower"].notna()]
        if len(there):
            inside = int(there["may_be_best"].astype(bool).sum())
            blocks.append(
                Text(
                    f"On new tasks, of which these are a sample, {inside} of the {len(there)} may be the best "
                    f"(standard errors from {elsewhere.result.error})."
                )
            )
    blocks.append(
        drawn(
            "may be the best",
            partial(figures.dot_plot, shown, "label", "estimate", "part",
                    f"{content.response}: better than the best other by", {"as good": 0.0}),
            "How much better each design is than the best of the others, with simultaneous intervals",
            f"Hsu's comparisons with the best on these tasks: intervals hold together.{said}",
        )
    )  # fmt: skip
    return [*blocks, explained(result)]


def noise(content: ReportContent, found: Analyses) -> list[Block]:
    """Variance components, and what to buy more of."""
    result = found.variance.result
    if result is None:
        return missing("estimate of the variance components", found.variance)
    lines = result.explain().splitlines()
    said = [line for line in lines if line.startswith("The difference between the means") or "Most is gained" in line]
    parts = pd.DataFrame(
        [(row.component, row.df, row.variance, row.sd, row.lower**0.5 if row.lower == row.lower else row.lower,
          row.upper**0.5 if row.upper == row.upper else row.upper, row.share, row.in_difference)
         for row in result.components],
        columns=["component", "df", "variance", "SD", "SD from", "to", "share", "of a difference"],
    )  # fmt: skip
    parts["variance"] = [number(v) if pd.isna(v) else f"{v:.3g}" for v in parts["variance"]]
    blocks: list[Block] = [Notes(tuple(said))] if said else []
    if result.to_frame()["variance"].notna().any():
        blocks.append(
            drawn(
                "variance components", result.plot,
                "Shares of the variance components, and the standard error of a difference when units are doubled",
                "Left: what one trial's score varies by. Right: the standard error of the difference between two "
                "designs, as run and with twice as many of each.",
            )
        )  # fmt: skip
    if result.designs > 1:
        budget = result.budget().rename(
            columns={"buy": "buy more of", "se": "standard error", "gain": "variance taken off", "se_limit": "limit"}
        )
        forms = {"now": ".3g", "then": ".3g", "standard error": ".3g", "limit": ".3g", "variance taken off": ".0%"}
        for column, form in forms.items():
            budget[column] = ["–" if pd.isna(v) else format(v, form) for v in budget[column]]
        blocks.append(
            table_of(budget, "What doubling each unit gains for a difference between two designs", numeric=set(forms))
        )
    return [*blocks, Details("The components", (table_of(parts, "Variance components"),)), explained(result)]


def scores(content: ReportContent, found: Analyses) -> list[Block]:
    """Whether the other scores say the same, and what scores cannot say."""
    cautions: list[Block] = [Notes(tuple(content.cautions))] if content.cautions else []
    if found.several is None:
        return cautions
    result = found.several.result
    if result is None:
        return [*missing("analysis of the other scores", found.several), *cautions]
    wide = result.terms.pivot(index="term", columns="response", values="p_holm")
    wide = wide.loc[list(dict.fromkeys(result.terms["term"])), list(result.responses)]
    rows = tuple(
        Row((str(term), *(p_text(None if pd.isna(p) else float(p)) for p in values)))
        for term, values in zip(wide.index, wide.to_numpy(), strict=True)
    )
    columns = (("term", False), *((score, True) for score in wide.columns))
    table = Table("p of each term on each score, Holm-adjusted over the scores", columns, rows)
    return [table, explained(result), *cautions]


def assumptions(content: ReportContent, found: Analyses) -> list[Block]:
    """One line: do robust versions agree; the checks behind it."""
    blocks: list[Block] = []
    robust, check = found.robust.result, found.check.result
    if robust is None:
        blocks += missing("robust version", found.robust)
    else:
        blocks.append(Text(_agreement(robust.agreement)))
    if check is None:
        blocks += missing("check of the assumptions", found.check)
    elif check.df:
        blocks.append(
            drawn(
                "residuals", check.plot, "Residuals against fitted values and their normal quantiles",
                "Left: an even band is right. Right: points on the line are right.",
            )
        )  # fmt: skip
    inside: list[Block] = []
    if robust is not None:
        rows = tuple(
            Row((row.term, *(p_text(p) for p in (row.p, row.hc3_p, row.permutation_p, row.ranks_p))))
            for row in robust.terms
        )
        columns = tuple((name, k > 0) for k, name in enumerate(("term", "F", "HC3", "permutation", "aligned ranks")))
        inside += [Table("p of each term by each test", columns, rows), Notes(tuple(robust.explain().splitlines()[1:]))]
    if check is not None:
        inside.append(Notes(tuple(check.explain().splitlines())))
    return [*blocks, Details("The tests", tuple(inside))] if inside else blocks


def _agreement(sentence: str) -> str:
    """The verdict without its numbers, which the table has."""
    head, colon, _ = sentence.partition(": ")
    return f"{head}." if colon else sentence


def failed(content: ReportContent, found: Analyses) -> list[Block]:
    """Failed trials as outcomes."""
    if found.failures is None:
        return []
    result = found.failures.result
    if result is None:
        return missing("analysis of the failures", found.failures)
    lines = result.explain().splitlines()
    verdict: Sequence[str] = [line for line in lines if line.startswith(("Failure ", "Which design is best"))]
    stays = [line for line in lines if "stays the best design" in line]
    rates = result.rates[result.rates["failed"] > 0]
    shown = rates.rename(columns={"lower": "95% from", "upper": "to"})
    table = table_of(shown, "Levels at which trials failed")
    return [
        Notes((*verdict, *stays)),
        table if len(table.rows) <= _SHORT else Details("Levels at which trials failed", (table,)),
        explained(result),
    ]
