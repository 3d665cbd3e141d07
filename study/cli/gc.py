"""`adapter-study gc`: delete what interrupted runs left in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.stores import existing


def command(store: Annotated[Path, typer.Argument(help="Folder of the store.")]) -> None:
    """Delete what interrupted runs left in a store: files that belong to no row.

    Not to be used while a study runs on the store: what is about to get its row would be deleted.
    """
    deleted = existing(store).gc()
    print("\n".join([*deleted, f"{len(deleted)} deleted"]))
