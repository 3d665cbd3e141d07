"""`adapter-study means`: means of levels and of their combinations, of a store, a parquet file or a CSV; no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli.rows import PAIR, columns_of, listed, rows

if TYPE_CHECKING:
    import pandas as pd


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to average.")],
    factors: Annotated[str, typer.Option(help="Columns of the model: A,B. `pair` is input and output.")],
    of: Annotated[str, typer.Option(help="Factors whose means are asked for; of several, A,B, their combinations.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "",
    interactions: Annotated[str, typer.Option(help="none, all (two-way), or a list: A:B,A:C.")] = "none",
    error: Annotated[
        str, typer.Option(help="What standard errors come from: auto, residual, or a block such as task.")
    ] = "auto",
    over: Annotated[
        str, typer.Option(help="What other factors are averaged over: the cells that occur, or all levels.")
    ] = "cells",
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print means, adjusted for blocks, with intervals that hold each on its own.

    A combination that does not occur has no row, and a mean that the rows do not determine has no number. With
    `--over cells` other factors are averaged over the combinations that occur, with `--over levels` over all levels, so
    that means differ by the adjusted effects alone.
    """
    from analysis import marginal_means
    from analysis.compare_tables import records
    from analysis.declared import declared
    from analysis.means import LEVEL
    from analysis.model import name

    frame = rows(results, [response], columns_of(listed(factors, "--factors"), listed(blocks, "--blocks")), where or [])
    model = declared_model(frame, factors, of, blocks, interactions)
    found = marginal_means(frame, response, over=over, error=error, **model)
    plan = declared(model["factors"], model["blocks"], model["interactions"])
    sample = plan.read(frame, response)
    block = plan.error_block(error, sample)
    against = "residual" if block is None else name(block)
    if as_json:
        document = {
            "response": response, "of": model["of"], "over": over, "error": against, "level": LEVEL, "n": sample.n,
            "n_missing": sample.n_missing, "means": records(found),
        }  # fmt: skip
        print(json.dumps(document, indent=1, allow_nan=False))
        print(f"{sample.n} rows, {sample.n_missing} without {response}", file=sys.stderr)
        return
    hold = "these tasks and conditions" if block is None else f"new levels of {against}"
    print_table(
        f"{response}: means of {', '.join(model['of'])}",
        found,
        f"Other factors are averaged over all {over}; {LEVEL:.0%} intervals, each on its own, about {hold}.\n"
        f"{sample.n} rows were used; {sample.n_missing} without a {response} were left out.",
    )


def declared_model(frame: pd.DataFrame, factors: str, of: str, blocks: str, interactions: str) -> dict[str, Any]:
    """Read the options of a model; `pair` is input, output and their interaction unless the rows have such a column.

    Returns
    -------
    dict
        of, factors, blocks, interactions: as the functions of `analysis` take them.
    """
    own, asked = listed(factors, "--factors"), listed(of, "--of")
    crossed: str | list[str] = interactions
    if interactions not in ("none", "all"):
        crossed = listed(interactions, "--interactions")
    if "pair" not in frame and "pair" in (*own, *asked):
        pair = ":".join(PAIR)
        if interactions == "none":
            crossed = [pair]
        elif isinstance(crossed, list) and pair not in crossed:
            crossed = [*crossed, pair]
        own, asked = _spread(own), _spread(asked)
    return {"of": asked, "factors": own, "blocks": listed(blocks, "--blocks"), "interactions": crossed}


def _spread(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(c for name in names for c in (PAIR if name == "pair" else (name,))))


def print_table(title: str, frame: pd.DataFrame, words: str) -> None:
    """Print a frame of numbers and what it means for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    grid = Table(title=title, title_justify="left", box=None)
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fi"
        grid.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for row in frame.to_dict("records"):
        grid.add_row(*(_cell(str(column), value) for column, value in row.items()))
    console.print(grid)
    console.print()
    console.print(words, highlight=False, markup=False)


def _cell(column: str, value: Any) -> str:
    from analysis.anova_table import df_text, p_text

    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if column in ("p", "p_adjusted"):
            return p_text(value)
        return df_text(round(value, 1)) if column in ("df", "df1", "df2") else f"{value:.5g}"
    return str(value)
