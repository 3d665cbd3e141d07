"""`adapter-study sensitivity`: how much methods depend on their hyper-parameters; never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.attention import check_output
from study.cli.rows import columns_of, listed, rows
from study.columns import higher_is_better

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.near_best_result import NearBest
    from analysis.sensitivity_result import Sensitivity


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column that hyper-parameters are to change.")],
    settings: Annotated[str, typer.Option(help="Hyper-parameters: A,B. protocol.KEY too, such as learning_rate.")],
    by: Annotated[str, typer.Option(help="Look at each level of this column by itself; '' takes all rows.")] = "method",
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "task,task:seed",
    within: Annotated[
        float | None, typer.Option(help="Settings this close to the best are good; default: the SD between seeds.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Compare every method's share of good settings with this one's, task by task.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A figure: .png; with --against, of shares against distance.")
    ] = None,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Look at the trials of a store's tuning, whose grid is one of settings.")
    ] = False,
    error: Annotated[
        str, typer.Option(help="What omega² is measured against: auto, residual, or a block such as task.")
    ] = "auto",
    lower_is_better: Annotated[
        bool | None,
        typer.Option("--lower-is-better/--higher-is-better", help="Left out, it follows from the score."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap over tasks.")] = 1000,
    evaluator_draws: Annotated[int, typer.Option(help="Draws for the intervals of optuna's importances.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say how sensitive methods are to their hyper-parameters, over the grid of settings that was run.

    For each method: the spread of its settings' means, the share of settings about as good as the best, and the
    importance of each hyper-parameter by the analysis of variance and by optuna's evaluators, with bootstrap intervals
    over tasks. A hyper-parameter that has no value in any row of a method does not exist there. With --against, the
    share of good settings is counted on each task too, and methods are compared by paired t tests over tasks.
    """
    from analysis.sensitivity_fit import sensitivity
    from analysis.settings_near_best import near_best

    if against is not None and not by:
        raise InputFault(f"--against {against} compares methods, so --by must name the column that tells them apart")
    if output is not None:
        check_output(output)
    asked, block_names = listed(settings, "--settings"), listed(blocks, "--blocks")
    told_apart = [*asked, *([by] if by else [])]
    frame = rows(results, [response], columns_of(told_apart, block_names), where or [], tuning)
    alike = [name for name in asked if name.startswith("protocol.") and name not in frame.columns]
    if alike:
        raise InputFault(
            f"--settings {','.join(alike)}: the rows of {results} do not differ in {', '.join(alike)}"
            + ("" if tuning else "; --tuning takes the trials of a store's tuning, where the protocol varies")
        )
    higher = higher_is_better(response) if lower_is_better is None else not lower_is_better
    found = sensitivity(
        frame, response, asked, by or None, block_names, within, draws, seed, higher_is_better=higher,
        evaluator_draws=evaluator_draws, error=error,
    )  # fmt: skip
    compared = None
    if against is not None:
        if found.within is None:
            raise InputFault(
                f"--against {against} counts settings near the best; say how near with --within, in units of "
                f"{response} (no two rows differ in the seed alone, so there is no default)"
            )
        compared = near_best(frame, response, asked, against, found.within, by, higher_is_better=higher)
    if output is not None:
        figure = (compared or found).plot()
        write_file(output, lambda part: figure.savefig(part, format="png"))
        print(output, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        document = found.to_dict() | ({} if compared is None else {"near_best": compared.to_dict()})
        print(json.dumps(document, indent=1, allow_nan=False))
        print(f"{found.n} rows, {found.n_missing} without {response}", file=sys.stderr)
        return
    print_sensitivity(found)
    if compared is not None:
        print_near_best(compared)


def print_sensitivity(found: Sensitivity, console: Console | None = None) -> None:
    """Print the tables and what they mean for people."""
    from rich.console import Console

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    frame = found.to_frame()
    first = found.by or "method"
    spread = [first, "settings", "sd", "sd_lower", "sd_upper", "share_within", "share_lower", "share_upper", "best"]
    _print(console, f"{found.response}: spread over the settings of each method", frame[spread])
    importances = found.importances()
    if len(importances):
        shown = [first, "hyper_parameter", "share", "omega_sq", "ped_anova", "ped_anova_lower", "ped_anova_upper"]
        if importances["fanova"].notna().any():
            shown += ["fanova", "fanova_lower", "fanova_upper"]
        _print(console, "which hyper-parameter matters", importances[shown])
    console.print(found.explain(), highlight=False, markup=False)


def print_near_best(found: NearBest) -> None:
    """Print shares task by task, and what differs."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print()
    rows, near = found.to_frame(), f"within {found.within:.3g}"
    shares = rows[[c for c in rows.columns if not c.startswith("sd")]]
    _print(console, f"{found.response}: share of settings {near} of the best of each task", shares)
    _print(console, "spread over the settings of each task", rows[["method", "sd", "sd_lower", "sd_upper"]])
    _print(console, f"less {found.against}, paired by task", found.contrasts)
    console.print(found.explain(), highlight=False, markup=False)


def _print(console: Console, title: str, frame: pd.DataFrame) -> None:
    from pandas.api.types import is_numeric_dtype
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=None)
    for column in frame.columns:
        grid.add_column(column.replace("_", " "), justify="right" if is_numeric_dtype(frame[column]) else "left")
    for row in frame.itertuples(index=False):
        grid.add_row(*(_cell(value) for value in row))
    console.print(grid)
    console.print()


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
