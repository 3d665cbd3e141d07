"""Reads small files that may come from strangers: whole, if they are files of a bounded size, and nothing else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from adapters.faults import InputFault

MOST = 10_000_000
"""Bytes of a small file, unless its reader expects fewer."""


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """Read a file.

    Raises
    ------
    InputFault
        If it is no file (a pipe would never end, a device neither), or has more than `most` bytes.
    OSError
        If it is not there or cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise InputFault(f"{path} is no ordinary file")
        data = opened.read(most + 1)
    if len(data) > most:
        raise InputFault(f"{path} is larger than {most:,} bytes, which is more than such a file has")
    return data


def parse_json(data: bytes) -> Any:
    """Return what a JSON document in UTF-8 says.

    Raises
    ------
    ValueError
        If it is none, is nested too deeply, or holds halves of characters, which no other program reads.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"it holds half a character, {error.object[error.start]!a}") from None
    return value


def read_json(path: Path, most: int = MOST) -> Any:
    """Read a JSON file; raises as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that nobody writes to would be waited for
