"""Tuning by search: ranges of the protocol's numbers, and the points within them that Optuna asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from study.canonical import canonical_json
from study.strategies.ask_tell import AskTell, Settings, Tell, Told, Worst

if TYPE_CHECKING:
    import optuna

DIGITS = 3
"""Significant digits of a value that is searched; more would tell trials apart that no score can."""


EXACT = 12
"""Those of a value that is some steps from the lowest: enough for any step, few enough for 0.1 + 0.2 to be 0.3."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Attributes
    ----------
    log : bool
        Whether each order of magnitude is as likely as the others.
    step : float or None
        The distance of the numbers from one another; of whole numbers 1 where none is given.
    whole : bool
        Whether only whole numbers are meant.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    @property
    def middle(self) -> float:
        """The number halfway; on a range of orders of magnitude the geometric mean."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(middle) if self.whole else float(f"{middle:.{DIGITS}g}")

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """Return the number that Optuna suggests."""
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log, step=step)
        value = trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)
        digits = DIGITS if self.step is None else EXACT
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)

    def __str__(self) -> str:
        """Return it as people say it: 0.0001 to 0.03 (log)."""
        told = "log" if self.log else f"in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{told and f' ({told})'}"


@dataclass(frozen=True)
class Searched:
    """How tuning searches.

    Attributes
    ----------
    trials : int
        The budget of each group: tune trials.
    settings : Settings
    ranges : mapping of str to Range
        Of the protocol's numbers; what is searched besides are the values of the grid, which are taken as categories.
    """

    trials: int
    settings: Settings
    ranges: Mapping[str, Range]

    def points(
        self,
        grid: Mapping[str, Sequence[Any]],
        replicates: int,
        higher: bool,
        scores: Callable[[dict[str, Any]], list[list[float]] | None],
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return the points planned so far, and whether nothing follows.

        Parameters
        ----------
        grid : mapping of str to sequence
            The keys that are searched; the values of those without a range.
        replicates : int
            Trials of a point.
        higher : bool
            Whether a higher score is better.
        scores : callable
            Of a point: a list a task, of a score a seed, NaN where a trial diverged; None unless all rows are final.
        """
        def ask(trial: optuna.Trial) -> dict[str, Any]:
            return {key: self._ask(trial, key, values) for key, values in grid.items()}

        def telling() -> Tell[dict[str, Any]]:
            worst = Worst(higher)

            def tell(generation: list[dict[str, Any]]) -> list[Told] | None:
                found = [scores(values) for values in generation]
                known = [own for own in found if own is not None]
                if len(known) < len(found):
                    return None
                worst.see(value for own in known for some in own for value in some)
                return [Told((fmean(fmean(map(worst.fill, some)) for some in own),)) for own in known]

            return tell

        direction: Literal["maximize", "minimize"] = "maximize" if higher else "minimize"
        search = AskTell(self.settings, [direction], self.trials // replicates, ask, canonical_json)
        generations, ended = search.grow(telling)
        return [values for generation in generations for values in generation], ended

    def _ask(self, trial: optuna.Trial, key: str, values: Sequence[Any]) -> Any:
        if key in self.ranges:
            return self.ranges[key].suggest(trial, key)
        if self.settings.learns:
            return trial.suggest_categorical(key, list(values))
        return values[min(int(trial.suggest_float(key, 0, 1) * len(values)), len(values) - 1)]
