"""`adapter-study robust`: whether the ANOVA's assumptions hold, and whether its verdicts depend on them; no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from study.cli.means import print_table
from study.cli.rows import PAIR, columns_of, crossed_of, listed, rows


def command(
    results: Annotated[Path, typer.Argument(help="A store, a parquet file or a CSV.")],
    response: Annotated[str, typer.Option(help="The numeric column to explain.")],
    factors: Annotated[str, typer.Option(help="Columns whose effect is asked for: A,B. `pair` is input and output.")],
    blocks: Annotated[str, typer.Option(help="Columns taken out first: C,D:E.")] = "",
    interactions: Annotated[
        str,
        typer.Option(help="auto (each factor's with `backbone`, if that is one), none, all (two-way), or a list: A:B."),
    ] = "auto",
    permutations: Annotated[int, typer.Option(min=99, help="Of the permutation test.")] = 4999,
    where: Annotated[
        list[str] | None, typer.Option(help="Use only rows with COLUMN=VALUE[,VALUE…]; protocol.KEY=VALUE too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check the assumptions of the analysis of variance, and repeat it by methods that do without them.

    Equal spread (Brown-Forsythe), normal residuals and outliers; F with HC3 variances, Freedman-Lane permutation within
    blocks, aligned ranks where factors are fully crossed; all against the residual, so that they speak of the blocks
    that were run. Where trials failed: whether failures depend on the factors, the comparison on blocks where all
    succeeded, and the analysis in which a failure is as bad as the worst value.
    """
    from analysis.checks import check
    from analysis.failed_trials import failures
    from analysis.robust_tests import robust

    asked, named = listed(factors, "--factors"), listed(blocks, "--blocks")
    asked = [column for name in asked for column in (PAIR if name == "pair" else (name,))]
    frame = rows(results, [response], columns_of(asked, named), where or [])
    crossed = crossed_of(interactions, frame, response, asked)
    checks = check(frame, response, asked, named, crossed)
    found = robust(frame, response, asked, named, crossed, permutations=permutations)
    failed = failures(frame, response, asked, named, crossed) if frame[response].isna().any() else None
    if as_json:
        document = {"checks": checks.to_dict(), "robust": found.to_dict(), "failures": failed and failed.to_dict()}
        print(json.dumps(document, indent=1, allow_nan=False))
        print(f"{found.n} rows, {int(frame[response].isna().sum())} without {response}", file=sys.stderr)
        return
    print_table(f"{response}: assumptions", checks.to_frame(), checks.explain())
    print_table(f"{response}: robust versions", found.to_frame(), found.explain())
    if failed is not None:
        print_table(f"{response}: failures", failed.to_frame(), failed.explain())
