"""Optuna's ask and tell, in generations, from what is known: the same questions and answers lead to the same study.

The Optuna study lives in memory and is made anew from its first question by every process that needs it; nothing reads
it back from a file. `study.journal` writes it for people to look at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "nsga2", "qmc"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Told:
    """What Optuna is told of an item.

    Attributes
    ----------
    values : tuple of float
        A score each, NaN where nothing can be said; none of an item that was pruned.
    on_the_way : tuple of (int, float)
        Steps of Optuna's, ascending, and the score there.
    """

    values: tuple[float, ...]
    on_the_way: tuple[tuple[int, float], ...] = ()


Tell = Callable[[list[Item]], list[Told] | None]

STUBBORN = 20
"""Questions in a row that may be answered by what was asked before; then what was never asked is drawn at random."""

ITEM = "item"
"""The attribute of a trial of Optuna's that says what it stands for."""


@dataclass(frozen=True)
class Settings:
    """How Optuna asks.

    Attributes
    ----------
    sampler : {"tpe", "nsga2", "qmc"}
        Tree-structured Parzen estimator, genetic algorithm for several scores, or Sobol sequence, which learns nothing.
    seed : int
    batch : int
        Items of a generation: they are planned together, from the results of all earlier generations.
    """

    sampler: Sampler = "tpe"
    seed: int = 0
    batch: int = 8

    @property
    def learns(self) -> bool:
        """Whether what is asked depends on what was told."""
        return self.sampler != "qmc"

    def make(self) -> optuna.samplers.BaseSampler:
        """Return Optuna's sampler."""
        from optuna.samplers import NSGAIISampler, QMCSampler, TPESampler

        if self.sampler == "tpe":
            return TPESampler(seed=self.seed, multivariate=True, group=True, constant_liar=True)
        if self.sampler == "nsga2":
            return NSGAIISampler(seed=self.seed, population_size=max(2, self.batch))
        return QMCSampler(seed=self.seed, scramble=True, warn_independent_sampling=False)


class Worst:
    """The worst score seen so far, which stands for the score of a trial that diverged; NaN before any was seen."""

    def __init__(self, higher: bool) -> None:
        self._pick, self.value = (min if higher else max), math.nan

    def see(self, scores: Iterable[float]) -> None:
        """Take note of scores; those that are NaN say nothing."""
        self.value = self._pick((s for s in (*scores, self.value) if not math.isnan(s)), default=math.nan)

    def fill(self, score: float) -> float:
        """Return a score, or the worst for one that is NaN."""
        return self.value if math.isnan(score) else score


@dataclass
class Generation(Generic[Item]):
    """Items that are planned together.

    Attributes
    ----------
    items : dict of str to item
        By their identities, in the order they were found.
    asked : list of (optuna.Trial, str)
        The questions that they answer.
    drawn : list of str
        Those that Optuna did not ask for.
    told : list of Told
        What was told of them; empty as long as nothing was.
    """

    items: dict[str, Item] = field(default_factory=dict)
    asked: list[tuple[optuna.Trial, str]] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


