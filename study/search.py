"""Strategies that plan as they go, applied to a study: from the rows of its store to the trials planned so far."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study import journal, looks, plan
from study.canonical import digest
from study.columns import SCORES, higher_is_better
from study.pruning import Past, Pruning
from study.report_rows import terms_of
from study.strategies.optuna import Optuna
from study.strategies.refine import LOOKS
from study.strategies.search import ADAPTIVE, FIXED, Cell, Growth, Problem, Searching, searches
from study.trial import FINAL, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.config import StudyConfig
    from study.store import Store
    from study.tuning import Choice


@dataclass(frozen=True)
class Found:
    """What a search has planned so far.

    Attributes
    ----------
    trials : list of Trial
        In the order they are run: generation, then seed, task and design hash; before the first generation the untuned
        backbone.
    left : int
        Trials of the budget that are not planned yet; 0 once nothing follows.
    generations : int
    told : str
        What was found, or what the search waits for.
    growth : Growth or None
        None while it waits for tuning.
    problem : Problem or None
    pruned : collection of str
        The ids of the trials that were pruned.
    """

    trials: list[Trial]
    left: int
    generations: int
    told: str
    growth: Growth | None = None
    problem: Problem | None = None
    pruned: Collection[str] = ()

    def state(self, budget: int) -> dict[str, Any]:
        """Return it as JSON values."""
        own = sum(trial.role == "study" for trial in self.trials)
        ended = self.growth is not None and self.growth.ended
        return {
            "budget": budget, "planned": own, "generations": self.generations, "ended": ended, "told": self.told
        }  # fmt: skip


class Search:
    """The search of one study; what the same rows say is computed once, and what more rows say goes on from there.

    Parameters
    ----------
    config : StudyConfig
        Of one backbone, whose strategy plans as it goes.
    store : Store
    """

    def __init__(self, config: StudyConfig, store: Store) -> None:
        assert searches(config.space.strategy)
        self.config, self.strategy, self.store = config, config.space.strategy, store
        self._cells: tuple[str, Cells | None] | None = None
        self._last: tuple[Any, Found] | None = None
        self._looks: dict[str, list[int]] = looks.read(store.looks)
        self._written = len(self._looks)

    def found(self, choices: Sequence[Choice], rows: pd.DataFrame) -> Found:
        """Return what is planned.

        Parameters
        ----------
        choices : sequence of Choice
            As `study.tuning.choices` returns them.
        rows : DataFrame
            As `study.store.Store.rows` returns them.

        Raises
        ------
        InputFault
            If the backbone is one of the hub and not on this machine.
        """
        prunes = isinstance(self.strategy, Optuna) and self.strategy.pruner is not None
        pruned = self.store.pruned() if prunes else rows[:0]
        key = [sorted(zip(of["id"], of["attempt"], of["status"], strict=True)) for of in (rows, pruned)]
        if self._last is None or self._last[0] != key:
            self._last = key, self._find(choices, rows, pruned)
        return self._last[1]

    def write(self) -> None:
        """Write what is kept of what was found last: Optuna's journal, or the looks at the set of possible bests."""
        problem = self._last[1].problem if self._last is not None else None
        if problem is not None and isinstance(self.strategy, Optuna):
            journal.write(self.store.journal, self.config.name, self.strategy.search(problem)[1])
        if len(self._looks) > self._written:
            looks.write(self.store.looks, self._looks)
            self._written = len(self._looks)

    def _find(self, choices: Sequence[Choice], rows: pd.DataFrame, pruned: pd.DataFrame) -> Found:
        cells = self._cells_under(choices)
        if cells is None:
            return Found([], self.strategy.trials, 0, "It begins when tuning has ended.")
        if not cells.designs:
            told = "No design can be run: tuning could choose for none of them."
            return Found([], 0, 0, told, Growth([], 0, True, told))
        cells.see(rows, pruned)
        growth = self.strategy.grow(cells.problem)
        trials = cells.maker.references(cells.source, cells.replicates) if growth.generations else []
        for number, generation in enumerate(growth.generations):
            how = FIXED if number < growth.fixed else ADAPTIVE
            ordered = sorted(generation, key=cells.order)
            trials += [cells.trial(cell)[0].planned(how, growth.pruning.get(cell)) for cell in ordered]
        left = 0 if growth.ended else self.strategy.trials - growth.cells - growth.skipped
        lost = {cells.trial(cell)[1] for cell in growth.pruned}
        return Found(trials, left, len(growth.generations), growth.told, growth, cells.problem, lost)

    def _cells_under(self, choices: Sequence[Choice]) -> Cells | None:
        """Return the cells under what tuning has chosen; None while it has not."""
        chosen = [(c.group.name, c.waits, c.chosen.values if c.chosen else None) for c in choices]
        if self._cells is None or self._cells[0] != repr(chosen):
            waits = any(choice.waits for choice in choices)
            self._cells = repr(chosen), None if waits else Cells(self.config, choices, self._looks)
        return self._cells[1]


