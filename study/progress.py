"""The progress of a run on standard error: a bar on a terminal, a line for each finished trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from study.trial import Trial

if TYPE_CHECKING:
    from rich.progress import Progress


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bar(*texts: str) -> Progress:
    """Return a bar with these fields beside it, which is switched off where there is no terminal."""
    # Not above: most who import this module show no bar.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    fields = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in texts]
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), *fields)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class Bar:
    """Shows time left, the current design and the last score; fed with the events of workers.

    Parameters
    ----------
    score : str
        The score to show.
    """

    def __init__(self, score: str) -> None:
        self._trials: dict[str, Trial] = {}
        self._over: set[str] = set()
        self._score = score
        self._begin = time.monotonic()
        self._total = 0
        self._done = 0
        self._part: dict[str, float] = {}
        self._bar = _bar("left", "now", "last")
        self._plain = self._bar.disable
        self._task = self._bar.add_task("", total=self._total, left="", now="starting", last="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, trials: Sequence[Trial], later: int = 0) -> None:
        """Take note of trials that are about to run, and of how many more will follow them."""
        self._trials |= {trial.id: trial for trial in trials}
        self._over -= {trial.id for trial in trials}
        self._total = self._done + len(trials) + later
        self._bar.update(self._task, total=self._total)

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of a worker's event."""
        trial = event["trial"]
        label = self._trials[trial].label() if trial in self._trials else trial
        if event["event"] == "step":
            if trial in self._over:  # a sign of life while others of its pack are scored
                return
            self._part[trial] = event["step"] / max(1, event["steps"])
            self._bar.update(self._task, now=f"{label} · step {event['step']}/{event['steps']}", left=self._left())
        elif event["event"] == "result":
            self._part.pop(trial, None)
            self._over.add(trial)
            self._done += 1
            value = event["scores"].get(self._score)
            told = f"{self._score} {value:.3f}" if value is not None else event["status"]
            self._bar.update(self._task, completed=self._done, now=label, last=f"last: {told}", left=self._left())
            if self._plain:
                reason = f" ({event['error']})" if event.get("error") else ""
                print(
                    f"{self._done}/{self._total} {label} · {told}{reason} · {self._left()}", file=sys.stderr, flush=True
                )

    def _left(self) -> str:
        share = (self._done + sum(self._part.values())) / self._total
        if share <= 0:
            return ""
        return f"{duration((time.monotonic() - self._begin) * (1 - share) / share)} left"


class Steps:
    """Shows one training: a bar with the time left on a terminal, a line for each tenth elsewhere.

    Parameters
    ----------
    total : int
        Steps of the training.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._begin = 0.0
        self._tenth = 0
        self._bar = _bar("now")
        self._plain = self._bar.disable
        self._task = self._bar.add_task("", total=total, now="starting")

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, what: str) -> None:
        """Say what is done now; the time left is reckoned from the last stage's begin."""
        self._begin = time.monotonic()
        self._bar.update(self._task, now=what)
        if self._plain:
            print(what, file=sys.stderr, flush=True)

    def step(self, done: int) -> None:
        """Take note of the number of steps done."""
        left = f"{duration((time.monotonic() - self._begin) * (self._total - done) / done)} left"
        self._bar.update(self._task, completed=done, now=left)
        if self._plain and done * 10 // self._total > self._tenth:
            self._tenth = done * 10 // self._total
            print(f"{done}/{self._total} steps · {left}", file=sys.stderr, flush=True)
