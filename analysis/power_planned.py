"""One term's test in a planned study, for any number of tasks and seeds: λ, smallest differences, power."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from analysis.declared import RESIDUAL
from analysis.model import name
from analysis.noncentral import (
    critical_f,
    critical_tukey,
    expected_epsilon,
    noncentrality_for,
    power_beyond,
    power_uneven,
    smallest_with,
)
from analysis.power_pilot import TASK, Variances
from analysis.power_result import ONE, TWO, GridPoint, Needed, PairPower, TermPower
from analysis.power_terms import COMPONENT, Shape, TestedTerm

SEEDS_TRIED = (1, 2, 3, 5)
_MOST_TASKS, _MOST_SEEDS = 10_000, 1_000


@dataclass(frozen=True)
class PlannedTest:
    """A term's test, for any number of tasks and seeds."""

    tested: TestedTerm
    shape: Shape
    variances: Variances
    against: str
    cells: int
    rank: int
    alpha: float
    target: float

    @property
    def measure(self) -> str:
        return ONE if self.tested.role == "interaction" else TWO

    @property
    def pattern(self) -> tuple[float, float]:
        """The effects that a difference of 1 of the measure means, as the shape has them."""
        return self.shape.one if self.measure == ONE else self.shape.two

    @property
    def combined(self) -> bool:
        """Whether the error holds variances of other terms too, of which nothing is foreseen here."""
        return self.against == TASK and bool(self.tested.mixed)

    def df_error(self, tasks: int, seeds: int) -> int:
        if self.against == TASK:
            return self.shape.df * (tasks - 1)
        return self.cells * tasks * seeds - tasks * seeds - self.rank + 1

    def epsilon(self, tasks: int, seeds: int) -> float:
        """What the table will multiply degrees of freedom with."""
        parts = self.parts(seeds)
        if self.against != TASK or not self.shape.df:
            return 1.0
        true = 1.0 if parts is None else self.sums(*parts)[0] ** 2 / (self.shape.df * self.sums(*parts)[1])
        return expected_epsilon(self.shape.df, tasks, true)

    def mean_sq(self, seeds: int) -> tuple[float, float] | None:
        """Expected mean square of the error, above 0, and its degrees of freedom as an estimate."""
        if not self.shape.df or self.combined:
            return None
        found = self.variances.expected(self.shape.load * seeds if self.against == TASK else 0.0)
        return found if found is not None and found[0] > 0 else None

    def parts(self, seeds: int) -> tuple[float, float] | None:
        """The variance of a contrast j that has aⱼ rows for each level and task is the first, and aⱼ times the second.

        Where only their sum is known all contrasts have it.
        """
        error, own = self.mean_sq(seeds), self.variances
        if error is None:
            return None
        if self.against != TASK or own.residual is None or own.task is None:
            return error[0], 0.0
        return own.residual, own.task * seeds

    def sums(self, residual: float, task: float) -> tuple[float, float]:
        """Sums over contrasts of their variances, and of the squares of these."""
        df, load, squared = self.shape.df, self.shape.load, self.shape.load_squared
        if task == 0:
            return df * residual, df * residual**2
        return df * (residual + task * load), df * (residual**2 + 2 * residual * task * load + task**2 * squared)

    def power(self, difference: float | None, tasks: int, seeds: int) -> float | None:
        """Power of the F test."""
        if difference is None:
            return None
        return self.power_of(difference, tasks, seeds, self.pattern, self.epsilon(tasks, seeds))

    def power_of(
        self, difference: float, tasks: int, seeds: int, pattern: tuple[float, float], epsilon: float
    ) -> float | None:
        """Power of the F test for a difference of a pattern."""
        df1, df2, parts = self.shape.df, self.df_error(tasks, seeds), self.parts(seeds)
        if parts is None or df2 < 1 or math.isnan(pattern[0]):
            return None
        total, squared = self.sums(*parts)
        size = difference**2 * tasks * seeds
        by_variance = size * (parts[0] * pattern[0] + parts[1] * pattern[1])
        return power_uneven(size * pattern[0], by_variance, total, squared, df2 * total**2 / (df1 * squared),
                            critical_f(df1, df2, self.alpha, epsilon))  # fmt: skip

    def smallest(
        self, tasks: int, seeds: int, pattern: tuple[float, float], epsilon: float | None = None
    ) -> float | None:
        """The smallest difference of a pattern that the F test finds with the power that is asked for."""
        error, factor = self.mean_sq(seeds), self.epsilon(tasks, seeds) if epsilon is None else epsilon
        if error is None or self.power_of(0.0, tasks, seeds, pattern, factor) is None:
            return None

        def power(difference: float) -> float:
            return self.power_of(difference, tasks, seeds, pattern, factor) or 0.0

        start = math.sqrt(self.shape.df * error[0] / (tasks * seeds * pattern[0]))
        return _there(smallest_with(power, self.target, start))

    def row(self, tasks: int, seeds: int, difference: float | None) -> TermPower:
        error = self.mean_sq(seeds)
        smallest = self.smallest(tasks, seeds, self.pattern)
        interval = None
        if smallest is not None and error is not None and 1 <= error[1] < math.inf:
            low, high = (math.sqrt(error[1] / chi2.ppf(q, error[1])) for q in (0.95, 0.05))
            interval = smallest * low, smallest * high
        own = self.variances
        against = name((*self.tested.term, TASK)).replace(COMPONENT, "component")
        return TermPower(
            term=self.tested.label, role=self.tested.role, df=self.shape.df, df_nominal=self.shape.df_nominal,
            error=against if self.against == TASK else RESIDUAL,
            df_error=self.df_error(tasks, seeds), epsilon=self.epsilon(tasks, seeds),
            sd=None if own.residual is None else math.sqrt(own.residual),
            sd_task=None if own.task is None or self.against != TASK else math.sqrt(own.task),
            error_sd=None if error is None else math.sqrt(error[0]),
            f=None if smallest is None or error is None else smallest * math.sqrt(
                self.pattern[0] / (self.cells * error[0])
            ),
            smallest=smallest if self.measure == TWO else None, smallest_ci=interval,
            smallest_one=self.smallest(tasks, seeds, self.shape.one),
            smallest_spherical=self.smallest(tasks, seeds, self.pattern, 1.0), measure=self.measure,
            power=self.power(difference, tasks, seeds),
        )  # fmt: skip

    def pairs(self, tasks: int, seeds: int, difference: float | None) -> PairPower:
        levels, pairs = self.shape.levels, self.shape.pairs
        pooled = self.df_error(tasks, seeds)
        df = tasks - 1 if self.against == TASK else pooled
        parts = self.parts(seeds)
        variance = None if parts is None else (parts[0] / self.shape.two[0] + 2 * parts[1]) / (tasks * seeds)

        def both(df: int, critical: Callable[[], float]) -> tuple[float | None, float | None]:
            if df < 1 or variance is None:
                return None, None
            beyond = critical()
            if math.isnan(beyond):
                return None, None
            smallest = math.sqrt(noncentrality_for(self.target, 1, df, beyond) * variance)
            power = None if difference is None else power_beyond(difference**2 / variance, 1, df, beyond)
            return _there(smallest), power

        one, power_one = both(df, lambda: critical_f(1, df, self.alpha))
        each, power_each = both(df, lambda: critical_f(1, df, self.alpha / pairs))
        tukey, power_tukey = both(pooled, lambda: critical_tukey(levels, pooled, self.alpha))
        return PairPower(self.tested.label, levels, pairs, df, pooled, one, each, tukey, power_one, power_each,
                         power_tukey)  # fmt: skip

    def grid(self, tasks: int, seeds: int, difference: float | None) -> Iterable[GridPoint]:
        """Other numbers of tasks and seeds."""
        if difference is None:
            difference = self.smallest(tasks, seeds, self.pattern)
        for count in sorted({*SEEDS_TRIED, seeds}):
            for number in _tasks_tried(tasks, self.against):
                smallest = self.smallest(number, count, self.pattern)
                yield GridPoint(self.tested.label, number, count, self.cells * number * count, smallest, difference,
                                self.power(difference, number, count))  # fmt: skip

    def needed(self, tasks: int, seeds: int, difference: float) -> Iterable[Needed]:
        """The fewest tasks for some numbers of seeds, and the fewest seeds for the planned tasks."""

        def with_seeds(count: int) -> Callable[[int], float | None]:
            return lambda number: self.power(difference, number, count)

        def trials(tasks: int | None, seeds: int | None) -> int | None:
            return None if tasks is None or seeds is None else self.cells * tasks * seeds

        label = self.tested.label
        for count in sorted({*SEEDS_TRIED, seeds}):
            found = _fewest(with_seeds(count), self.target, self._fewest_tasks, _MOST_TASKS)
            yield Needed(label, "tasks", found, count, trials(found, count))
        found = _fewest(lambda number: self.power(difference, tasks, number), self.target, 1, _MOST_SEEDS)
        yield Needed(label, "seeds", tasks, found, trials(tasks, found))

    @property
    def _fewest_tasks(self) -> int:
        return 2 if self.against == TASK else 1


def _tasks_tried(tasks: int, against: str) -> list[int]:
    """From the fewest to twice the planned ones, at most some twenty numbers."""
    least, most = (2 if against == TASK else 1), max(12, 2 * tasks)
    return sorted({tasks, *np.linspace(least, most, min(20, most - least + 1)).round().astype(int).tolist()})


def _fewest(power: Callable[[int], float | None], target: float, least: int, most: int) -> int | None:
    """The smallest number from which on a power that grows is reached."""

    def enough(number: int) -> bool:
        found = power(number)
        return found is not None and found >= target

    high = least
    while not enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = least if high == least else high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _there(value: float) -> float | None:
    return None if math.isnan(value) else value
