"""A study: what was declared, how far it is, running it, and its results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from study import config, plan, tuning
from study.activity import activity
from study.running import Running
from study.store import Store
from study.strategies.search import ADAPTIVE, searches
from study.tasks.specs import unknown_class
from study.trial import ROLES, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.search import Found, Search


class Study(Running):
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
        rows = self.store.rows(self.deciding) if self._adaptive else None
        return self._planned(self.choices(rows), rows)

    @property
    def _adaptive(self) -> bool:
        """Whether rows decide what is planned."""
        return self.config.tune is not None or self._search is not None

    @cached_property
    def _search(self) -> Search | None:
        if not searches(self.config.space.strategy):
            return None
        from study.search import Search  # needs the statistics, which other studies need not wait for

        return Search(self.config, self.store)

    def found(self, rows: pd.DataFrame | None = None) -> Found | None:
        """Return what a strategy that plans as it goes has planned so far; None of another strategy.

        Parameters
        ----------
        rows : DataFrame, optional
            Rows of the store, if they are at hand.
        """
        if self._search is None:
            return None
        rows = self.store.rows(self.deciding) if rows is None else rows
        return self._search.found(self.choices(rows), rows)

    def _write_found(self) -> None:
        """Write what helps people and later commands to see how a search went; the rows are the truth."""
        if self._search is not None:
            self.found()
            self._search.write()

    def _planned(self, choices: Sequence[tuning.Choice], rows: pd.DataFrame | None) -> list[Trial]:
        if self._search is None:
            return plan.trials(self.config, choices)
        assert rows is not None
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
        rows = self.store.rows(self.deciding) if rows is None else rows
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
        plans = [wanted.get(id) for id in rows["id"].tolist()]
        own = [how is not None for how in plans]
        # As this study plans them: another one may have run them first.
        return rows.loc[own].assign(plan=[how for how in plans if how is not None]).reset_index(drop=True)

    def pruned(self) -> pd.DataFrame:
        """Return the rows of the trials that this plan's search has pruned; columns as those of `results`."""
        found = self.found()
        if found is None or not found.pruned:
            return self.store.rows()[:0]
        by = {trial.id: trial.pruning.by for trial in found.trials if trial.id in found.pruned and trial.pruning}
        rows = self.store.pruned()
        own = rows[rows["id"].map(by) == rows["pruned_by"]].drop_duplicates("id").reset_index(drop=True)
        return own.assign(plan=ADAPTIVE)

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
            generations, whether it has ended, and what it found or waits for. `running`, `queued` and `lost` trials,
            `jobs` and `failures`, as `study.activity.activity` has them.
        """
        known = {
            "backbone": [source.name for source in self.config.backbones],
            "task": [task.name for task in self.config.tasks],
            "seed": [str(seed) for seed in self.config.seeds],
        }
        shown = [*self.factors, "task", "seed"]
        levels = {name: known.get(name) or self.config.space.levels(name) for name in shown}
        table = self.store.table(self.deciding)
        rows = table.to_pandas() if self._adaptive else None
        choices = self.choices(rows)
        planned, unknown = self._planned(choices, rows), self.waiting(choices)
        strategy, found = self.config.space.strategy, self.found(rows)
        tune, pruned = tuning.trials(self.config, choices), found.pruned if found is not None else ()
        told = plan.status(self.config.name, planned, table, levels, tune, unknown, pruned)
        told |= activity(self.store, [*tune, *planned], table, pruned)
        told["impossible"] = tuning.impossible(self.config, choices)
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
