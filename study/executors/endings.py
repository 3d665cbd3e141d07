"""How a process ended: its exit code, the end of its log, and whether the machine's memory had run out."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from adapters.faults import printable
from study.progress import duration

_TAIL, _END = 5, 1_000_000
"""Lines of a log that are told, and bytes at its end in which they are looked for."""

_OOM = Path("/proc/vmstat")


def killed_for_memory() -> int | None:
    """Return how many processes Linux has killed for want of memory since the machine was started; None elsewhere."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_OOM.read_text().split("oom_kill ")[1].split()[0])
    return None


def tail(log: Path) -> list[str]:
    """Return the last lines of a log that say something."""
    with contextlib.suppress(OSError):
        return [line.strip() for line in last_lines(log) if line.strip()][-_TAIL:]
    return []


def last_lines(log: Path) -> list[str]:
    """Return the lines at the end of a log, of which there may be gigabytes."""
    with log.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - _END))
        return printable(opened.read(_END).decode("utf-8", errors="replace")).splitlines()


def how_ended(code: int) -> str:
    """Say how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def hung(silence: float) -> str:
    """Say that a process was killed because it told nothing for so many seconds."""
    return (
        f"told nothing for {duration(silence)} and was killed (`resources: {{silence: 2h}}` in the study gives it "
        "longer)"
    )


def end_of(log: Path) -> str:
    """Say what a log ends with, and where it is."""
    return f"the end of its log {log}: {' | '.join(tail(log)) or '(empty)'}"
