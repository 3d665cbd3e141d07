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
    """Let `fill` write a file; its folder is made if missing, and one of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary(path)
    fill(part)
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the files of a folder; one that a killed run left is replaced."""
    part = _temporary(path)
    part.mkdir(parents=True)
    fill(part)
    for file in part.iterdir():
        _sync(file)
    _sync(part)
    if path.exists():
        old = _temporary(path)
        os.rename(path, old)
        shutil.rmtree(old)
    os.rename(part, path)
    _sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
