"""The strategy `optuna`: designs one after another, each chosen by the scores of those before.

A trial of Optuna's is a design on every replicate (task and seed); its value is the mean, so that what tasks differ in
cancels. With a pruner a design begins on the first replicate; where it is pruned there, the others are not run. Optuna
is asked for valid designs only: of each factor it is offered the levels that some valid design has
together with the levels already taken. Where that leaves fewer levels than the factor has, the parameter is one of its
own, named after what is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from study.canonical import canonical_json
from study.pruning import Evidence, Past, Pruning, Rule
from study.space import Design, text
from study.strategies.ask_tell import AskTell, Settings, Tell, Told, Worst
from study.strategies.search import AmongAll, Cell, Growth, Problem

if TYPE_CHECKING:
    import optuna

ABSENT = "absent"
"""The level of a factor that some of the designs lack."""

DESIGN = ""
"""Where a walk from factor to factor ends."""

ASKED = "asked"
"""Under which a problem remembers how far Optuna was asked."""

_NAMES = {"tpe": "TPE", "nsga2": "NSGA-II", "qmc": "a Sobol sequence"}


@dataclass(frozen=True)
class Optuna(AmongAll):
    """A search by Optuna.

    Attributes
    ----------
    trials : int
        The budget: trials of the study's designs. As many designs are run as it has whole sets of replicates for; one
        that is pruned counts like the others.
    settings : Settings
    scores : tuple of str
        What is searched for; several are weighed by Pareto dominance. Empty: the primary score.
    pruner : Rule or None
        How designs are ended on the way of their first trial.
    """

    trials: int
    settings: Settings = Settings()
    scores: tuple[str, ...] = ()
    pruner: Rule | None = None

    def unfit(self, designs: int, tasks: int, seeds: int) -> tuple[str, str] | None:
        """Return what keeps it from running so many designs on tasks with seeds: the key to blame, and a message."""
        replicates = tasks * seeds
        if self.trials < replicates:
            return "trials", (
                f"got {self.trials}, expected at least the {replicates} that one design takes, on every task with "
                "every seed"
            )
        if self.trials // replicates >= designs:
            return "trials", (
                f"got {self.trials}, but all {designs} designs take no more than {designs * replicates}; ask for fewer "
                "or run them all with `strategy: factorial`"
            )
        return ("pruner", told) if (told := self._unfit_to_prune(self.trials // replicates)) else None

    def _unfit_to_prune(self, designs: int) -> str:
        """Return what keeps the pruner from pruning any of so many designs, or nothing."""
        if self.pruner is None:
            return ""
        if self.settings.sampler == "nsga2" or len(self.scores) > 1:
            return "Optuna prunes no search for several scores; leave it out, or search for one by `sampler: tpe`"
        if not self.settings.learns:
            return "qmc plans all designs at once, so none has earlier ones to be compared with; leave it out"
        earlier = (designs - 1) // self.settings.batch * self.settings.batch
        if earlier < self.pruner.wants:
            return (
                f"would prune nothing: the last of {designs} designs, planned {self.settings.batch} at a time, are "
                f"compared with {earlier} earlier ones, and {self.pruner.wants} are wanted; give a smaller batch or "
                "more trials" + (", or fewer startup_trials" if self.pruner.wants > 1 else "")
            )
        return ""

    def describe(self, designs: int, replicates: int) -> str:
        """Return what it will do, in a sentence."""
        count, batch = self.trials // replicates, self.settings.batch
        of = f" for {' and '.join(self.scores)}" if self.scores else ""
        how = f"chosen {batch} at a time by the scores of those before" if self.settings.learns else "chosen beforehand"
        return (
            f"Optuna ({_NAMES[self.settings.sampler]}, seed {self.settings.seed}) searches{of} with "
            f"{count * replicates} trials: {count} of {designs} designs on {replicates} "
            f"replicate{'s' * (replicates != 1)}, {how}."
            + (f" They may be pruned on the first replicate ({self.pruner})." if self.pruner else "")
        )

    def grow(self, problem: Problem) -> Growth:
        """Return all that is planned, as the outcomes that there are say."""
        return self.search(problem)[0]

    def search(self, problem: Problem) -> tuple[Growth, optuna.Study]:
        """Return what `grow` does, and Optuna's study."""
        every = range(len(problem.replicates))
        if ASKED not in problem.memory:
            problem.memory[ASKED] = self._ask_tell(problem)
        search: AskTell[int] = problem.memory[ASKED]
        generations, ended = search.grow(lambda: self._tell(problem))
        first, skipped = self._first(problem), 0
        cells: list[list[Cell]] = []
        pruning: dict[Cell, Pruning] = {}
        pruned: list[Cell] = []
        for generation in generations:
            if self.pruner is None:
                cells.append([(design, at) for design in generation for at in every])
                continue
            cells.append([(design, 0) for design in generation])
            ways, found = first(generation)
            pruning.update(zip(cells[-1], ways, strict=True))
            if None in found:  # none follows before they are known, and not yet the other replicates of their designs
                ended = ended and len(every) == 1
                break
            lost = [cell for cell, past in zip(cells[-1], found, strict=True) if past is not None and past.pruned]
            pruned += lost
            skipped += len(lost) * (len(every) - 1)
            if rest := [(d, at) for d, _ in cells[-1] if (d, 0) not in lost for at in every[1:]]:
                cells.append(rest)
        told = "Every design of the budget is planned." if ended else (
            f"The next generation is planned when generation {len(cells)} has results of all of its trials; one "
            "that failed or did not fit into memory has none."
        )  # fmt: skip
        if self.pruner is not None:
            told += f" {len(pruned)} of {sum(map(len, generations))} designs were pruned."
        fixed = 0 if self.settings.learns else len(cells)
        return Growth(cells, fixed, ended, told, pruning, pruned, skipped), search.study

    def _ask_tell(self, problem: Problem) -> AskTell[int]:
        tree = Tree(problem.designs, problem.varying)
        return AskTell(
            self.settings,
            ["maximize" if problem.better[score] else "minimize" for score in self._scores(problem)],
            self.trials // len(problem.replicates),
            tree.ask if self.settings.learns else tree.place,
            lambda design: canonical_json(problem.designs[design]),
            range(len(problem.designs)),
            tree.steer if self.settings.learns else None,
        )

    def _scores(self, problem: Problem) -> Sequence[str]:
        return self.scores or (problem.primary,)

    def _tell(self, problem: Problem) -> Tell[int]:
        """Give what tells of designs, one generation after the other."""
        scores, every, first = self._scores(problem), range(len(problem.replicates)), self._first(problem)
        worst = {score: Worst(problem.better[score]) for score in scores}

        def tell(generation: list[int]) -> list[Told] | None:
            begun = [Past("done")] * len(generation) if self.pruner is None else first(generation)[1]
            known = [past for past in begun if past is not None]
            cells = [
                [(design, at) for at in every if not past.pruned]
                for design, past in zip(generation, known, strict=False)
            ]
            if len(known) < len(begun) or not all(map(problem.finished, cells)):
                return None
            found = [[problem.outcome(cell) or {} for cell in own] for own in cells]
            for score in scores:
                worst[score].see(outcome[score] for own in found for outcome in own)
            return [
                Told(tuple(fmean(worst[s].fill(outcome[s]) for outcome in own) for s in scores if own), past.scores)
                for own, past in zip(found, known, strict=True)
            ]

        return tell

    def _first(self, problem: Problem) -> Callable[[Sequence[int]], tuple[list[Pruning], list[Past | None]]]:
        """Give what says, one generation after the other, how its first trials may be pruned, and became of them."""
        (score, *_), earlier = self._scores(problem), list[Past]()

        def first(generation: Sequence[int]) -> tuple[list[Pruning], list[Past | None]]:
            assert self.pruner is not None
            evidence = Evidence(self.pruner, score, problem.better[score], tuple(earlier))
            ways = [Pruning(evidence, place) for place in range(len(generation))]
            found = [problem.past((design, 0), way) for design, way in zip(generation, ways, strict=True)]
            earlier.extend(past for past in found if past is not None)
            return ways, found

        return first


