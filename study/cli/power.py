"""`adapter-study power`: what a study can find before it is run; never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.shared import StudyFile
from study.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.power_result import Power


def command(
    study: StudyFile,
    pilot: Annotated[
        Path | None, typer.Option(help="Earlier results to take variances from: a store, a parquet file or a CSV.")
    ] = None,
    sd: Annotated[float | None, typer.Option(help="SD of the residual, in units of the response.")] = None,
    sd_task: Annotated[float | None, typer.Option(help="SD of a factor's effects from task to task.")] = None,
    difference: Annotated[float | None, typer.Option(help="A difference that is wished to be found.")] = None,
    error: Annotated[str, typer.Option(help="What terms are tested against: auto, residual or task.")] = "auto",
    tasks: Annotated[int | None, typer.Option(help="Number of tasks, instead of the study's own.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds, instead of the study's own.")] = None,
    interactions: Annotated[str, typer.Option(help="none, all (two-way), or a list: A:B,A:C.")] = "none",
    response: Annotated[
        str | None, typer.Option(help="The numeric column of the pilot, instead of the study's primary score.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows of the pilot with COLUMN=VALUE[,VALUE…].")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    power: Annotated[float, typer.Option(help="The power that is asked for.")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what differences a study will find, and how many tasks and seeds a wished one needs.

    Power rests on two variances: of the residual, and of each factor's effects from task to task (only the first with
    --error residual). They come from --pilot, or from --sd and --sd-task; nothing is said without them. What is given
    takes precedence over what the pilot shows.
    """
    from analysis.power_design import power as power_of
    from study.cli.rows import listed
    from study.report import terms

    loaded = Study.load(study)
    factors, _, pair = terms(loaded)
    crossed = interactions if interactions in ("none", "all") else listed(interactions, "--interactions")
    column = response or loaded.config.primary
    found = power_of(
        planned(loaded, factors),
        factors,
        tasks=len(loaded.config.tasks) if tasks is None else tasks,
        seeds=len(loaded.config.seeds) if seeds is None else seeds,
        sd=sd,
        sd_task=sd_task,
        pilot=None if pilot is None else _results(pilot, column, factors, where or []),
        response=column,
        difference=difference,
        error=error,
        alpha=alpha,
        target=power,
        interactions=crossed,
        pair=pair,
    )
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_power(found)


def planned(study: Study, factors: list[str]) -> pd.DataFrame:
    """Return the designs of a study on each of its backbones, a column a factor; `design` tells all of them apart."""
    import pandas as pd

    from study.canonical import canonical_json
    from study.report import DESIGN
    from study.space import text

    rows = [
        {"backbone": source.name, DESIGN: canonical_json(design), **{key: text(value) for key, value in design.items()}}
        for source in study.config.backbones
        for design in study.config.designs_on(source)
    ]
    return pd.DataFrame(rows)[factors]


def _results(pilot: Path, response: str, factors: list[str], where: list[str]) -> pd.DataFrame:
    from study.cli.rows import rows
    from study.report import DESIGN

    told_apart = ["design_json" if name == DESIGN else name for name in factors]
    frame = rows(pilot, [response], [*factors, *told_apart, "task", "seed"], where)
    if DESIGN in factors and DESIGN not in frame and "design_json" in frame:
        frame = frame.assign(**{DESIGN: frame["design_json"]})
    return frame


def print_power(found: Power, console: Console | None = None) -> None:
    """Print what a plan can find, and what it means, for people."""
    from rich.console import Console
    from rich.table import Table

    from analysis.power_result import share

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)
    wished = found.difference is not None
    grid = Table(title=f"smallest detectable differences at power {found.target:.0%}", title_justify="left", box=None)
    grid.add_column("term")
    names = ["df", "error df", "error SD", "f", "two levels", "one against the rest"]
    for name in [*names, *([f"power of {found.difference:g}"] if wished else [])]:
        grid.add_column(name, justify="right")
    for row in found.terms:
        df = str(row.df) if row.df == row.df_nominal else f"{row.df} of {row.df_nominal}"
        cells = [row.term, df, str(row.df_error)]
        cells += [_number(value) for value in (row.error_sd, row.f, row.smallest, row.smallest_one)]
        grid.add_row(*cells, *([share(row.power)] if wished else []))
    console.print(grid)
    console.print()
    console.print(found.explain(), highlight=False, markup=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
