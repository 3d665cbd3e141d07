"""What runs packs, as the driver of a study sees it, and what a run of the study left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

from study.executors.local import State
from study.trial import Pack, Trial


class Executor(Protocol):
    """Where packs run."""

    def attach(self, listen: Callable[[dict[str, Any]], None]) -> None:
        """Have every event of a worker, as `study.worker` describes them, passed on from within `poll`."""

    @property
    def slots(self) -> int:
        """How many packs may run at once."""

    def running(self) -> dict[str, Pack]:
        """Take over the packs that an earlier driver submitted and that still wait or run; return them by handle."""

    def submit(self, packs: Sequence[Pack]) -> list[str]:
        """Queue packs; return a handle for each."""

    def poll(self) -> dict[str, State]:
        """Return the state of every pack; one that is done or lost is named once."""

    def cancel(self, handles: Sequence[str]) -> None:
        """Stop packs."""

    def close(self) -> None:
        """Leave; stop what cannot go on without this process."""


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes
    ----------
    counts : dict of str to int
        How many of the plan's trials have each status, the untuned backbone's included and the tuning's not.
    failed : list of (Trial, str)
        Which failed, those of the tuning included, with the reason.
    tune : dict of str to int
        How many trials of the tuning have each status.
    waiting : int
        How many of the missing trials wait for tuning.
    impossible : list of str
        A sentence for each group of designs that cannot be run, because its tuning has nothing to choose from.
    told : str
        What a strategy that plans as it goes has found, or waits for.
    elsewhere : list of str
        A sentence for each process that holds trials and of which it cannot be told from here whether it still runs.
    """

    counts: dict[str, int]
    failed: list[tuple[Trial, str]] = field(default_factory=list)
    tune: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    impossible: list[str] = field(default_factory=list)
    told: str = ""
    elsewhere: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """How many trials have each status, in a line."""

        def counts(states: dict[str, int]) -> str:
            return ", ".join(f"{count} {name}" for name, count in sorted(states.items()))

        told = f"trials, the untuned backbone's included: {counts(self.counts)}"
        if self.waiting:
            told += f" ({self.waiting} of them wait for tuning)"
        told += f". {self.told}" if self.told else ""
        return f"tuning: {counts(self.tune)}; {told}" if self.tune else told

    def _repr_html_(self) -> str:
        """The summary, and what failed or cannot be run, as Jupyter shows them."""
        failed = [f"failed: {trial.label()}: {reason}" for trial, reason in self.failed]
        lines = (self.summary(), *failed, *self.impossible, *self.elsewhere)
        return "".join(f"<p>{escape(line)}</p>" for line in lines)
