"""`adapter-study compact`: merge a store's many small files into few."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.stores import existing


def command(store: Annotated[Path, typer.Argument(help="Folder of the store.")]) -> None:
    """Merge a store's many small files into few.

    May run while a study runs. A kill in the middle loses and doubles nothing.
    """
    print(f"{existing(store).compact()} files merged")
