"""`adapter-study noise-difference`: what the subject's word changes in the predicted noise, as numbers and a figure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.means import print_table
from study.cli.shared import StudyFile
from study.cli.told import warn
from study.noise_reading import reading
from study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def command(
    study: StudyFile,
    trial: Annotated[str | None, typer.Option(help="The trial whose id begins so.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="So many of the best trials whose weights are kept.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The figure to write: .png.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Class pictures; the score takes 8.")] = 8,
    error: Annotated[
        str, typer.Option(help="What the answer's interval comes from: auto, residual, or a block such as task.")
    ] = "auto",
    ratio: Annotated[bool, typer.Option("--ratio", help="Answer with a ratio of geometric means.")] = False,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Map what the subject's word changes in the predicted noise.

    Pictures of the class are noised, and the noise is predicted with "a photo of a [V] robot" and "a photo of a
    robot". The size is the L2 norm of the difference over that of the prediction with the second text. Trials are
    taken from their kept weights.

    Where every trial that is done is among them, or without --trial and --best where the store has the score
    noise_difference, it says whether the size is larger for designs that read CA_c or CA_out.
    """
    if trial is not None and best is not None:
        raise InputFault("give --trial or --best, not both")
    if output is not None:
        _check_output(output)
    loaded = Study.load(study, store)
    if trial is None and best is None:
        _answer_from_store(loaded, error, ratio, output, as_json)
    else:
        _maps(loaded, trial, best, pictures, error, ratio, output, as_json)


def _maps(
    study: Study, trial: str | None, best: int | None, pictures: int, error: str, ratio: bool, output: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    from study.noise_difference import UNTUNED, noise_difference

    found = noise_difference(study, trial, best, pictures, error, ratio)
    tuned = sum(one["design"] != UNTUNED for one in found.trials)
    if best is not None and tuned < best:
        warn(f"{tuned} trials have kept weights, fewer than {best}")
    _write(found.plot(), output)
    if as_json:
        _print_json(found.to_dict())
        return
    print_table("noise difference", found.shown(), found.explain())
    if output is not None:
        print(output)


def _answer_from_store(study: Study, error: str, ratio: bool, output: Path | None, as_json: bool) -> None:
    frame = study.results()
    if "noise_difference" not in frame or frame["noise_difference"].isna().all():
        raise InputFault(
            f"no trial of {study.config.name} in {study.store.folder} has the score noise_difference; give --trial or "
            "--best to take it from kept weights, or list it under `scores:` before the study is run"
        )
    answer = reading(study, frame, error, ratio)
    if answer is None:
        raise InputFault(
            f"the results of {study.config.name} do not say whether reading CA_c or CA_out matters: some trials have "
            "no noise_difference yet, or no two designs differ in that; give --trial or --best for maps"
        )
    _write(answer.plot(), output)
    if as_json:
        _print_json({"trials": [], "answer": answer.to_dict()})
        return
    print_table("noise difference", answer.to_frame(), answer.explain())
    if output is not None:
        print(output)


def _check_output(output: Path) -> None:
    """Raise InputFault unless a figure can be written there."""
    parent = output.absolute().parent
    if output.suffix.lower() != ".png":
        raise InputFault(f"-o {output}: got the suffix {output.suffix!r}, expected .png")
    if output.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise InputFault(f"-o {output}: expected a file in a folder that is there and can be written to")


def _write(figure: Figure, output: Path | None) -> None:
    if output is not None:
        write_file(output, lambda part: figure.savefig(part, format="png"))


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=1, allow_nan=False)
    print()
