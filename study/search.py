"""Strategies that plan as they go, applied to a study: from the rows of its store to the trials planned so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import journal, plan
from study.canonical import digest
from study.columns import SCORES, higher_is_better
from study.report_rows import terms_of
from study.strategies.optuna import Optuna
from study.strategies.search import ADAPTIVE, FIXED, Cell, Growth, Problem, Searching, searches
from study.trial import FINAL, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.config import StudyConfig
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
    """

    trials: list[Trial]
    left: int
    generations: int
    told: str
    growth: Growth | None = None
    problem: Problem | None = None

    def state(self, budget: int) -> dict[str, Any]:
        """Return it as JSON values."""
        own = sum(trial.role == "study" for trial in self.trials)
        ended = self.growth is not None and self.growth.ended
        return {
            "budget": budget, "planned": own, "generations": self.generations, "ended": ended, "told": self.told
        }  # fmt: skip


class Search:
    """The search of one study; what the same rows say is computed once.

    Parameters
    ----------
    config : StudyConfig
        Of one backbone, whose strategy plans as it goes.
    """

    def __init__(self, config: StudyConfig) -> None:
        assert searches(config.space.strategy)
        self.config, self.strategy = config, config.space.strategy
        self._last: tuple[Any, Found] | None = None

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
        key = tuple(sorted(zip(rows["id"], rows["status"], strict=True)))
        if self._last is None or self._last[0] != key:
            self._last = key, self._find(choices, rows)
        return self._last[1]

    def write_journal(self, path: Path) -> None:
        """Write Optuna's journal of what was found last; nothing if the strategy is another one, or nothing was."""
        problem = self._last[1].problem if self._last is not None else None
        if problem is not None and isinstance(self.strategy, Optuna):
            journal.write(path, self.config.name, self.strategy.search(problem)[1])

    def _find(self, choices: Sequence[Choice], rows: pd.DataFrame) -> Found:
        maker = plan.Maker(self.config, choices)
        (source,) = self.config.backbones
        replicates = [(task, seed) for seed in self.config.seeds for task in self.config.tasks]
        designs = []
        for design in self.config.designs_on(source):
            one = maker.make(source, "study", design, *replicates[0])
            if isinstance(one, Trial):
                designs.append(design)
            elif one.possible:
                return Found([], self.strategy.trials, 0, "It begins when tuning has ended.")
        made: dict[Cell, Trial] = {}

        def trial(cell: Cell) -> Trial:
            if cell not in made:
                task, seed = replicates[cell[1]]
                one = maker.make(source, "study", designs[cell[0]], task, seed)
                assert isinstance(one, Trial)
                made[cell] = one
            return made[cell]

        problem = self._problem(designs, [(task.name, seed) for task, seed in replicates], trial, rows)
        growth = self.strategy.grow(problem)
        trials = []
        if growth.generations:
            trials = maker.references(source, replicates)
        order = [digest(design) for design in designs]
        for number, generation in enumerate(growth.generations):
            how = FIXED if number < growth.fixed else ADAPTIVE
            cells = sorted(generation, key=lambda cell: (cell[1], order[cell[0]]))
            trials += [trial(cell).planned(how) for cell in cells]
        left = 0 if growth.ended else self.strategy.trials - growth.cells
        return Found(trials, left, len(growth.generations), growth.told, growth, problem)

    def _problem(
        self, designs: list[dict[str, Any]], replicates: list[tuple[str, int]], trial: Any, rows: pd.DataFrame
    ) -> Problem:
        final = rows[rows["status"].isin(FINAL)]
        known = dict(zip(final["id"], final.to_dict("records"), strict=True))

        def outcome(cell: Cell) -> Mapping[str, float] | None:
            row = known.get(trial(cell).id)
            if row is None:
                return None
            done = row["status"] == "done"
            return {score: float(row[score]) if done else float("nan") for score in self.config.scores}

        factors, _, pair = terms_of(self.config)
        return Problem(
            designs, replicates, self.config.space.varying_in(designs), factors, pair, self.config.primary,
            {score: higher_is_better(score) for score in SCORES}, outcome,
        )  # fmt: skip


def faults(strategy: Searching, designs: int, replicates: int, backbones: int, scores: Sequence[str]) -> list[Any]:
    """Return what keeps a study from searching: the path to blame, and a message."""
    if backbones > 1:
        told = f"got {backbones}, expected one: a search is of one backbone's designs; make a study for each"
        return [(("backbone",), told)]
    found = []
    for place, score in enumerate(getattr(strategy, "scores", ())):
        if score not in scores:
            told = f"got {score!r}, expected scores of this study: {', '.join(scores)}"
            found.append((("strategy", "scores", place), told))
    unfit = strategy.unfit(designs, replicates)
    return [*found, (("strategy", unfit[0]), unfit[1])] if unfit else found
