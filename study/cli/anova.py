"""`adapter-study anova`: the analysis of variance of a store, a parquet file or a CSV; never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.faults import InputFault

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.anova_table import AnovaTable, TermRow

_MISSING = {"", "na", "nan", "null", "none"}
# A store's columns that make rows incomparable unless they are factors, and the one that holds the protocol.
_SETTINGS = ("role", "backbone_hash", "backbone")
_PROTOCOL = "protocol_json"


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to explain.")],
    factors: Annotated[str, typer.Option(help="Columns whose effect is asked for: A,B. `pair` is input and output.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "",
    interactions: Annotated[str, typer.Option(help="none, all (two-way), or a list: A:B,A:C.")] = "none",
    type: Annotated[int, typer.Option(help="Type of sums of squares: 1, 2 or 3.")] = 2,
    error: Annotated[str, typer.Option(help="What terms are tested against: auto or residual.")] = "auto",
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the analysis of variance of results.

    Every value of a factor or block is a level, numbers and "NA" included. Rows whose response is missing are counted
    and left out. Of a store, the rows of the untuned backbone and of tuning (role reference and tune) are left out, so
    that no --where is needed for them.
    """
    from analysis import anova
    from study.store import read_results

    frame = select(with_protocol(read_results(results)), where or [])
    asked, block_names = _list(factors, "--factors"), _list(blocks, "--blocks")
    pair = ("input", "output") if "pair" in asked and {"input", "output"} <= set(frame) - {"pair"} else None
    check_comparable(frame, [*asked, *(pair or ()), *(c for b in block_names for c in b.split(":"))])
    frame = with_numbers(frame, response)
    crossed = interactions if interactions in ("none", "all") else _list(interactions, "--interactions")
    table = anova(frame, response, asked, block_names, crossed, type, error, pair)
    if as_json:
        print(table.to_json())
        print(f"{table.n} rows, {table.n_missing} without {response}", file=sys.stderr)
    else:
        print_table(table)


def _list(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise InputFault(f"{option} {text!r} has an empty name; expected names joined by commas, such as A,B")
    return parts


def with_protocol(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a column `protocol.KEY` for every key of the protocol in which its rows differ."""
    if _PROTOCOL not in frame.columns or frame[_PROTOCOL].nunique() < 2:
        return frame
    try:
        protocols = {text: json.loads(text) for text in frame[_PROTOCOL].unique()}
    except (TypeError, ValueError) as fault:
        raise InputFault(f"the column {_PROTOCOL} holds something that is not JSON ({fault})") from fault
    keys = sorted({key for protocol in protocols.values() for key in protocol})
    added = {}
    for key in keys:
        texts = {text: json.dumps(protocol.get(key)).strip('"') for text, protocol in protocols.items()}
        if len(set(texts.values())) > 1:
            added[f"protocol.{key}"] = frame[_PROTOCOL].map(texts)
    return frame.assign(**added)


def select(frame: pd.DataFrame, where: list[str]) -> pd.DataFrame:
    """Return the rows that meet every `COLUMN=VALUE[,VALUE…]`.

    Raises
    ------
    InputFault
        If a condition is not of this form, names no column, or leaves no row.
    """
    from analysis.sample import text_of

    for condition in where:
        column, sign, values = condition.partition("=")
        if not sign or not column or not values:
            raise InputFault(f"--where {condition!r}: expected COLUMN=VALUE, such as task=subject/robot")
        if column not in frame.columns:
            raise InputFault(
                f"--where {condition!r}: there is no column {column!r}; there are {', '.join(frame.columns)}"
            )
        texts = frame[column].map(text_of)
        kept = frame[texts.isin([value.strip() for value in values.split(",")])]
        if kept.empty:
            levels = list(dict.fromkeys(texts))
            shown = ", ".join(levels[:12]) + (", …" if len(levels) > 12 else "")
            raise InputFault(f"--where {condition!r}: no row is left; the values of {column} are {shown or 'none'}")
        frame = kept
    return frame


def check_comparable(frame: pd.DataFrame, columns: list[str]) -> None:
    """Raise InputFault if rows differ in role, backbone or protocol within a combination of the columns' levels."""
    present = [c for c in dict.fromkeys(columns) if c in frame.columns]
    if not present or not {"design_json", "role"} <= set(frame.columns):
        return  # not the rows of a store
    varying = [c for c in frame.columns if c in _SETTINGS or c.startswith("protocol.")]
    for column in varying:
        if column in present or column == "role":
            mixed = column == "role" and frame["role"].nunique() > 1 and "role" not in present
        else:
            mixed = bool((frame.groupby(present, dropna=False)[column].nunique() > 1).any())
        if mixed:
            levels = [str(v) for v in dict.fromkeys(frame[column])]
            raise InputFault(
                f"the rows have several values of {column} ({', '.join(levels)}) that --factors does not tell apart; "
                f"choose with --where {column}={levels[0]}"
            )


def with_numbers(frame: pd.DataFrame, response: str) -> pd.DataFrame:
    """Return the frame with a response that was read as text as numbers; empty, NA and nan are missing values."""
    import numpy as np
    import pandas as pd

    if response not in frame.columns or pd.api.types.is_numeric_dtype(frame[response]):
        return frame
    numbers = np.full(len(frame), np.nan)
    for k, value in enumerate(frame[response]):
        if value is None or value is pd.NA or str(value).strip().lower() in _MISSING:
            continue
        try:
            numbers[k] = float(value)
        except (TypeError, ValueError):
            raise InputFault(
                f"the response {response!r} holds text: {str(value)!r} in row {k + 1}; expected numbers, and nothing "
                "or NA where the value is missing"
            ) from None
    return frame.assign(**{response: numbers})


def print_table(table: AnovaTable, console: Console | None = None) -> None:
    """Print a table and what it means for people."""
    from rich.console import Console
    from rich.table import Table

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    grid = Table(
        title=f"{table.response}: analysis of variance, Type {'I' * table.type}", title_justify="left", box=None
    )
    grid.add_column("term")
    for name in (
        "df",
        "sum of squares",
        "mean square",
        "F",
        "p",
        "partial η²",
        f"{table.ci['level']:.0%} interval",
        "ω²",
    ):
        grid.add_column(name, justify="right")
    for row in table.terms:
        grid.add_row(*_cells(row), style="dim" if row.role == "block" else None)
    residual, df = table.residual["sum_sq"], table.residual["df"]
    grid.add_row("residual", str(df), f"{residual:.5g}", f"{residual / df:.5g}" if df else "–", style="dim")
    console.print(grid)
    console.print()
    console.print(table.explain(), highlight=False, markup=False)


def _cells(row: TermRow) -> list[str]:
    from analysis.anova_table import p_text

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    ends = "–" if row.partial_eta_sq_ci is None else "{:.2f} … {:.2f}".format(*row.partial_eta_sq_ci)
    df = str(row.df) if row.estimable else f"{row.df} of {row.df_nominal}"
    return [
        row.term, df, number(row.sum_sq, ".5g"), number(row.mean_sq, ".5g"), number(row.F, ".3f"), p_text(row.p),
        number(row.partial_eta_sq, ".3f"), ends, number(row.omega_sq, ".3f"),
    ]  # fmt: skip
