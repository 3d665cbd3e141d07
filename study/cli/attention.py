"""`adapter-study attention`: what trained trials attend to, beside the untuned model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.means import print_table
from study.cli.shared import StudyFile
from study.cli.told import warn
from study.study import Study


def command(
    study: StudyFile,
    trial: Annotated[str | None, typer.Option(help="The trial whose id begins so.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="So many of the best trials whose weights are kept.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The maps as a figure: .png.")] = None,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures that the numbers are over.")] = 24,
    prompt: Annotated[int, typer.Option(min=0, help="Which of the task's prompts the figure shows, from 0.")] = 0,
    by: Annotated[
        Literal["word", "block", "head", "level"],
        typer.Option(
            help="What the figure has maps of: each word; or the class word by block, head or level of noise."
        ),
    ] = "word",
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare the attention maps of trained trials with the untuned model's.

    Trials are taken from their kept weights. The numbers are over noised pictures of the task's subject, the same for
    all: entropy of the class word's map, its overlap with the object where that is known, and how far tuning moved
    them, with intervals over pictures. The figure shows a picture that each model draws, and a map for every word of
    its prompt.
    """
    if (trial is None) == (best is None):
        raise InputFault("give either --trial ID or --best N")
    if output is not None:
        check_output(output)
    from study.attention import attention

    loaded = Study.load(study, store)
    found = attention(loaded, trial, best, pictures, prompt, by, lambda words: print(words, file=sys.stderr))
    if best is not None and len(found.trials) < best:
        warn(f"{len(found.trials)} trials have kept weights, fewer than {best}")
    if output is not None:
        write_file(output, lambda part: found.plot().savefig(part, format="png"))
        print(output, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        print_table("attention", found.shown(), found.explain())


def check_output(output: Path) -> None:
    """Raise InputFault unless a figure can be written there."""
    parent = output.absolute().parent
    if output.suffix.lower() != ".png":
        raise InputFault(f"-o {output}: got the suffix {output.suffix!r}, expected .png")
    if output.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise InputFault(f"-o {output}: expected a file in a folder that is there and can be written to")
