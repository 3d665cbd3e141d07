"""A study: what was declared, how far it is, running it, and its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.faults import InputFault
from study import config, plan, tuning
from study.backbones.names import fetch
from study.executors.local import LocalExecutor, cores, devices
from study.outcome import Executor, Outcome
from study.progress import Bar
from study.store import Known, Store
from study.strategies.search import searches
from study.tasks.specs import unknown_class
from study.trial import ROLES, Pack, Trial, TrialResult

if TYPE_CHECKING:
    import pandas as pd

    from study.search import Found, Search

TRIES = 3
"""How often a trial is started before a worker's death counts as its failure."""


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

    @property
    def tune_trials(self) -> list[Trial]:
        """Every trial that decides the tuning, in the order it is run; of a search, those that are planned so far.

        Raises
        ------
        InputFault
            If a backbone of the hub is not on this machine; `run` downloads it.
        """
        return tuning.trials(self.config, self.choices())

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the plan that does not wait for tuning, in the order it is run.

        Of a strategy that plans as it goes, those that the rows of the store have led to so far.

        Raises
        ------
        InputFault
            If a backbone of the hub is not on this machine; `run` downloads it.
        """
        rows = self.store.rows()
        return self._planned(self.choices(rows), rows)

    @cached_property
    def _search(self) -> Search | None:
        if not searches(self.config.space.strategy):
            return None
        from study.search import Search  # needs the statistics, which other studies need not wait for

        return Search(self.config)

    def found(self, rows: pd.DataFrame | None = None) -> Found | None:
        """Return what a strategy that plans as it goes has planned so far; None of another strategy.

        Parameters
        ----------
        rows : DataFrame, optional
            Rows of the store, if they are at hand.
        """
        if self._search is None:
            return None
        rows = self.store.rows() if rows is None else rows
        return self._search.found(self.choices(rows), rows)

    def _write_journal(self) -> None:
        if self._search is not None and self.found() is not None:
            self._search.write_journal(self.store.journal)

    def _planned(self, choices: Sequence[tuning.Choice], rows: pd.DataFrame) -> list[Trial]:
        if self._search is None:
            return plan.trials(self.config, choices)
        return self._search.found(choices, rows).trials

    def waiting(self, choices: Sequence[tuning.Choice] | None = None) -> list[plan.Waiting]:
        """Return what else is planned: the trials that wait for tuning; a search plans none that does."""
        if self._search is not None:
            return []
        return plan.waiting(self.config, self.choices() if choices is None else choices)

    def choices(self, rows: pd.DataFrame | None = None) -> list[tuning.Choice]:
        """Return what the store decides for each backbone and group that is tuned.

        Parameters
        ----------
        rows : DataFrame, optional
            Rows of the store, if they are at hand.
        """
        if self.config.tune is None:
            return []
        rows = self.store.rows() if rows is None else rows
        key = tuple(sorted(zip(rows["id"], rows["status"], strict=True)))
        if self._chosen.get("rows") != key:  # a search takes its time, and the same rows say the same
            self._chosen.update(rows=key, choices=tuning.choices(self.config, rows))
        return list(self._chosen["choices"])

    @cached_property
    def _chosen(self) -> dict[str, Any]:
        return {}

    def results(self, role: str = "study") -> pd.DataFrame:
        """Return the rows of this plan that are in the store, and of no other.

        Parameters
        ----------
        role : {"study", "reference", "tune"}
            `reference` gives the untuned backbone, one row for each task and seed; `tune` the trials that decide the
            tuning.

        Returns
        -------
        DataFrame
            Columns as `study.columns.ROW` and a column of text for each factor. `plan` is how this study planned the
            trial: `fixed` before any score was known, or `adaptive`, because of scores.

        Raises
        ------
        InputFault
            If there is no such role.
        """
        if role not in ROLES:
            raise InputFault(f"got the role {role!r}, expected one of {', '.join(ROLES)}")
        rows = self.store.rows()
        planned = self.tune_trials if role == "tune" else self._planned(self.choices(rows), rows)
        wanted = {trial.id: trial.plan for trial in planned if trial.role == role}
        own = rows[rows["id"].isin(wanted)].reset_index(drop=True)
        # As this study plans them: another one may have run them first.
        return own.assign(plan=own["id"].map(wanted).astype(rows["plan"].dtype))

    def tuned(self) -> pd.DataFrame:
        """Return how the protocols were tuned, as far as the store says.

        Returns
        -------
        DataFrame
            One row for each backbone, group and grid point: `backbone` if there are several; the levels of the keys
            that make the groups; the values of the grid's keys, missing where they are set by hand; the mean primary
            score over seeds within a task and then over tasks, missing unless every trial has one; the numbers of
            trials `planned`, `done` and `diverged`; `chosen`; `at_edge`, whether it is chosen and a value is the least
            or greatest of the several that were tried, so that a wider grid might hold a better one.
        """
        return tuning.table(self.config, self.choices())

    def status(self) -> dict[str, Any]:
        """Return how far the study is.

        Returns
        -------
        dict
            As `study.plan.status` has it, and `impossible`: a sentence for each group of designs that cannot be run;
            and of a strategy that plans as it goes `search`: its budget, what is planned of it and in how many
            generations, whether it has ended, and what it found or waits for.
        """
        known = {
            "backbone": [source.name for source in self.config.backbones],
            "task": [task.name for task in self.config.tasks],
            "seed": [str(seed) for seed in self.config.seeds],
        }
        shown = [*self.factors, "task", "seed"]
        levels = {name: known.get(name) or self.config.space.levels(name) for name in shown}
        rows = self.store.rows()
        choices = self.choices(rows)
        planned, unknown = self._planned(choices, rows), self.waiting(choices)
        told = plan.status(self.config.name, planned, rows, levels, tuning.trials(self.config, choices), unknown)
        told["impossible"] = tuning.impossible(self.config, choices)
        strategy, found = self.config.space.strategy, self.found(rows)
        return {**told, "search": found.state(strategy.trials)} if searches(strategy) and found else told

    def warnings(self) -> list[str]:
        """Return what is allowed but should be known before a run."""
        told = []
        for source in self.config.backbones:
            for task in (*self.config.tasks, *(self.config.tune.tasks if self.config.tune else ())):
                told += unknown_class(source, task)
        return [*dict.fromkeys(told), *self.cautions()]

    def cautions(self) -> list[str]:
        """Return what scores of the study cannot say under its protocol, a sentence each."""
        config = self.config
        told = [each for task in config.tasks for each in task.cautions(config.scores, config.protocol)]
        return list(dict.fromkeys(told))

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

    def run(
        self,
        only: Literal["missing", "failed"] = "missing",
        limit: int | None = None,
        workers: int | None = None,
        pack: int | None = None,
        executor: Executor | None = None,
    ) -> Outcome:
        """Train and score the trials that have no row yet; safe to interrupt, run again to go on.

        The trials of the tuning come first; those of the study run under the protocols that these have chosen.

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
        self.fetch()
        phases = self._phases({None} if only == "missing" else {"failed", "out_of_memory"}, limit)
        first = next(phases, None)
        if first is not None:
            with Bar(self.config.primary) as bar:
                places = self._devices(workers)
                runner = executor or LocalExecutor(self.store, places, bar.hear)
                try:
                    for wanted, later, attempts in chain([first], phases):
                        bar.expect(wanted, later)
                        self._write_journal()
                        self._drive(runner, wanted, attempts, len(places), pack)
                    self._write_journal()
                finally:
                    runner.close()
                    if self.config.keep == "best":
                        self.store.keep_best(self.config.primary)
        return self._outcome()

    def _phases(self, states: set[str | None], limit: int | None) -> Iterator[tuple[list[Trial], int, dict[str, int]]]:
        """Yield what is to run, how much will follow and the attempts there are: the tuning, then what it has chosen.

        The next is looked up only when it is asked for, so what was yielded before has run by then. A search yields a
        generation at a time.
        """
        tried: set[str] = set()
        left = limit
        while left is None or left > 0:
            known, rows = Known.of(self.store), self.store.rows()
            open_of = partial(_open, states=states, known=known, tried=tried)
            choices = self.choices(rows)
            wanted, later = open_of(tuning.trials(self.config, choices)), 0
            if wanted:
                later = len(open_of(self._planned(choices, rows)))
                later += len(self.waiting(choices)) if None in states else 0
            else:
                wanted = open_of(self._planned(choices, rows))
            if None in states and (found := self.found(rows)) is not None:
                later += found.left
            wanted = wanted[:left]
            if not wanted:
                return
            if left is not None:
                left -= len(wanted)
                later = min(later, left)
            tried |= {trial.id for trial in wanted}
            yield wanted, later, known.attempts

    def _drive(
        self, executor: Executor, wanted: list[Trial], attempts: dict[str, int], workers: int, together: int | None
    ) -> None:
        """Run trials to their rows; those of a worker that died are tried again, each in a pack of its own."""
        tries = Counter(trial.id for trial in wanted)
        running: dict[str, Pack] = {}

        def submit(trials: list[Trial], asked: int | None = None) -> None:
            packs = plan.packs(self.config, trials, attempts, str(self.store.folder.resolve()), workers, together)
            packs = [replace(pack, asked=asked) for pack in packs]
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
                        count = len(pack.trials)
                        submit([trial], pack.asked or min(count, pack.together or count))
                    else:
                        result = TrialResult(trial, "failed", f"tried {TRIES} times; {state.reason}")
                        self.store.commit(result, self.config.name, pack.attempts[trial.id])

    def _devices(self, workers: int | None) -> list[str]:
        found = devices()
        if workers is None:
            small = all(source.kind == "builtin" for source in self.config.backbones)
            workers = cores() if found == ["cpu"] and small else 1
        return found * workers

    def _outcome(self) -> Outcome:
        rows = self.store.rows()
        choices = self.choices(rows)
        planned, unknown = self._planned(choices, rows), self.waiting(choices)
        tune = tuning.trials(self.config, choices)
        known = rows.set_index("id")
        states = {trial.id: known["status"].get(trial.id, "missing") for trial in (*tune, *planned)}
        counts = Counter(states[trial.id] for trial in planned)
        later = len(unknown) + (found.left if (found := self.found(rows)) is not None else 0)
        if later:
            counts["missing"] += later
        failed = [
            (trial, str(known["error"][trial.id]))
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


def _open(trials: Sequence[Trial], states: set[str | None], known: Known, tried: set[str]) -> list[Trial]:
    """Return the trials whose status is one of some and that were not tried yet."""
    return [trial for trial in trials if trial.id not in tried and known.status.get(trial.id) in states]
