"""`adapter-study compare`: which levels differ, and which may be the best; of a store, a parquet file or a CSV."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.faults import InputFault
from study.cli.means import declared_model, print_table
from study.cli.rows import columns_of, listed, rows
from study.columns import higher_is_better

if TYPE_CHECKING:
    import pandas as pd

    from analysis.compare_tables import BestSet, ContrastTable, WelchTest

_METHODS = ("tukey", "holm", "dunnett", "best", "games-howell", "welch", "trend")


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to compare.")],
    factors: Annotated[str, typer.Option(help="Columns of the model: A,B. `pair` is input and output.")],
    of: Annotated[str, typer.Option(help="Factors whose levels are compared; of several, A,B, their combinations.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "",
    interactions: Annotated[str, typer.Option(help="none, all (two-way), or a list: A:B,A:C.")] = "none",
    error: Annotated[
        str, typer.Option(help="What standard errors come from: auto, residual, or a block such as task.")
    ] = "auto",
    method: Annotated[
        str, typer.Option(help=f"{', '.join(_METHODS)}. Without it tukey, or dunnett with --reference.")
    ] = "",
    reference: Annotated[
        str, typer.Option(help="Compare all levels with this one (A:B for a combination): dunnett or holm.")
    ] = "",
    lower_is_better: Annotated[
        bool | None,
        typer.Option("--lower-is-better/--higher-is-better", help="With best; left out, it follows from the score."),
    ] = None,
    scale: Annotated[str, typer.Option(help="With trend: levels stand on log2, linear or rank.")] = "log2",
    degree: Annotated[int, typer.Option(help="With trend: the highest degree.")] = 2,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare the levels of a factor, or the combinations of several, with intervals that hold together.

    tukey and holm compare all pairs, dunnett all with --reference; best gives the levels that may be the best (Hsu);
    trend fits polynomials to a numeric factor. All of these are on the chosen error term. games-howell and welch take
    variances as unequal, and ignore blocks, other factors and --error. A difference that the rows do not determine has
    no number.
    """
    frame = rows(results, [response], columns_of(listed(factors, "--factors"), listed(blocks, "--blocks")), where or [])
    model = declared_model(frame, factors, of, blocks, interactions) | {"error": error}
    method = method or ("dunnett" if reference else "tukey")
    if reference and method not in ("dunnett", "holm"):
        raise InputFault(f"--reference goes with --method dunnett or holm, not {method}")
    higher = higher_is_better(response) if lower_is_better is None else not lower_is_better
    found = _compared(frame, response, model, method, reference, higher, scale, degree)
    if as_json:
        print(found.to_json())
        print(f"{found.n} rows, {found.n_missing} without {response}", file=sys.stderr)
    else:
        print_table(f"{response}: {method} of {', '.join(model['of'])}", found.shown(), found.explain())


def _compared(
    frame: pd.DataFrame, response: str, model: dict[str, Any], method: str, reference: str, higher: bool, scale: str,
    degree: int,
) -> ContrastTable | BestSet | WelchTest:  # fmt: skip
    from analysis import compare, oneway, trend_contrasts

    if method in ("tukey", "holm", "dunnett"):
        base = None
        if reference:
            base = reference if len(model["of"]) == 1 else tuple(reference.split(":"))
        return compare.pairwise(frame, response, adjust=method, reference=base, **model)
    if method == "best":
        return compare.best(frame, response, higher_is_better=higher, **model)
    if method == "trend":
        if len(model["of"]) > 1:
            raise InputFault(f"a trend is over the levels of one factor, not of {', '.join(model['of'])}")
        return trend_contrasts.trend(frame, response, scale=scale, degree=degree, **(model | {"of": model["of"][0]}))
    if method == "games-howell":
        return oneway.games_howell(frame, response, model["of"])
    if method == "welch":
        return oneway.welch(frame, response, model["of"])
    raise InputFault(f"--method {method!r}: expected one of {', '.join(_METHODS)}")
