"""Files and folders that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
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
    part = temporary(path)
    try:
        fill(part)
        sync(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the files of a folder; one that is there is replaced, once the new one is whole.

    An exception leaves the folder as it was and no temporary one; a kill may leave temporary ones.
    """
    part, old = temporary(path), temporary(path)
    part.mkdir(parents=True)
    try:
        fill(part)
        for file in part.iterdir():
            sync(file)
        sync(part)
        if os.path.lexists(path):
            os.rename(path, old)
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if os.path.lexists(old) and not path.exists():
            os.rename(old, path)
        raise
    finally:
        remove(old)
    sync(path.parent)


def put_new(part: Path, path: Path) -> bool:
    """Give what is finished its name, unless that name is taken; say whether it was free.

    The server of a network file system decides: a hard link, or a folder's rename onto one that is not empty, fails
    there where the name is taken. A file that was refused stays under its temporary name, as a folder does.
    """
    if part.is_dir():
        try:
            os.rename(part, path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
    elif not _link(part, path):
        return False
    sync(path.parent)
    return True


def _link(part: Path, path: Path) -> bool:
    try:
        os.link(part, path)
    except FileExistsError:
        if os.stat(part).st_nlink < 2:  # else the link was made, and only the server's answer to it got lost
            return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():  # a file system without hard links cannot do it in one step
            return False
        os.rename(part, path)
    part.unlink(missing_ok=True)
    return True


def aside(path: Path) -> Path | None:
    """Move what has a name to a temporary one and return that; None if nothing has it."""
    moved = temporary(path)
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return None
    return moved


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; of a link the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def look_anew(folder: Path) -> None:
    """Make a network file system ask its server what is in a folder, instead of what it remembers.

    A change of one's own to the folder ends what the client has remembered of it, missing names included.
    """
    mark = temporary(folder / "look")
    with contextlib.suppress(OSError):
        mark.touch()
        mark.unlink()


def temporary(path: Path) -> Path:
    """Return a name for what is not finished, beside the one it will have."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")


def is_number(text: str) -> bool:
    """Say whether a part of a file's name is a number as a store writes it: `²` and a hundred digits are none."""
    return text.isascii() and text.isdigit() and len(text) < 10


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
