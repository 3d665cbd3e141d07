"""An analysis of variance as a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.anova_table import p_text

if TYPE_CHECKING:
    from analysis.anova_table import AnovaTable, TermRow

_HEAD = ("term", "df", "sum of squares", "F", "p", "partial eta²", "interval", "partial omega²")


def anova_text(table: AnovaTable) -> str:
    """Return the table, its components and its notes as text for a terminal."""
    rows = [_HEAD, *(_cells(row) for row in table.terms)]
    residual = table.residual
    rows.append(("residual", str(residual["df"]), f"{residual['sum_sq']:.4g}", *[""] * (len(_HEAD) - 3)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(_aligned(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([f"Analysis of variance of {table.response}", *(line.rstrip() for line in lines), "", table.explain()])


def _cells(row: TermRow) -> tuple[str, ...]:
    df = str(row.df) if row.df == row.df_nominal else f"{row.df} of {row.df_nominal}"
    interval = "–" if row.partial_eta_sq_ci is None else "{:.2f} to {:.2f}".format(*row.partial_eta_sq_ci)
    effect = [_number(row.partial_eta_sq, ".3f"), interval, _number(row.omega_sq, ".3f")]
    name = f"{row.term} (block)" if row.role == "block" else row.term
    return (name, df, _number(row.sum_sq, ".4g"), _number(row.F, ".3f"), p_text(row.p), *effect)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
