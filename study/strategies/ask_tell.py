"""Optuna's ask and tell, in generations, from what is known: the same questions and answers lead to the same study.

The Optuna study lives in memory and is made anew from its first question whenever it is needed; nothing reads it back
from a file. `study.strategies.journal` writes it for people to look at.
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
class AskTell(Generic[Item]):
    """A search.

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

    def grow(self, tell: Callable[[list[Item]], list[tuple[float, ...]] | None]) -> tuple[list[list[Item]], bool]:
        """Ask as far as it can be told.

        Parameters
        ----------
        tell : callable
            The values of a generation's items; None as long as one of them is not known. A value that is NaN is that of
            an item of which nothing can be said.

        Returns
        -------
        list of list of items
            The generations; each item once.
        bool
            Whether all of the budget is planned, or nothing is left to plan.
        """
        import optuna

        from analysis.hyper_importance import quiet

        with quiet():
            self.study = optuna.create_study(sampler=self.settings.make(), directions=list(self.directions))
            known: dict[str, tuple[float, ...]] = {}
            generations: list[list[Item]] = []
            unused = self._shuffled()
            left = self.budget
            while left > 0:
                size = min(self.settings.batch, left) if self.settings.learns else left
                found, asked, drawn = self._generation(size, known, unused)
                if not found:
                    return generations, True
                generations.append(list(found.values()))
                left -= len(found)
                values = tell(generations[-1])
                if values is None:
                    return generations, left <= 0
                known |= dict(zip(found, values, strict=True))
                for trial, key in asked:
                    self._tell(trial, known[key])
                for key in drawn:
                    self._add(found[key], known[key])
        return generations, True

    def _generation(
        self, size: int, known: dict[str, tuple[float, ...]], unused: Iterator[Item]
    ) -> tuple[dict[str, Item], list[tuple[optuna.Trial, str]], list[str]]:
        """Ask for new items; of those that are known already, tell at once."""
        found: dict[str, Item] = {}
        asked, drawn, repeated = [], [], 0
        while len(found) < size:
            if repeated == STUBBORN:
                item = next((one for one in unused if self.key(one) not in known and self.key(one) not in found), None)
                if item is None:
                    break
                found[self.key(item)] = item
                drawn.append(self.key(item))
                continue
            trial = self.study.ask()
            item = self.ask(trial)
            key = self.key(item)
            trial.set_user_attr(ITEM, key)
            repeated = repeated + 1 if key in known or key in found else 0
            if key in known:
                self._tell(trial, known[key])
            else:
                found[key] = item
                asked.append((trial, key))
        return found, asked, drawn

    def _tell(self, trial: optuna.Trial, values: tuple[float, ...]) -> None:
        from optuna.trial import TrialState

        if any(map(math.isnan, values)):
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, list(values))

    def _add(self, item: Item, values: tuple[float, ...]) -> None:
        """Tell of an item that Optuna did not ask for."""
        from optuna.trial import TrialState, create_trial

        if self.steer is not None and not any(map(math.isnan, values)):
            params, distributions = self.steer(item)
            self.study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE, params=params, distributions=distributions, values=list(values),
                    user_attrs={ITEM: self.key(item)},
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