class Cells:
    """The trials that a search may plan, and what is known of them.

    Parameters
    ----------
    choices : sequence of Choice
        None of which waits.
    known : dict
        Looks that are known, see `study.looks`; new ones are added to it.
    """

    def __init__(self, config: StudyConfig, choices: Sequence[Choice], known: dict[str, list[int]]) -> None:
        self.maker, (self.source,) = plan.Maker(config, choices), config.backbones
        self.replicates = [(task, seed) for seed in config.seeds for task in config.tasks]
        made = [self.maker.make(self.source, "study", design) for design in config.designs_on(self.source)]
        self._trials = [each for each in made if isinstance(each, Trial)]
        self.designs = [trial.design for trial in self._trials]
        self._scores = list(config.scores)
        self._made: dict[Cell, tuple[Trial, str]] = {}
        self._outcomes: dict[str, dict[str, float]] = {}
        self._scored: dict[str, str | None] = {}
        self._pruned: dict[tuple[str, str], str | None] = {}
        self._digests: dict[int, str] = {}
        factors, _, pair = terms_of(config)
        self.problem = Problem(
            self.designs, [(task.name, seed) for task, seed in self.replicates],
            config.space.varying_in(self.designs), factors, pair, config.primary,
            {score: higher_is_better(score) for score in SCORES}, self._outcome, self._past, {LOOKS: known},
        )  # fmt: skip

    def trial(self, cell: Cell) -> tuple[Trial, str]:
        """Return the trial of a cell, and its id."""
        if cell not in self._made:
            task, seed = self.replicates[cell[1]]
            made = self._trials[cell[0]].on(task.name, self.maker.tasks[task.name], seed)
            self._made[cell] = made, made.id
        return self._made[cell]

    def order(self, cell: Cell) -> tuple[int, str]:
        """Return what cells of a generation are run in the order of: replicate, then the design's hash."""
        if cell[0] not in self._digests:
            self._digests[cell[0]] = digest(self.designs[cell[0]])
        return cell[1], self._digests[cell[0]]

    def see(self, rows: pd.DataFrame, pruned: pd.DataFrame) -> None:
        """Take note of the final rows of a store, and of those of pruned trials."""
        final = rows[rows["status"].isin(FINAL)]
        columns = zip(*(final[score].tolist() for score in self._scores), strict=True)
        self._outcomes = {
            id: {
                score: float(value) if status == "done" else math.nan
                for score, value in zip(self._scores, values, strict=True)
            }
            for id, status, values in zip(final["id"], final["status"], columns, strict=True)
        }
        self._scored = dict(zip(final["id"], final["intermediate_json"], strict=True))
        told = zip(pruned["id"], pruned["pruned_by"], pruned["intermediate_json"], strict=True)
        self._pruned = {(id, by): scored for id, by, scored in told}

    def _outcome(self, cell: Cell) -> Mapping[str, float] | None:
        return self._outcomes.get(self.trial(cell)[1])

    def _past(self, cell: Cell, pruning: Pruning) -> Past | None:
        trial, id = self.trial(cell)
        evidence = pruning.evidence

        def scores(told: str | None) -> tuple[tuple[int, float], ...]:
            found = json.loads(told) if isinstance(told, str) else {}
            drawn = evidence.rule.drawn(trial.protocol.pictures)
            if (found.get("score"), found.get("pictures")) != (evidence.score, drawn):
                return ()  # nothing, or what no other is comparable with
            by = {int(percent): float(score) for percent, score in found["values"].items()}
            return tuple((percent, by[percent]) for percent in evidence.rule.at if percent in by)

        if id in self._outcomes:
            value = self._outcomes[id][evidence.score]
            scored = scores(self._scored[id])
            return Past("done", value, scored) if math.isfinite(value) else Past("diverged", None, scored)
        if (id, pruning.by) in self._pruned:
            return Past("pruned", None, scores(self._pruned[id, pruning.by]))
        return None


def faults(
    strategy: Searching, designs: int, tasks: int, seeds: int, backbones: int, scores: Sequence[str]
) -> list[Any]:
    """Return what keeps a study from searching: the path to blame, and a message."""
    if backbones > 1:
        told = f"got {backbones}, expected one: a search is of one backbone's designs; make a study for each"
        return [(("backbone",), told)]
    found: list[Any] = []
    asked = list(getattr(strategy, "scores", ()))
    for place, score in enumerate(asked):
        if score not in scores:
            told = f"got {score!r}, expected scores of this study: {', '.join(scores)}"
            found.append((("strategy", "scores", place), told))
        elif score in asked[:place]:
            found.append((("strategy", "scores", place), f"{score} is given twice"))
    unfit = strategy.unfit(designs, tasks, seeds)
    return [*found, (("strategy", unfit[0]), unfit[1])] if unfit else found
