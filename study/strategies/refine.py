"""The strategy `refine`: every design on the first replicates, then more replicates for those that may be the best.

The first replicates are a whole factorial and stay marked as such. After them the set of designs that may be the best
(Hsu's, as the recommendation has it) is found from all rows, and its designs get the next replicate, until the set is
one design, the replicates are used up, or the budget does not suffice for the whole set. A design that has left the set
stays out, so the sets are nested. The level holds for each look at the set; for repeated looks it is not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.faults import InputFault
from study.canonical import canonical_json, digest
from study.space import text
from study.strategies.search import AmongAll, Cell, Growth, Problem

LOOKS = "looks"
"""Under which a problem remembers looks: the digest of what was asked → the designs that may be the best."""


@dataclass(frozen=True)
class Refine(AmongAll):
    """The factorial on few replicates, then more where it is undecided which design is the best.

    Attributes
    ----------
    start : int
        Replicates (task and seed; all tasks with the first seed first) that every design gets.
    trials : int
        The budget: trials of the study's designs.
    error : {"residual", "task"}
        What the sets' standard errors come from: residual finds the best on these tasks, task on new ones, for which
        few tasks say little.
    level : float
        The confidence of each set.
    """

    start: int
    trials: int
    error: Literal["residual", "task"] = "residual"
    level: float = 0.95

    def unfit(self, designs: int, tasks: int, seeds: int) -> tuple[str, str] | None:
        """Return what keeps it from running so many designs on tasks with seeds: the key to blame, and a message."""
        replicates = tasks * seeds
        if designs < 2:
            return "kind", f"got refine for {designs} design, expected several, among which the best is to be found"
        if self.error == "task" and tasks < 2:
            return "error", "got task, but there is one task, which says nothing of new ones; expected residual"
        if self.start >= replicates:
            return "start", (
                f"got {self.start}, but there are {replicates} replicates (tasks × seeds), which leaves none to add; "
                "ask for fewer, or give more seeds or tasks"
            )
        if self.trials < designs * self.start:
            return "trials", (
                f"got {self.trials}, expected at least the {designs * self.start} of {designs} designs on {self.start} "
                f"replicate{'s' * (self.start != 1)}"
            )
        if self.trials >= designs * replicates:
            return "trials", (
                f"got {self.trials}, but the whole factorial takes no more than {designs * replicates}; ask for fewer, "
                "or run it with `strategy: factorial`"
            )
        return None

    def describe(self, designs: int, replicates: int) -> str:
        """Return what it will do, in a sentence."""
        of = "on these tasks" if self.error == "residual" else "on new tasks"
        return (
            f"At most {self.trials} trials: all {designs} designs on the first {self.start} of {replicates} replicates "
            f"({designs * self.start} trials, which the analysis of variance takes), then those that may be the best "
            f"{of} on one more at a time."
        )

    def grow(self, problem: Problem) -> Growth:
        """Return all that is planned, as the outcomes that there are say."""
        left = list(range(len(problem.designs)))
        generations: list[list[Cell]] = [[(design, at) for at in range(self.start) for design in left]]
        spent, next_at = len(generations[0]), self.start
        while True:
            if not problem.finished(generations[-1]):
                told = (
                    f"What may be the best is looked at when generation {len(generations)} has results of all of its "
                    "trials; one that failed or did not fit into memory has none."
                )
                return Growth(generations, 1, False, told)
            cells = [cell for generation in generations for cell in generation]
            inside = self.possible(problem, cells)
            left = [design for design in left if design in inside] or left
            counted = f"{len(left)} of {len(problem.designs)} designs may be the best"
            if len(left) == 1:
                return Growth(generations, 1, True, f"Decided: {counted}.")
            if next_at == len(problem.replicates):
                return Growth(generations, 1, True, f"All replicates are used: {counted}.")
            if spent + len(left) > self.trials:
                return Growth(generations, 1, True, f"The budget has no further replicate of all of these: {counted}.")
            generations.append([(design, next_at) for design in left])
            spent, next_at = spent + len(left), next_at + 1

    def possible(self, problem: Problem, cells: Sequence[Cell]) -> set[int]:
        """Return the designs that may be the best, from the rows of some cells; all where nothing can be said."""
        rows = []
        for design, at in cells:
            task, seed = problem.replicates[at]
            own = problem.designs[design]
            levels = {name: text(own[name]) if name in own else canonical_json(own) for name in problem.factors}
            value = (problem.outcome((design, at)) or {}).get(problem.primary, math.nan)
            rows.append({**levels, "task": task, "seed": seed, "place": design, problem.primary: value})
        looks: dict[str, list[int]] = problem.memory.setdefault(LOOKS, {})
        asked = digest([[self.error, self.level, problem.pair, problem.better[problem.primary]], repr(rows)])
        if asked not in looks:
            looks[asked] = self._look(problem, rows)
        return set(looks[asked])

    def _look(self, problem: Problem, rows: list[dict[str, Any]]) -> list[int]:
        import numpy as np
        import pandas as pd

        from analysis.possible_best import may_be_best

        frame = pd.DataFrame(rows)
        tasks = frame["task"].nunique()
        blocks = ["task"] * (tasks > 1) + ["task:seed"] * (len(frame.groupby(["task", "seed"])) > tasks)
        error = self.error if tasks > 1 else "residual"
        try:
            inside = may_be_best(
                frame, problem.primary, list(problem.factors), blocks, problem.pair, error,
                problem.better[problem.primary], self.level,
            )  # fmt: skip
        except InputFault:  # every trial diverged, or nothing is left to estimate an error from
            inside = np.ones(len(frame), dtype=bool)
        return sorted(set(frame["place"][inside].tolist()))
