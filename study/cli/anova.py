"""`adapter-study anova`: the analysis of variance of a store, a parquet file or a CSV; never imports torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.rows import PAIR, columns_of, crossed_of, listed, parents, rows

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.anova_table import AnovaTable


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to explain.")],
    factors: Annotated[str, typer.Option(help="Columns whose effect is asked for: A,B. `pair` is input and output.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "",
    interactions: Annotated[
        str,
        typer.Option(help="auto (each factor's with `backbone`, if that is one), none, all (two-way), or a list: A:B."),
    ] = "auto",
    type: Annotated[int, typer.Option(help="Type of sums of squares: 1, 2 or 3.")] = 2,
    error: Annotated[
        str, typer.Option(help="What terms are tested against: auto, residual, or a block such as task.")
    ] = "auto",
    nested: Annotated[str, typer.Option(help="Factors that exist under another only: CHILD:PARENT,….")] = "",
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

    asked, block_names = listed(factors, "--factors"), listed(blocks, "--blocks")
    within = parents(nested)
    frame = rows(results, [response], columns_of(asked, block_names), where or [])
    pair = PAIR if "pair" in asked and set(PAIR) <= set(frame) - {"pair"} else None
    whole = [column for name in asked for column in (PAIR if pair and name == "pair" else (name,))]
    crossed = crossed_of(interactions, frame, response, [name for name in whole if name not in within])
    table = anova(frame, response, asked, block_names, crossed, type, error, pair, within)
    if as_json:
        print(table.to_json())
        print(f"{table.n} rows, {table.n_missing} without {response}", file=sys.stderr)
    else:
        print_table(table)


def print_table(table: AnovaTable, console: Console | None = None) -> None:
    """Print a table and what it means for people."""
    from rich.console import Console
    from rich.table import Table

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    grid = Table(
        title=f"{table.response}: analysis of variance, Type {'I' * table.type}", title_justify="left", box=None
    )
    shown = table.shown()
    for name in shown:
        grid.add_column(str(name), justify="left" if name == "term" else "right")
    dim = {"residual", *(row.term for row in table.terms if row.role == "block")}
    for row in shown.itertuples(index=False):
        grid.add_row(*row, style="dim" if row.term in dim else None)
    console.print(grid)
    console.print()
    console.print(table.explain(), highlight=False, markup=False)

