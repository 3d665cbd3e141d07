"""`adapter-study gc`: delete what interrupted runs left in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.stores import existing


def command(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    adapters: Annotated[bool, typer.Option("--adapters", help="Delete all trained weights too.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="Delete all pictures too; their scores stay.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Delete the checkpoints of trials without a result too.")
    ] = False,
) -> None:
    """Delete what interrupted runs left in a store: files that belong to no row.

    Not to be used while a study runs on the store: what is about to get its row would be deleted.
    """
    asked = {"adapters": adapters, "pictures": pictures, "checkpoints": checkpoints}
    deleted = existing(store).gc([kind for kind, wanted in asked.items() if wanted])
    print("\n".join([*deleted, f"{len(deleted)} deleted"]))
