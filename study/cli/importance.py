"""`adapter-study importance`: which factor matters most, of a store, a parquet file or a CSV; never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from study.cli.means import declared_model, print_table
from study.cli.rows import columns_of, listed, rows


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to explain.")],
    factors: Annotated[str, typer.Option(help="Factors to compare: A,B. `pair` is input and output.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E. Intervals need task among them.")] = "",
    error: Annotated[
        str, typer.Option(help="What ω² is tested against: auto, residual, or a block such as task.")
    ] = "auto",
    draws: Annotated[int, typer.Option(min=100, help="Draws of tasks for the intervals.")] = 1000,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print how much of what differs each factor explains, within each component of connected levels.

    Shares are general dominance (LMG): a factor's gain in R² averaged over all orders of the factors. Their intervals
    come from drawing tasks with replacement; with fewer than three tasks there are none.
    """
    from analysis.importance_shares import importance

    asked, named = listed(factors, "--factors"), listed(blocks, "--blocks")
    frame = rows(results, [response], columns_of(asked, named), where or [])
    model = declared_model(frame, factors, factors, blocks, "none")
    found = importance(frame, response, model["factors"], model["blocks"], draws=draws, error=error)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        print(f"{found.n} rows, {found.n_missing} without {response}", file=sys.stderr)
    else:
        print_table(f"{response}: what matters most", found.shown(), found.explain())
