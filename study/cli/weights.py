"""`adapter-study weights`: TLoRA's claim on what full tuning changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.attention import check_output
from study.cli.means import print_table
from study.cli.shared import StudyFile
from study.cli.told import warn
from study.study import Study


def command(
    study: StudyFile,
    trial: Annotated[str | None, typer.Option(help="The trial whose id begins so.")] = None,
    best: Annotated[
        int | None, typer.Option(min=1, help="So many of the best trials of full tuning whose weights are kept.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The curves as a figure: .png.")] = None,
    targets: Annotated[str, typer.Option(help="Which matrices: attention, ff, or attention+ff.")] = "attention",
    transforms: Annotated[str, typer.Option(help="Ring ranks of the transforms, joined by commas.")] = "1,2",
    seed: Annotated[int, typer.Option(min=0, help="Of the random changes and of the starts of fits.")] = 0,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit TLoRA's transform, LoRA, KronA and TLoRA to what full tuning changed, matrix by matrix.

    Every fit is repeated on a random change with the same singular values. A table of comparisons with intervals over
    the tasks of each design, or over matrices where there is one; the figure has errors against ranks and parameters.
    Trials are taken from their kept weights; under a minute of CPU a trial for micro-unet.
    """
    if (trial is None) == (best is None):
        raise InputFault("give either --trial ID or --best N")
    ranks = _ranks(transforms)
    if output is not None:
        check_output(output)
    from study.weights import weights

    loaded = Study.load(study, store)
    found = weights(loaded, trial, best, targets, ranks, seed, lambda words: print(words, file=sys.stderr))
    if best is not None and found.trials < best:
        warn(f"{found.trials} trials of full tuning have kept weights, fewer than {best}")
    if output is not None:
        write_file(output, lambda part: found.plot().savefig(part, format="png"))
        print(output, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        print_table("weights", found.to_frame(), found.explain())


def _ranks(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputFault(f"--transforms {text!r}: expected ring ranks of at least 1 joined by commas, such as 1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))