@dataclass
class AskTell(Generic[Item]):
    """A search; it may be kept and go on, which changes nothing but the time it takes.

    Parameters
    ----------
    settings : Settings
    directions : sequence of str
        "maximize" or "minimize", a score each.
    budget : int
        Items that are asked for.
    ask : callable
        Makes an item from an Optuna trial by its `suggest_…` methods.
    key : callable
        The item's identity: text.
    spare : sequence of items
        All there are, where they can be listed; drawn from at random where Optuna repeats itself.
    steer : callable, optional
        The parameters and distributions by which `ask` would have made an item, so that Optuna is told of a drawn one.
    """

    settings: Settings
    directions: Sequence[Literal["maximize", "minimize"]]
    budget: int
    ask: Callable[[optuna.Trial], Item]
    key: Callable[[Item], str]
    spare: Sequence[Item] = ()
    steer: Callable[[Item], tuple[dict[str, Any], dict[str, Any]]] | None = None
    study: Any = field(default=None, init=False)
    _generations: list[Generation[Item]] = field(default_factory=list, init=False)
    _exhausted: bool = field(default=False, init=False)
    _unused: Iterator[Item] = field(init=False)

    def grow(self, telling: Callable[[], Tell[Item]]) -> tuple[list[list[Item]], bool]:
        """Ask as far as it can be told.

        Parameters
        ----------
        telling : callable
            Gives what tells of a generation's items, and is called for each generation once, the first one first: None
            as long as that of an item is not known.

        Returns
        -------
        list of list of items
            The generations; each item once.
        bool
            Whether all of the budget is planned, or nothing is left to plan.
        """
        from analysis.hyper_importance import quiet

        with quiet():
            tell, before = telling(), [each for each in self._generations if each.told]
            told = [tell(list(generation.items.values())) for generation in before]
            if self.study is None or repr(told) != repr([generation.told for generation in before]):
                self._begin()  # what was told has changed, so all that followed from it is asked anew
                tell = telling()
            return self._go_on(tell)

    def _begin(self) -> None:
        import optuna

        self.study = optuna.create_study(sampler=self.settings.make(), directions=list(self.directions))
        self._generations, self._exhausted, self._unused = [], False, self._shuffled()

    def _go_on(self, tell: Tell[Item]) -> tuple[list[list[Item]], bool]:
        """Tell of the last generation, if all of it is known, and ask for the next, as often as there are."""
        while not self._exhausted:
            left = self.budget - sum(len(each.items) for each in self._generations)
            if not self._generations or self._generations[-1].told:
                if left <= 0:
                    break
                found = self._asked(min(self.settings.batch, left) if self.settings.learns else left)
                if not found.items:
                    self._exhausted = True
                    break
                self._generations.append(found)
                left -= len(found.items)
            last = self._generations[-1]
            told = tell(list(last.items.values()))
            if told is None:
                return self._planned(), left <= 0
            last.told = told
            known = dict(zip(last.items, told, strict=True))
            for trial, key in last.asked:
                self._tell(trial, known[key])
            for key in last.drawn:
                self._add(last.items[key], known[key])
        return self._planned(), True

    def _planned(self) -> list[list[Item]]:
        return [list(generation.items.values()) for generation in self._generations]

    def _asked(self, size: int) -> Generation[Item]:
        """Ask for new items; of those that are known already, tell at once."""
        known = {
            key: told
            for generation in self._generations
            for key, told in zip(generation.items, generation.told, strict=True)
        }
        new: Generation[Item] = Generation()
        repeated = 0
        while len(new.items) < size:
            if repeated == STUBBORN:
                free = (one for one in self._unused if self.key(one) not in known and self.key(one) not in new.items)
                item = next(free, None)
                if item is None:
                    break
                new.items[self.key(item)] = item
                new.drawn.append(self.key(item))
                continue
            trial = self.study.ask()
            item = self.ask(trial)
            key = self.key(item)
            trial.set_user_attr(ITEM, key)
            repeated = repeated + 1 if key in known or key in new.items else 0
            if key in known:
                self._tell(trial, known[key])
            else:
                new.items[key] = item
                new.asked.append((trial, key))
        return new

    def _tell(self, trial: optuna.Trial, told: Told) -> None:
        for step, score in told.on_the_way:
            trial.report(score, step)
        state = _state(told)
        self.study.tell(trial, list(told.values) if state.name == "COMPLETE" else None, state)

    def _add(self, item: Item, told: Told) -> None:
        """Tell of an item that Optuna did not ask for."""
        from optuna.trial import create_trial

        state = _state(told)
        if self.steer is None or state.name == "FAIL":
            return
        params, distributions = self.steer(item)
        # A pruned trial's value is its last on the way, as where Optuna is told of one that it asked for.
        values = list(told.values) or [score for _, score in told.on_the_way[-1:]] or None
        self.study.add_trial(
            create_trial(
                state=state, params=params, distributions=distributions, values=values,
                intermediate_values=dict(told.on_the_way), user_attrs={ITEM: self.key(item)},
            )
        )  # fmt: skip

    def _shuffled(self) -> Iterator[Item]:
        """Return the items that can be listed in an order that the seed and their identities decide."""
        return iter(
            sorted(
                self.spare,
                key=lambda item: hashlib.sha256(f"{self.settings.seed} {self.key(item)}".encode()).digest(),
            )
        )


def _state(told: Told) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    if not told.values:
        return TrialState.PRUNED
    return TrialState.FAIL if any(map(math.isnan, told.values)) else TrialState.COMPLETE
