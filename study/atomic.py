"""Files and folders that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".part"
"""How the name of what is not finished ends."""


def write_file(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a file; its folder is made if missing, and one of that name is replaced.

    An exception leaves no temporary file; a kill may.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary(path)
    try:
        fill(part)
        _sync(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the files of a folder; one that is there is replaced, once the new one is whole.

    An exception leaves the folder as it was and no temporary one; a kill may leave temporary ones.
    """
    part, old = _temporary(path), _temporary(path)
    part.mkdir(parents=True)
    try:
        fill(part)
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        if path.exists():
            os.rename(path, old)
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
