"""`adapter-study variance`: how much of a score is design, task, seed, prompt and picture; never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.rows import columns_of, listed, parents, rows

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.variance_result import VarianceResult

_TRIALS = "task,task:seed"


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to explain.")],
    factors: Annotated[str, typer.Option(help="Columns whose combinations are the designs: A,B.")],
    blocks: Annotated[
        str, typer.Option(help=f"What was drawn at random, the coarsest first: C,C:D. Of trials: {_TRIALS}.")
    ] = "",
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Analyse the pictures of a store's trials, a row each.")
    ] = False,
    nested: Annotated[str, typer.Option(help="Factors that exist under another only: CHILD:PARENT,….")] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the variance components of results, and what more tasks, seeds or pictures would gain.

    With --pictures, rows are the pictures that a store's trials were scored by, with the columns prompt and picture
    beside the trial's; prompts and pictures are then blocks of their own, and the noise of scoring is told apart.
    """
    from analysis.variance import PICTURE_BLOCKS, variance_components

    asked = listed(factors, "--factors")
    drawn = listed(blocks or (",".join(PICTURE_BLOCKS) if pictures else _TRIALS), "--blocks")
    frame = rows(results, [response], columns_of(asked, drawn), where or [])
    if pictures:
        frame = _of_pictures(results, frame, response)
    result = variance_components(frame, response, asked, drawn, nested=parents(nested))
    if as_json:
        print(json.dumps(result.to_dict(), indent=1, allow_nan=False))
        print(f"{result.n} rows, {result.n_missing} without {response}", file=sys.stderr)
    else:
        print_result(result)


def _of_pictures(results: Path, trials: pd.DataFrame, response: str) -> pd.DataFrame:
    from adapters.faults import InputFault
    from analysis.variance import with_pictures
    from study.store import Store

    if not results.is_dir():
        raise InputFault(
            f"{results}: --pictures needs a store, which keeps a row a picture. Of a file that holds pictures itself, "
            "name their columns with --blocks."
        )
    return with_pictures(trials, Store(results).images(), response)


def print_result(result: VarianceResult, console: Console | None = None) -> None:
    """Print the components and what they mean for people."""
    from rich.console import Console
    from rich.table import Table

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    grid = Table(title=f"{result.response}: variance components", title_justify="left", box=None)
    grid.add_column("component")
    for name in ("df", "variance", f"{result.level:.0%} interval", "REML", "SD", "share", "of a difference"):
        grid.add_column(name, justify="right")
    for row in result.components:
        grid.add_row(
            row.component, str(row.df), _number(row.variance, ".4g"),
            "–" if row.lower != row.lower else f"{row.lower:.3g} … {row.upper:.3g}", _number(row.reml, ".4g"),
            _number(row.sd, ".3g"), _number(row.share, ".1%"), _number(row.in_difference, ".1%"),
            style="dim" if row.role == "shared" else None,
        )  # fmt: skip
    console.print(grid)
    console.print()
    console.print(result.explain(), highlight=False, markup=False)


def _number(value: float, form: str) -> str:
    return "–" if value != value else format(value, form)