@dataclass(frozen=True)
class Tree:
    """The valid designs, as a walk from factor to factor."""

    designs: Sequence[Design]
    factors: Sequence[str]

    @cached_property
    def _texts(self) -> list[dict[str, str]]:
        return [{name: text(d[name]) if name in d else ABSENT for name in self.factors} for d in self.designs]

    @cached_property
    def _levels(self) -> dict[str, list[str]]:
        return {name: sorted({texts[name] for texts in self._texts}) for name in self.factors}

    @cached_property
    def _root(self) -> dict[str, Any]:
        """Level → what follows it, factor by factor; at the end `DESIGN` → the design's place."""
        root: dict[str, Any] = {}
        for place, texts in enumerate(self._texts):
            node = root
            for name in self.factors:
                node = node.setdefault(texts[name], {})
            node.setdefault(DESIGN, place)
        return root

    def walk(self, pick: Callable[[str, str, list[str]], str]) -> int:
        """Return the place of a design.

        Parameters
        ----------
        pick : callable
            Takes one of the levels it is offered; given the parameter's name, the factor's and the levels, sorted.
        """
        node = self._root
        for name in self.factors:
            offered = sorted(node)
            parameter = name if offered == self._levels[name] else f"{name} of {', '.join(offered)}"
            node = node[pick(parameter, name, offered)]
        place: int = node[DESIGN]
        return place

    def ask(self, trial: optuna.Trial) -> int:
        """Return the place of the design that Optuna suggests; each factor is a category, and is asked if it varies."""
        return self.walk(
            lambda parameter, _, levels: str(trial.suggest_categorical(parameter, levels)) if levels[1:] else levels[0]
        )

    def place(self, trial: optuna.Trial) -> int:
        """Return the place of the design at a point of the unit cube, in which each factor has an axis."""

        def pick(parameter: str, factor: str, levels: list[str]) -> str:
            return levels[min(int(trial.suggest_float(factor, 0, 1) * len(levels)), len(levels) - 1)]

        return self.walk(pick)

    def steer(self, design: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters and distributions by which `ask` comes to a design."""
        from optuna.distributions import CategoricalDistribution

        params, distributions = {}, {}

        def pick(parameter: str, factor: str, levels: list[str]) -> str:
            level = self._texts[design][factor]
            if levels[1:]:
                params[parameter], distributions[parameter] = level, CategoricalDistribution(levels)
            return level

        self.walk(pick)
        return params, distributions
