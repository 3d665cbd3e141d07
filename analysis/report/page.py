"""The report as one HTML page that needs no other file: style and pictures are in it."""

from __future__ import annotations

import base64
import io
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import figures
from analysis.anova_table import AnovaTable, TermRow, p_text
from analysis.report.content import ReportContent
from analysis.report.findings import Findings, find
from analysis.report.tuning import CHOSEN, listing
from analysis.report.words import answer


def render(content: ReportContent) -> str:
    """Return a report as one self-contained HTML page.

    Parameters
    ----------
    content : ReportContent
        All that the page shows. What cannot be tested or is not given is said or left out, never invented.
    """
    findings = find(content)
    environment = Environment(
        loader=PackageLoader("analysis", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        content=content,
        answer=answer(content, findings),
        facts=_facts(content, findings),
        table=_table(findings.table) if findings.table else None,
        fault=findings.fault,
        sentences=_sentences(findings),
        pictures=_pictures(content, findings),
        designs=_frame(_design_table(content, findings.designs)),
        references=_frame(findings.references),
        front=_front(findings.designs),
        failures=_frame(content.failures if content.failures is not None else pd.DataFrame()),
        tuning=_tuning(content),
    )


def _image(figure: Figure) -> dict[str, Any]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return {"data": base64.b64encode(buffer.getvalue()).decode(), "width": round(figure.get_size_inches()[0] * 105)}


def _pictures(content: ReportContent, findings: Findings) -> dict[str, Any]:
    """Every figure of the page; None where there is nothing to draw."""
    drawn: dict[str, Any] = dict.fromkeys(["sizes", "diagnostics", "heat_map", "ranking", "cost"])
    drawn |= {"effects": [], "galleries": []}
    if findings.table is not None:
        drawn["sizes"] = _image(figures.effects(findings.table))
        if findings.table.residual["df"]:
            drawn["diagnostics"] = _image(figures.diagnostics(findings.table))
    designs = findings.designs
    if designs.empty:
        return drawn
    if content.pair:
        image = figures.heat_map(designs, *content.pair, label=f"mean {content.response}", order=content.order)
        drawn["heat_map"] = _image(image)
    lines = {}
    if content.references is not None and content.response in content.references:
        means = content.references.groupby(["name", "task"])[content.response].mean().groupby("name").mean()
        lines = {str(k): float(v) for k, v in means.items() if pd.notna(v)}
    group = "component" if designs["component"].nunique() > 1 else None
    drawn["ranking"] = _image(
        figures.dot_plot(designs, "label", group=group, axis=f"{content.response}, 95% interval", lines=lines)
    )
    for caption, levels in findings.effects:
        plot = figures.dot_plot(levels, "label", axis=f"{content.response}, 95% interval", width=4.0)
        drawn["effects"].append({"caption": caption, **_image(plot)})
    measures = {c: words for c, words in (("parameters", "trained parameters"), ("train_seconds", "training time, s"))
                if c in designs and designs[c].notna().any()}  # fmt: skip
    if measures:
        plot = figures.cost(
            designs, "mean", "label", measures, group, content.higher_is_better, f"mean {content.response}"
        )
        drawn["cost"] = _image(plot)
    for gallery in content.galleries:
        drawn["galleries"].append({"task": gallery.task, **_image(figures.picture_grid(gallery.rows, gallery.real))})
    return drawn


def _facts(content: ReportContent, findings: Findings) -> list[tuple[str, str]]:
    counts = content.counts
    done = int(content.frame[content.response].notna().sum())
    facts = [("trials with a result", f"{done} of {counts['planned']}" if "planned" in counts else str(done))]
    if not findings.designs.empty:
        best = findings.designs.iloc[0]
        facts.append(("best mean " + content.response, f"{best['mean']:.3f}"))
        facts.append(("reached by", str(best["label"])))
    if findings.table is not None:
        row = findings.table["pair"] if content.pair else findings.table[content.factors[0]]
        facts.append((f"p of {row.term}", p_text(row.p)))
    return facts


def _table(table: AnovaTable) -> dict[str, Any]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    def cells(row: TermRow) -> dict[str, Any]:
        ci = row.partial_eta_sq_ci
        return {
            "term": row.term, "role": row.role, "df": str(row.df),
            "of": "" if row.estimable else f"of {row.df_nominal}",
            "sum_sq": number(row.sum_sq, ".4g"), "F": number(row.F, ".2f"), "p": p_text(row.p),
            "eta": number(row.partial_eta_sq, ".3f"), "ci": "–" if ci is None else f"{ci[0]:.2f} – {ci[1]:.2f}",
            "omega": number(row.omega_sq, ".3f"), "differs": row.p is not None and row.p < 0.05,
        }  # fmt: skip

    return {
        "type": "I" * table.type, "n": table.n, "n_missing": table.n_missing, "rows": [cells(r) for r in table.terms],
        "df": table.residual["df"], "sum_sq": f"{table.residual['sum_sq']:.4g}", "level": f"{table.ci['level']:.0%}",
        "convention": table.ci["convention"], "question": table.question,
    }  # fmt: skip


def _sentences(findings: Findings) -> list[str]:
    """What the table's reader must know: the components and the notes, each once."""
    if findings.table is None:
        return []
    return [*(c["words"] for c in findings.table.components), *findings.table.notes]


def _design_table(content: ReportContent, designs: pd.DataFrame) -> pd.DataFrame:
    if designs.empty:
        return designs
    shown = designs[["label", "component", "n", "mean", "lower", "upper"]].rename(
        columns={"label": "design", "mean": content.response, "lower": "95% from", "upper": "to"}
    )
    for column in (*content.scores, "parameters", "train_seconds"):
        if column in designs and column != content.response:
            shown[column] = designs[column]
    return shown.loc[:, [c for c in shown if c != "component" or shown[c].nunique() > 1]]


def _front(designs: pd.DataFrame) -> list[str]:
    """Designs on the front of score against size, small ones first; none where all are of one size."""
    if "front" not in designs or designs["parameters"].max() < 1.2 * designs["parameters"].min():
        return []
    on = designs[designs["front"]].sort_values("parameters")
    return [f"{row['label']} ({row['parameters']:,.0f})" for _, row in on.iterrows()]


def _tuning(content: ReportContent) -> dict[str, Any] | None:
    if content.tuning is None:
        return None
    table, notes = listing(content.tuning, content.response)
    return {"table": _frame(table), "notes": notes, "tasks": ", ".join(content.tuning.tasks), "mark": CHOSEN}


def _frame(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as head and rows of text; numbers to three decimals, whole ones with thousands apart."""

    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None or pd.isna(value):
            return "–"
        if abs(value) >= 1000 or float(value).is_integer():
            return f"{value:,.0f}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"

    return {
        "head": [(str(c), pd.api.types.is_numeric_dtype(frame[c])) for c in frame.columns],
        "rows": [[text(v) for v in row] for row in frame.itertuples(index=False)],
    }
