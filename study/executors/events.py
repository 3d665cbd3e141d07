"""The events of a worker whose standard output is a file, as `study.worker` describes them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def read_on(file: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Return the events that were added to a file since a position, and the position to go on from.

    Other lines, and one that is not finished, are left out.
    """
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        with file.open("rb") as opened:
            opened.seek(position)
            whole, newline, _ = opened.read().rpartition(b"\n")
        position += len(whole) + len(newline)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    found.append(event)
    return found, position
