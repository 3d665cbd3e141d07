"""Damaged tables of a store, as a disk that lost or garbled them leaves them: what of them the next run makes anew.

A row that cannot be read is set aside, and its trial is run again; so is the row of a trial whose own table of pictures
or curves cannot be read. Nothing is deleted: what is set aside keeps its name, with an ending, until `gc`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from study.columns import TABLES
from study.tables import Damaged, check_table, files_of

if TYPE_CHECKING:
    from study.store import Store

DAMAGED = ".damaged"
"""How the name of what was set aside ends."""


def set_aside(store: Store, rows: Mapping[Path, str]) -> list[str]:
    """Set aside what is damaged and can be made anew by running its trial again; return a sentence for each.

    What was merged of pictures and curves stays, as only the numbers of single pictures are lost with it.

    Parameters
    ----------
    rows : mapping of Path to str
        The damaged files of rows, and why they are, as `Store.examined` returns them.
    """
    told = []
    for file, reason in rows.items():
        lost = "the trials whose rows it held are" if file.name.startswith("merged-") else "its trial is"
        if _aside(file):
            told.append(f"{file} is damaged ({reason}): set aside as {file.name}{DAMAGED}, and {lost} run again")
    own = {file.name for file in files_of(store.folder / "trials") if not file.name.startswith("merged-")}
    for kind, columns in TABLES.items():
        for file, reason in _damaged(store.folder / kind, columns, own) if kind != "trials" else ():
            # The row first: were this interrupted, the trial would be run again and the table be replaced.
            if _aside(store.folder / "trials" / file.name):
                _aside(file)
                told.append(f"{file} is damaged ({reason}): set aside with its trial's row, and the trial is run again")
    return told


def left_out(file: Path, reason: str) -> str:
    """Say of a damaged table that is met while reading that it is left out, and what to do."""
    if file.parent.name == "trials":
        then = "`adapter-study run` sets it aside and runs again what it held"
    elif (file.parent.parent / "trials" / file.name).exists():
        then = "`adapter-study run` runs its trial again"
    else:
        then = f"rows of trials are not touched, but the {file.parent.name} in it are lost unless there is a copy of it"
    return f"{file} is damaged and left out ({reason}): {then}"


def set_aside_before(store: Store) -> list[Path]:
    """Return what was set aside so far."""
    return sorted(file for kind in TABLES for file in (store.folder / kind).glob(f"*{DAMAGED}"))


def _damaged(folder: Path, columns: Mapping[str, str], names: Collection[str]) -> list[tuple[Path, str]]:
    """Return those of some files that are damaged, and why."""
    found = []
    for file in files_of(folder):
        if file.name not in names:
            continue
        try:
            check_table(file, columns)
        except Damaged as fault:
            found.append((file, str(fault)))
        except FileNotFoundError:  # merged since by `compact`
            continue
    return found


def _aside(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # there is none, or another driver was quicker
        os.rename(file, file.with_name(file.name + DAMAGED))
        return True
    return False
