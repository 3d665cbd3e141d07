"""`adapter-study train`: train a recipe on a task, such as a folder of pictures, and keep the adapter."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.faults import InputFault
from study import recipe as recipes
from study.backbones.names import fetch, resolve
from study.cli.shared import GradientCheckpointing, Offload, RecipeFile
from study.cli.told import warn
from study.progress import Steps, duration
from study.saving import Saving
from study.tasks.specs import resolve_task, unknown_class
from study.tasks.subject_spec import TOKEN
from study.yaml_lines import parse_yaml


def command(
    recipe: RecipeFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The adapter folder to write.")],
    pictures: Annotated[Path | None, typer.Option(help="Learn a subject: a folder of a few pictures of it.")] = None,
    class_word: Annotated[str | None, typer.Option("--class", help="The word for what they show, such as dog.")] = None,
    token: Annotated[str | None, typer.Option(help=f"The rare word that comes to mean it, otherwise {TOKEN}.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Learn a task as a study file has it: domain/neon, '{kind: domain, pictures: DIR}'."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another adapter.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(help="A built-in name, a folder or a hub id, instead of the recipe's.")
    ] = None,
    gradient_checkpointing: GradientCheckpointing = False,
    offload: Offload = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that is there.")] = False,
) -> None:
    """Train a recipe on a subject (--pictures and --class) or a task of any kind (--task), and keep the adapter.

    What a task holds out to be scored by is not trained on. The adapter is written when it is whole; an interrupted or
    failed training writes nothing. Exit code 1 if the training diverged.
    """
    Saving(gradient_checkpointing, offload).to_environment()
    _free(output, overwrite)
    read = recipes.read(recipes.find(recipe), None if backbone is None else resolve(backbone))
    spec = resolve_task(_declared(pictures, class_word, token, task), Path.cwd())
    fetch(read.backbone)
    for warning in unknown_class(read.backbone, spec):
        warn(warning)
    with Steps(read.protocol.steps) as bar:
        from study.packing import is_out_of_memory
        from study.trained_adapter import train_adapter

        try:
            trained = train_adapter(read, spec, seed, bar.stage, bar.step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print(
                "adapter-study: the memory did not suffice; nothing was written. Lower `batch` in the recipe's "
                "protocol, or choose `precision: bf16`.",
                file=sys.stderr,
            )
            raise typer.Exit(1) from None
    if trained.training.diverged:
        print(
            f"adapter-study: the training diverged: {trained.training.diverged}; nothing was written. "
            f"Try a learning_rate below {read.protocol.learning_rate:g}.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    trained.save(_free(output, overwrite))  # looked at again: a training takes long
    count, training = trained.count, trained.training
    if not count.budget_met:
        warn(f"the budget of {count.budget_asked:,} parameters is missed by more than 3 %, and no size comes closer")
    print(
        f"trained {count.trainable:,} parameters ({count.ratio:.2%} of {read.backbone.name}) in "
        f"{duration(training.seconds)}; final loss {training.final_loss:.4f}"
    )
    follow = " --map map.png" if trained.encoder is not None else ""
    print(f"adapter-study generate {shlex.quote(str(output))} --prompt {shlex.quote(spec.example)}{follow} -o out.png")


def _declared(
    pictures: Path | None, class_word: str | None, token: str | None, task: str | None
) -> str | dict[str, Any]:
    """Return the task as a study file would declare it; one without a name is called as its folder of pictures.

    Raises
    ------
    InputFault
        If neither or both of a subject and a task are given, or the task is not YAML.
    """
    if (pictures is None) == (task is None):
        given = "neither --pictures nor --task" if task is None else "both --pictures and --task"
        raise InputFault(
            f"got {given}: give a subject as --pictures DIR --class WORD, or a task of any kind as a study file has "
            "it, such as --task domain/neon or --task '{kind: domain, pictures: DIR}'"
        )
    if pictures is not None:
        if class_word is None:
            raise InputFault("--class is missing: give the word for what the pictures show, such as --class dog")
        folder = pictures.expanduser().absolute()
        token = TOKEN if token is None else token
        declared = {"kind": "subject", "pictures": str(folder), "class": class_word, "token": token}
        return {**declared, "name": folder.name or "subject"}
    if class_word is not None or token is not None:
        raise InputFault(
            "--class and --token go with --pictures; of a task they are keys: --task '{pictures: DIR, class: dog}'"
        )
    declared, lines = parse_yaml(task or "", "--task")
    if lines.repeated:
        raise InputFault(f"--task: {lines.repeated[0][0][-1]} is there twice")
    if isinstance(declared, dict) and isinstance(declared.get("pictures"), str):
        name = Path(declared["pictures"]).expanduser().absolute().name.replace("@", "-")  # what follows @ is a size
        return {"name": name or "pictures", **declared}
    return declared


def _free(output: Path, overwrite: bool) -> Path:
    """Return the folder an adapter may be written to; with `overwrite` it may hold an adapter, but nothing else.

    Raises
    ------
    InputFault
        If something else is there, or the folder cannot be made.
    """
    folder = output.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise InputFault(f"-o {output}: is a file; name a folder for the adapter")
    if not (folder.parent.is_dir() and os.access(folder.parent, os.W_OK | os.X_OK)):
        raise InputFault(f"-o {output}: {folder.parent} is no folder that can be written to; make it, or name another")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held and not overwrite:
        raise InputFault(
            f"-o {output}: the folder holds {_some(held)}; name a new folder, or give --overwrite to replace an adapter"
        )
    if held:
        from study.control_encoder import PARTS

        if others := [name for name in held if name not in PARTS]:
            raise InputFault(
                f"-o {output}: the folder holds {_some(others)}, no part of an adapter; --overwrite replaces adapter "
                "folders only, so name another folder"
            )
    return folder


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
