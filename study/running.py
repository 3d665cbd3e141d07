"""Running a study: the trials that are missing go to an executor, phase by phase, until there are no more."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from study import plan, tensorboard, tuning
from study.backbones.names import fetch
from study.damage import set_aside
from study.driver import Driver
from study.executors.local import LocalExecutor, cores, devices
from study.full_disk import tells_when_full
from study.keep import Keeping
from study.outcome import Executor, Outcome
from study.progress import Bar
from study.resources import minutes
from study.space import REFERENCE, check_levels, has_levels
from study.store import Known, one_a_trial
from study.strategies.search import searches
from study.trial import PRUNED, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.config import StudyConfig
    from study.search import Found
    from study.store import Store


class Running(ABC):
    """A plan that can be run; what is planned its subclasses say.

    Attributes
    ----------
    config : StudyConfig
    store : Store
    """

    config: StudyConfig
    store: Store

    @property
    def deciding(self) -> tuple[str, ...]:
        """The columns of the rows that decide what is to run, and that say how that went."""
        return ("error", "log", "intermediate_json", "pruned_by", *self.config.scores)

    @abstractmethod
    def choices(self, rows: pd.DataFrame | None = None) -> list[tuning.Choice]:
        """Return what the store decides for each backbone and group that is tuned."""

    @abstractmethod
    def found(self, rows: pd.DataFrame | None = None) -> Found | None:
        """Return what a strategy that plans as it goes has planned so far; None of another strategy."""

    @abstractmethod
    def waiting(self, choices: Sequence[tuning.Choice] | None = None) -> list[plan.Waiting]:
        """Return what else is planned: the trials that wait for tuning."""

    @abstractmethod
    def _planned(self, choices: Sequence[tuning.Choice], rows: pd.DataFrame | None) -> list[Trial]:
        """Return the trials that do not wait for tuning, as far as the rows have led."""

    @abstractmethod
    def _write_found(self) -> None:
        """Write beside the rows what a strategy that plans as it goes keeps of what it found."""

    def fetch(self) -> None:
        """Download the scorers and backbones of the hub that are not on this machine yet.

        Raises
        ------
        InputFault
            If one of them cannot be had.
        """
        for source in dict.fromkeys([*self.config.scores.values(), *self.config.backbones]):
            if source.kind in ("hub", "arch"):
                fetch(source)

    @tells_when_full
    def run(
        self,
        only: Literal["missing", "failed"] = "missing",
        limit: int | None = None,
        workers: int | None = None,
        pack: int | None = None,
        executor: Executor | None = None,
        take_over: bool = False,
        design: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Train and score the trials that have no row yet; safe to interrupt, run again to go on.

        The trials of the tuning come first; those of the study run under the protocols that these have chosen. Rows
        that a disk has damaged are set aside, with a warning, and their trials are run again.

        Parameters
        ----------
        only : {"missing", "failed"}
            `failed` runs the trials that failed or did not fit into memory once more, and no others.
        limit : int, optional
            Run at most so many trials.
        workers : int, optional
            Worker processes on the CPU: by default one a core for built-in backbones, whose small layers keep no
            second core busy, and otherwise one with all cores. With GPUs, so many on each: by default one.
        pack : int, optional
            How many trials a worker trains together; by default as many as fit into its memory and still gain. A pack
            that does not fit is halved.
        executor : Executor, optional
            Where packs run; this machine by default.
        take_over : bool
            Run trials too that are held by a process of which it cannot be told from here whether it still runs.
        design : mapping of str to str, optional
            Run only designs with these levels, written as the results have them, and what tunes them.

        Returns
        -------
        Outcome
            Of the whole plan, not only of this run.

        Raises
        ------
        InputFault
            If a backbone cannot be had, no design has these levels, or TensorBoard is asked for and is not there.
        WorkerFault
            If workers cannot be started.
        FullDisk
            If a disk is full; the same call goes on once there is room.
        """
        check_levels([*self.config.space.designs, REFERENCE], design or {})
        if self.config.resources.tensorboard:
            tensorboard.check()
        self.fetch()
        with contextlib.ExitStack() as ends:
            if executor is None and only == "missing" and not design and self._surely_unfinished():
                executor = ahead = self._local(workers)
                ends.callback(ahead.close)
                ahead.begin()
            return self._run(only, limit, design or {}, pack, take_over, executor, workers)

    def _run(
        self,
        only: str,
        limit: int | None,
        levels: Mapping[str, str],
        together: int | None,
        take_over: bool,
        executor: Executor | None,
        workers: int | None,
    ) -> Outcome:
        there, damaged = self.store.examined(self.deciding)
        aside = set_aside(self.store, damaged)
        for told in aside:
            warnings.warn(told, stacklevel=3)
        states: set[str | None] = {None} if only == "missing" else {"failed", "out_of_memory"}
        phases = self._phases(states, limit, levels, None if aside else there)
        first = next(phases, None)
        elsewhere: list[str] = []
        keeping = Keeping(self.store, self.config.primary, self.config.keep, self.config.keep_pictures)
        if first is not None:
            with Bar(self.config.primary) as bar:
                runner = executor or self._local(workers)

                def hear(event: dict[str, Any]) -> None:
                    bar.hear(event)
                    keeping.hear(event)

                runner.attach(hear)
                driver = Driver(self.config, self.store, runner, hear, together, take_over)
                try:
                    for wanted, later, attempts in chain([first], phases):
                        bar.expect(wanted, later)
                        keeping.expect(wanted)
                        self._write_found()
                        driver.drive(wanted, attempts)
                    elsewhere = driver.elsewhere()
                finally:
                    runner.close()
                    keeping.settle(self.config.name)
        else:
            if executor is not None:
                executor.running()  # which forgets the packs that are over
            keeping.settle(self.config.name)
        self._write_found()
        return replace(self._outcome(), elsewhere=elsewhere)

    def _surely_unfinished(self) -> bool:
        """Say whether the store has fewer rows than the plan has trials, which takes no look at either."""
        return not searches(self.config.space.strategy) and self.store.size() < plan.number(self.config)

    def _local(self, workers: int | None) -> LocalExecutor:
        silence = 60 * minutes(self.config.resources.silence)
        return LocalExecutor(self.store, self._devices(workers), silence=silence)

    def _phases(
        self, states: set[str | None], limit: int | None, levels: Mapping[str, str], attempts: pd.DataFrame | None
    ) -> Iterator[tuple[list[Trial], int, dict[str, int]]]:
        """Yield what is to run, how much will follow and the attempts there are: the tuning, then what it has chosen.

        The next is looked up only when it is asked for, so what was yielded before has run by then. A search yields a
        generation at a time. With `levels` only what is of designs that have them, and what tunes these. `attempts` are
        those there are at first, if they have been read.
        """
        tried: set[str] = set()
        left = limit
        while left is None or left > 0:
            if attempts is None:
                attempts = self.store.attempts(self.deciding)
            known, rows = Known.of(attempts), one_a_trial(attempts)
            attempts = None  # looked up anew for what comes then
            found = self.found(rows)
            over = tried | set(found.pruned if found is not None else ())
            open_of = partial(_open, states=states, known=known, over=over)
            choices = self.choices(rows)
            own = [choice for choice in choices if any(has_levels(each, levels) for each in choice.group.designs)]
            wanted, later = open_of(tuning.trials(self.config, own)), 0
            planned = [trial for trial in self._planned(choices, rows) if has_levels(trial.design, levels)]
            if wanted:
                later = len(open_of(planned))
                waiting = self.waiting(choices) if None in states else []
                later += sum(has_levels(cell.design, levels) for cell in waiting)
            else:
                wanted = open_of(planned)
            if None in states and not levels and found is not None:
                later += found.left
            wanted = wanted[:left]
            if not wanted:
                return
            if left is not None:
                left -= len(wanted)
                later = min(later, left)
            tried |= {trial.id for trial in wanted}
            yield wanted, later, known.attempts

    def _devices(self, workers: int | None) -> list[str]:
        found = devices()
        if workers is None:
            small = all(source.kind == "builtin" for source in self.config.backbones)
            workers = cores() if found == ["cpu"] and small else 1
        return found * workers

    def _outcome(self) -> Outcome:
        rows = self.store.rows(self.deciding)
        choices = self.choices(rows)
        planned, unknown = self._planned(choices, rows), self.waiting(choices)
        tune = tuning.trials(self.config, choices)
        known = dict(zip(rows["id"].tolist(), rows["status"].tolist(), strict=True))
        errors = dict(zip(rows["id"].tolist(), rows["error"].tolist(), strict=True))
        found = self.found(rows)
        states = {trial.id: known.get(trial.id, "missing") for trial in (*tune, *planned)}
        states |= dict.fromkeys(found.pruned if found is not None else (), PRUNED)
        counts = Counter(states[trial.id] for trial in planned)
        later = len(unknown) + (found.left if found is not None else 0)
        if later:
            counts["missing"] += later
        failed = [
            (trial, str(errors[trial.id]))
            for trial in (*tune, *planned)
            if states[trial.id] in ("failed", "out_of_memory")
        ]
        return Outcome(
            dict(counts),
            failed,
            tune=dict(Counter(states[trial.id] for trial in tune)),
            waiting=sum(trial.possible for trial in unknown),
            impossible=tuning.impossible(self.config, choices),
            told=found.told if found is not None else "",
        )


def _open(trials: Sequence[Trial], states: set[str | None], known: Known, over: set[str]) -> list[Trial]:
    """Return the trials whose status is one of some and that are not over with."""
    return [trial for trial in trials if trial.id not in over and known.status.get(trial.id) in states]
