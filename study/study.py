"""A study: what was declared, how far it is, running it, and its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adapters.faults import InputFault
from study import config, plan
from study.backbones.names import fetch, unknown_words
from study.executors.local import LocalExecutor, State, cores, devices
from study.progress import Bar
from study.store import Known, Store
from study.trial import Pack, Trial, TrialResult

if TYPE_CHECKING:
    import pandas as pd

TRIES = 3
"""How often a trial is started before a worker's death counts as its failure."""


class Executor(Protocol):
    """Where packs run."""

    def submit(self, packs: Sequence[Pack]) -> list[str]:
        """Queue packs; return a handle for each."""

    def poll(self) -> dict[str, State]:
        """Return the state of every pack; one that is done or lost is named once."""

    def cancel(self, handles: Sequence[str]) -> None:
        """Stop packs."""

    def close(self) -> None:
        """Stop everything."""


@dataclass(frozen=True)
class Outcome:
    """What a run left: how many of the plan's trials have each status, and which failed, with the reason."""

    counts: dict[str, int]
    failed: list[tuple[Trial, str]] = field(default_factory=list)


class Study:
    """A study of adapter designs.

    Parameters
    ----------
    root : str or Path
        The folder that relative folders in the sections start from.
    store : str or Path, optional
        Instead of the section `store`.
    **sections
        As in a study file: name, backbone, factors, tasks, …

    Raises
    ------
    InputFault
        One message with every fault of the sections.
    """

    def __init__(self, root: str | Path = ".", store: str | Path | None = None, **sections: Any) -> None:
        if store is not None:
            sections["store"] = str(store)
        self.config = config.check(sections, Path(root))
        self.store = Store(Path(self.config.store))

    @classmethod
    def load(cls, study: str | Path, store: str | Path | None = None) -> Study:
        """Load a study file, or a shipped study by name.

        Raises
        ------
        InputFault
            If there is no such study, or one message with every fault in it and its line.
        """
        loaded = cls.__new__(cls)
        loaded.config = config.read(config.find(study))
        loaded.store = Store(Path(store if store is not None else loaded.config.store))
        return loaded

    @property
    def factors(self) -> list[str]:
        """Columns of the results that vary by declaration."""
        backbone = ["backbone"] if len(self.config.backbones) > 1 else []
        return [*backbone, *self.config.space.varying]

    @cached_property
    def trials(self) -> list[Trial]:
        """Every trial of the plan, in the order it is run.

        Raises
        ------
        InputFault
            If a backbone of the hub is not on this machine; `run` downloads it.
        """
        return plan.trials(self.config)

    def results(self, role: str = "study") -> pd.DataFrame:
        """Return the rows of this plan that are in the store, and of no other.

        Parameters
        ----------
        role : {"study", "reference"}
            `reference` gives the untuned backbone, one row for each task and seed.

        Returns
        -------
        DataFrame
            Columns as `study.columns.ROW` and a column of text for each factor.
        """
        wanted = {trial.id for trial in self.trials if trial.role == role}
        rows = self.store.rows()
        return rows[rows["id"].isin(wanted)].reset_index(drop=True)

    def status(self) -> dict[str, Any]:
        """Return how far the study is; see `study.plan.status`."""
        known = {
            "backbone": [source.name for source in self.config.backbones],
            "task": [task.name for task in self.config.tasks],
            "seed": [str(seed) for seed in self.config.seeds],
        }
        shown = [*self.factors, "task", "seed"]
        levels = {name: known.get(name) or self.config.space.levels(name) for name in shown}
        return plan.status(self.config.name, self.trials, self.store.rows(), levels)

    def warnings(self) -> list[str]:
        """Return what is allowed but should be known before a run."""
        told = []
        for source in self.config.backbones:
            for task in self.config.tasks:
                words = unknown_words(source, task.class_word)
                if words:
                    told.append(
                        f"the text encoder of {source.name} spells {', '.join(words)!r} letter by letter: the class of "
                        f"{task.name} means little to it; prefer a class word that it was trained with"
                    )
        return list(dict.fromkeys(told))

    def run(
        self,
        only: Literal["missing", "failed"] = "missing",
        limit: int | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
    ) -> Outcome:
        """Train and score the trials that have no row yet; safe to interrupt, run again to go on.

        Parameters
        ----------
        only : {"missing", "failed"}
            `failed` runs the trials that failed or did not fit into memory once more, and no others.
        limit : int, optional
            Run at most so many trials.
        workers : int, optional
            Worker processes on the CPU: by default one a core for built-in backbones, whose small layers keep no
            second core busy, and otherwise one with all cores; on GPUs there is one for each.
        executor : Executor, optional
            Where packs run; this machine by default.

        Returns
        -------
        Outcome
            Of the whole plan, not only of this run.

        Raises
        ------
        InputFault
            If a backbone cannot be had.
        WorkerFault
            If workers cannot be started.
        """
        for source in self.config.backbones:
            if source.kind in ("hub", "arch"):
                fetch(source)
        known = Known.of(self.store)
        states = {None} if only == "missing" else {"failed", "out_of_memory"}
        wanted = [trial for trial in self.trials if known.status.get(trial.id) in states][:limit]
        if wanted:
            with Bar(wanted, self.config.primary) as bar:
                runner = executor or LocalExecutor(self.store, self._devices(workers), bar.hear)
                try:
                    self._drive(runner, wanted, known.attempts)
                finally:
                    runner.close()
                    if self.config.keep == "best":
                        self.store.keep_best(self.config.primary)
        return self._outcome()

    def _drive(self, executor: Executor, wanted: list[Trial], attempts: dict[str, int]) -> None:
        """Run trials to their rows; those of a worker that died are tried again, each in a pack of its own."""
        tries = Counter(trial.id for trial in wanted)
        running: dict[str, Pack] = {}

        def submit(trials: list[Trial]) -> None:
            packs = plan.packs(self.config, trials, attempts, str(self.store.folder.resolve()), size=1)
            running.update(zip(executor.submit(packs), packs, strict=True))

        submit(wanted)
        while running:
            for handle, state in executor.poll().items():
                if handle not in running or state.name not in ("done", "lost"):
                    continue
                pack = running.pop(handle)
                if state.name == "done":
                    continue
                left = [trial for trial in pack.trials if not self.store.has(trial.id, pack.attempts[trial.id])]
                for trial in left:
                    if tries[trial.id] < TRIES:
                        tries[trial.id] += 1
                        submit([trial])
                    else:
                        result = TrialResult(trial, "failed", f"tried {TRIES} times; {state.reason}")
                        self.store.commit(result, self.config.name, pack.attempts[trial.id])

    def _devices(self, workers: int | None) -> list[str]:
        found = devices()
        if found != ["cpu"]:
            if workers is None:
                return found
            raise InputFault(
                f"got {workers} workers; this machine has GPUs ({', '.join(found)}), which get one worker each"
            )
        if workers is None:
            workers = cores() if all(source.kind == "builtin" for source in self.config.backbones) else 1
        return found * workers

    def _outcome(self) -> Outcome:
        rows = self.store.rows().set_index("id")
        states = {trial.id: rows["status"].get(trial.id, "missing") for trial in self.trials}
        failed = [
            (trial, str(rows["error"][trial.id]))
            for trial in self.trials
            if states[trial.id] in ("failed", "out_of_memory")
        ]
        return Outcome(dict(Counter(states.values())), failed)
