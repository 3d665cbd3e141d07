"""The argument that several commands share: a store that is there."""

from __future__ import annotations

from pathlib import Path

from adapters.faults import InputFault
from study.store import Store


def existing(folder: Path) -> Store:
    """Return the store in a folder.

    Raises
    ------
    InputFault
        If the folder is not there or is no store.
    """
    if not (folder / "trials").is_dir():
        raise InputFault(f"{folder} is no store; expected a folder with trials/, such as runs/quick")
    return Store(folder)
