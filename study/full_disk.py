"""A file system that is full, or a quota that is used up: how it is known, and what is told of it.

Who meets it stops as after a kill: what is half written is removed, no trial is called failed, and the same command
goes on once there is room.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from study.atomic import remove, sync, temporary

CODE = 28
"""Exit code of a worker that found no room."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOLD = re.compile(rf"\(os error ({'|'.join(map(str, _FULL))})\)")  # by safetensors, whose errors have no number
_PROBE = 1_000_000
_PER_TRIAL = ("trials", "images", "curves", "pictures", "adapters")

_Run = TypeVar("_Run", bound=Callable[..., Any])


class FullDisk(RuntimeError):
    """There is no room; the message says where, what takes it and what may go."""


def is_full(error: BaseException | None) -> bool:
    """Say whether an error, or what it comes from, means that a file system is full or a quota used up."""
    while error is not None:
        if isinstance(error, FullDisk) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        if _TOLD.search(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def where(error: BaseException) -> str:
    """Return the path that an error names, as far as it names one."""
    return str(error.filename) if isinstance(error, OSError) and error.filename else ""


def tells_when_full(run: _Run) -> _Run:
    """Have a method of what has a `store` raise FullDisk where there is no room."""

    @functools.wraps(run)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return run(self, *args, **kwargs)
        except Exception as error:
            if isinstance(error, FullDisk) or not is_full(error):
                raise
            raise FullDisk(message(self.store.folder, str(error), where(error))) from error

    return wrapped  # type: ignore[return-value]


def probe(folder: Path) -> None:
    """Write and remove a megabyte, as quotas are not told otherwise.

    Raises
    ------
    OSError
        If there is no room for it.
    """
    part = temporary(folder / "room")
    try:
        part.write_bytes(bytes(_PROBE))
        sync(part)
    finally:
        remove(part)


def message(store: Path, reason: str, path: str = "") -> str:
    """Return the message: which file system is full, what takes room in the store, and what may go.

    Parameters
    ----------
    reason : str
        As the system told it.
    path : str
        What could not be written, if that is known; the store's folder otherwise.
    """
    place = next((each for each in (Path(path), *Path(path).parents) if path and each.exists()), store)
    with contextlib.suppress(OSError):
        if os.stat(place).st_dev == os.stat(store).st_dev:
            place = store
    lines = [f"no room is left: {reason}"]
    with contextlib.suppress(OSError):
        found = os.statvfs(place)
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        quota = "" if free < _PROBE else ", so it may be a quota that is used up"
        lines.append(f"{place} is on the file system at {_mount(place)}: {size(free)} of {size(total)} free{quota}")
    if place == store:
        sizes = folder_sizes(store)
        parts = ", ".join(f"{name} {size(count)}" for name, count in sizes.items() if count)
        lines.append(f"what takes room in {store}: {parts or 'nothing'}")
        if trials := _trials(store):
            each = sum(sizes.get(name, 0) for name in _PER_TRIAL) / trials
            lines.append(f"a trial takes about {size(each)} of it, so each that is left needs as much")
        lines.append(
            f"to make room: `adapter-study gc {store}` deletes what interrupted runs left, with --adapters, --pictures "
            "or --checkpoints these too; `--keep best` or `--keep none`, `--keep-pictures best` or `none` keep less of "
            "the trials to come"
        )
    lines.append("nothing that ended is lost and no trial counts as failed: the same command then goes on")
    return "\n".join(lines)


def folder_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes on the disk of what is in a folder, the largest first."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            found[entry.name] = _taken(Path(entry.path))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def size(count: float) -> str:
    """Return a number of bytes as people say it: 0 B, 3.2 MB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def _taken(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, file)).st_blocks * 512
    return total


def _trials(store: Path) -> int:
    """Return how many rows a store has; 0 if that cannot be told."""
    import pyarrow.parquet as pq

    with contextlib.suppress(Exception):  # there is something worse to tell of
        files = list((store / "trials").glob("*.parquet"))
        merged = [file for file in files if file.name.startswith("merged-")]
        return len(files) - len(merged) + sum(pq.read_metadata(file).num_rows for file in merged)
    return 0


def _mount(path: Path) -> Path:
    path = path.resolve()
    while not os.path.ismount(path):
        path = path.parent
    return path
