"""The report's answer in words, only as strong as the numbers."""

from __future__ import annotations

import pandas as pd

from analysis.anova_table import AnovaTable, TermRow, df_text, p_text
from analysis.compare_tables import BestSet, percent
from analysis.report import confirmed, recipe
from analysis.report.content import ReportContent
from analysis.report.findings import Findings

_MOST_NAMES = 8


def answer(content: ReportContent, findings: Findings, best: BestSet | None = None) -> tuple[str, list[str]]:
    """Return the answer of a study: a short paragraph, and the sentences that say what stands behind it.

    Parameters
    ----------
    best : BestSet, optional
        Which designs may be the best.
    """
    designs = findings.designs
    if designs.empty:
        if content.frame[content.response].isna().all():
            return f"No trial has a {content.response} yet, so there is nothing to say.", _lost(content)
        return "Designs and blocks cannot be told apart yet: no two designs share one. Run more trials." + (
            f" {findings.fault}" if findings.fault else ""
        ), _lost(content)
    thing = "pair of positions" if content.pair else content.factors[0]
    sure = may_be_best(best) if best is not None else ""
    ends = " ".join(filter(None, [_leaders(content, designs, overlap=not sure), sure]))
    recommended = recipe.lead(content)
    lead = [recommended or ends]
    if findings.table is None:
        lead.append(f"There is no analysis of variance: {findings.fault}")
    else:
        lead.append(_does_it_matter(findings.table, content, thing))
    told = [*confirmed.verdict(content), _extent(content, designs, thing)]
    told += [f"On these tasks, {ends[:1].lower()}{ends[1:]}"] if recommended else []
    told += [*_against_references(content, findings.references)]
    if findings.table is not None:
        told += [*_within(findings.table, content, findings), *_others(findings.table, content)]
        told.append(_scope(content, findings, thing))
    return " ".join(filter(None, lead)), [*told, *_lost(content)]


def partial(content: ReportContent) -> str:
    """A sentence that says that the study is not finished; empty when it is."""
    missing, planned = content.counts.get("missing", 0), content.counts.get("planned", 0)
    if not missing:
        return ""
    return (
        f"This is a partial report: {missing} of {planned} planned trials have not been run yet. What it says holds "
        "for the others and may change."
    )


def may_be_best(best: BestSet) -> str:
    """Which designs may be the best, in a sentence; empty where that cannot be said."""
    rows = best.rows[best.rows["lower"].notna()]
    if rows.empty or best.rows["component"].nunique() > 1:
        return ""
    inside = rows[rows["may_be_best"].astype(bool)].sort_values("estimate", ascending=False, kind="stable")
    sure = f"With {percent(best.level)} confidence"
    if len(inside) == 1:
        return f"{sure} it is the best of the {len(rows)}."
    if len(inside) == len(rows):
        return f"{sure} none of the {len(rows)} can be excluded from being the best."
    outside = rows[~rows["may_be_best"].astype(bool)]
    told = f"{sure} the best is one of {len(inside)} of the {len(rows)}"
    if len(inside) <= _MOST_NAMES:
        return f"{told}: {', '.join(design_names(best, inside))}."
    if len(outside) <= _MOST_NAMES:
        return f"{told}, all but {', '.join(design_names(best, outside))}."
    return f"{told}."


def design_names(best: BestSet, rows: pd.DataFrame) -> list[str]:
    """The levels of some rows of a comparison with the best, as the page names designs."""
    columns = list(best.of) if len(best.of) > 1 and set(best.of) <= set(rows.columns) else ["level"]
    return [" → ".join(map(str, row)) for row in rows[columns].itertuples(index=False)]


def _lost(content: ReportContent) -> list[str]:
    without = ("failed", "diverged", "pruned", "out_of_memory", "missing")
    lost = {k: n for k, n in content.counts.items() if n and k in without}
    if not lost:
        return []
    parts = ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in lost.items())
    return [f"Trials without a result ({parts}) are not in these numbers."]


def _extent(content: ReportContent, designs: pd.DataFrame, thing: str) -> str:
    rows = content.frame[content.frame[content.response].notna()]
    over = []
    for column, one, many in (("task", "task", "tasks"), ("seed", "seed", "seeds")):
        if column in rows.columns:
            count = rows[column].nunique()
            over.append(f"{count} {one if count == 1 else many}")
    where = f" on {content.backbone}" if content.backbone else ""
    things = f"{len(designs)} {thing.replace('pair', 'pairs', 1) if content.pair else 'levels of ' + thing}"
    return f"{len(rows)} trials{where} compared {things}" + (f" over {' and '.join(over)}." if over else ".")


def _tested(row: TermRow) -> str:
    sign = "" if (row.p or 0) < 1e-4 else "= "
    return f"F({row.df}, {row.error.df}) = {row.F:.2f}, p {sign}{p_text(row.p)}"


def _does_it_matter(table: AnovaTable, content: ReportContent, thing: str) -> str:
    row = table["pair"] if content.pair else table[content.factors[0]]
    if row.p is None or row.omega_sq is None:
        return f"Whether the {thing} matters cannot be tested: nothing is left to measure the error with."
    if row.p < 0.05:
        return (
            f"The {thing} makes a difference to {content.response}: {_tested(row)}; it accounts for an estimated "
            f"{row.omega_sq:.0%} of what is neither block nor other factor (partial ω²)."
        )
    things = "pairs of positions" if content.pair else f"levels of {thing}"
    return f"No difference between the {things} in {content.response} can be shown: {_tested(row)}."


def _leaders(content: ReportContent, designs: pd.DataFrame, overlap: bool) -> str:
    best, worst = designs.iloc[0], designs.iloc[-1]
    ahead = "highest" if content.higher_is_better else "lowest"
    text = f"The {ahead} mean has {best['label']} ({best['mean']:.3f}"
    if pd.notna(best["lower"]):
        text += f", 95% interval {best['lower']:.3f} to {best['upper']:.3f}"
    text += f"), the other end {worst['label']} ({worst['mean']:.3f})."
    if overlap and pd.notna(best["lower"]):
        if content.higher_is_better:
            close = int((designs["upper"].iloc[1:] >= best["lower"]).sum())
        else:
            close = int((designs["lower"].iloc[1:] <= best["upper"]).sum())
        if close:
            one = "other has an interval" if close == 1 else "others have intervals"
            text += (
                f" {close} {one} that overlap{'s' if close == 1 else ''} the leader's: the order among them is open."
            )
    return text


def _against_references(content: ReportContent, references: pd.DataFrame) -> list[str]:
    if references.empty:
        return []
    told = []
    for _, row in references[references["score"] == content.response].iterrows():
        gap = abs(row["difference"])
        better = (row["difference"] > 0) == content.higher_is_better
        text = f"The leader is {gap:.3f} {'better' if better else 'worse'} than the {row['reference']}"
        text += f" ({row['reference mean']:.3f})"
        if pd.notna(row["difference / seed SD"]):
            text += f", {abs(row['difference / seed SD']):.1f} seed-to-seed standard deviations"
        told.append(text + ".")
    return told


def _within(table: AnovaTable, content: ReportContent, findings: Findings) -> list[str]:
    if not content.pair:
        return []
    a, b = table[content.pair[0]], table[content.pair[1]]
    if a.p is None or b.p is None or a.omega_sq is None or b.omega_sq is None:
        return []
    split = findings.connection is not None and findings.connection.split
    where = "Within the components that can be compared, where" if split else "Where"

    def verdict(row: TermRow) -> str:
        return (
            f"{'makes a difference' if (row.p or 0) < 0.05 else 'shows none'} ({_tested(row)}, ω² {row.omega_sq:.2f})"
        )

    return [f"{where} an adapter reads ({a.term}) {verdict(a)}; where it writes ({b.term}) {verdict(b)}."]


def _others(table: AnovaTable, content: ReportContent) -> list[str]:
    """What the factors do that are not what is compared first."""
    first = content.pair or content.factors[:1]
    rows = [
        row for row in table.terms if row.role == "factor" and row.term in content.factors and row.term not in first
    ]
    clear = [row for row in rows if row.p is not None and row.p < 0.05]
    open_ = [row.term for row in rows if row.p is not None and row.p >= 0.05]
    told = []
    if clear:
        shown = ", ".join(f"{row.term} ({_tested(row)}, ω² {row.omega_sq or 0:.2f})" for row in clear)
        told.append(f"Of the other factors, {shown} {'makes' if len(clear) == 1 else 'make'} a difference.")
    if open_:
        told.append(f"No difference can be shown between levels of {', '.join(open_)}.")
    return told


def _scope(content: ReportContent, findings: Findings, thing: str) -> str:
    frame, row = content.frame, findings.on_new_tasks
    tasks = frame["task"].nunique() if "task" in frame.columns else 1
    on = f"these {tasks} tasks" if tasks > 1 else "the one task that was run"
    told = f"Means and tests here hold on {on}; where nothing else is said they are no claim about new tasks."
    if row is None or row.F is None:
        return told
    p = row.p_decisive
    bound = ", the lower bound that so few tasks allow" if row.p_conservative is not None else ""
    told += f" For new ones the {thing} is tested against its interaction with task: F({row.df}, "
    told += f"{df_text(row.error.df)}) = {row.F:.2f}, p {'' if (p or 0) < 1e-4 else '= '}{p_text(p)}{bound}"
    return told + ("." if (p or 0) < 0.05 else ", which shows no difference.")
