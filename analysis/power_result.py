"""The result of a power analysis: what a planned study can find, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.anova_table import df_text
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TWO, ONE = "two levels", "one combination"


@dataclass(frozen=True)
class TermPower:
    """What the F test of one term can find; what is not known is None.

    Attributes
    ----------
    role : str
        ``factor``, ``component`` or ``interaction``.
    df, df_nominal : int
        Estimable degrees of freedom, and those the term would have with every cell filled.
    error : str
        What the term is tested against.
    df_error : int
    epsilon : float
        Expected Greenhouse-Geisser factor of both degrees of freedom, as the table will decide; 1 where none is needed.
    sd, sd_task : float or None
        Of the residual, and of the term's effects from task to task.
    error_sd : float or None
        Square root of the error's expected mean square, in units of the response.
    f : float or None
        Smallest detectable effect as Cohen's f, in units of ``error_sd``: λ = N·f².
    smallest : float or None
        Smallest detectable spread, in units of the response: the largest difference between two levels from which on
        the power is reached, however the other levels lie (f·√(2k)·σ for k balanced levels). None for interactions.
    smallest_ci : (low, high) or None
        90 % interval of the difference ``measure`` speaks of, from the pilot's degrees of freedom (Satterthwaite's, if
        the error is made of two mean squares); None with less than one.
    smallest_one : float or None
        Smallest detectable distance of one level from all others, which are equal; of an interaction: of one
        combination from what the terms within it say.
    smallest_spherical : float or None
        As the difference ``measure`` speaks of, if equal variances could be taken for granted (epsilon 1).
    measure : str
        What a wished difference means in this term: "two levels" (``smallest``) or "one combination"
        (``smallest_one``).
    power : float or None
        Of the wished difference in the planned study.
    """

    term: str
    role: str
    df: int
    df_nominal: int
    error: str
    df_error: int
    epsilon: float
    sd: float | None
    sd_task: float | None
    error_sd: float | None
    f: float | None
    smallest: float | None
    smallest_ci: tuple[float, float] | None
    smallest_one: float | None
    smallest_spherical: float | None
    measure: str
    power: float | None

    @property
    def detectable(self) -> float | None:
        """The smallest detectable difference of the kind that ``measure`` names."""
        return self.smallest if self.measure == TWO else self.smallest_one


@dataclass(frozen=True)
class PairPower:
    """Smallest detectable differences between two levels of a term, by t tests (two-sided).

    Attributes
    ----------
    of : str
        The term, or "whole design" for the planned designs as wholes.
    levels, pairs : int
        Levels, and pairs of them that can be compared.
    df : int
        Of the t test of one pair; against tasks it is tasks − 1, exact whatever the variances.
    df_pooled : int
        Of the pooled error, which Tukey's comparison uses and which needs equal variances.
    one, bonferroni, tukey : float or None
        One pair named beforehand; each of all pairs by Bonferroni (on ``df``) and by Tukey (on ``df_pooled``).
    power_one, power_bonferroni, power_tukey : float or None
        Of the wished difference.
    """

    of: str
    levels: int
    pairs: int
    df: int
    df_pooled: int
    one: float | None
    bonferroni: float | None
    tukey: float | None
    power_one: float | None
    power_bonferroni: float | None
    power_tukey: float | None


@dataclass(frozen=True)
class GridPoint:
    """One term under other numbers of tasks and seeds.

    Attributes
    ----------
    trials : int
    smallest : float or None
        Smallest detectable difference of the term's ``measure``.
    difference, power : float or None
        A difference and its power: the wished one, or without a wish the smallest detectable one of the planned study.
    """

    term: str
    tasks: int
    seeds: int
    trials: int
    smallest: float | None
    difference: float | None
    power: float | None


@dataclass(frozen=True)
class Needed:
    """The fewest tasks, or seeds, with which the F test of a term finds the wished difference.

    Attributes
    ----------
    varied : str
        "tasks" or "seeds": which of the two was looked for, the other being given.
    tasks, seeds, trials : int or None
        None where no number reaches the power, or the variances do not tell.
    """

    term: str
    varied: str
    tasks: int | None
    seeds: int | None
    trials: int | None


@dataclass(frozen=True)
class Power(Result):
    """What a planned study can find.

    Attributes
    ----------
    alpha, target : float
        Level of the tests, and the power that is asked for.
    tasks, seeds, designs, trials : int
        Of the plan.
    error : str
        "task" or "residual".
    difference : float or None
        The wished one.
    source : str
        Where the variances are from.
    terms, pairs, grid, needed : tuples
        F tests of the plan; t tests of the plan; other numbers of tasks and seeds; what a wished difference needs.
    notes : tuple of str
    """

    alpha: float
    target: float
    tasks: int
    seeds: int
    designs: int
    trials: int
    error: str
    difference: float | None
    source: str
    terms: tuple[TermPower, ...]
    pairs: tuple[PairPower, ...]
    grid: tuple[GridPoint, ...]
    needed: tuple[Needed, ...]
    notes: tuple[str, ...]

    def __getitem__(self, term: str) -> TermPower:
        """The entry of one term, by name."""
        for row in self.terms:
            if row.term == term:
                return row
        raise KeyError(f"no term {term!r} in the plan; it has {', '.join(r.term for r in self.terms)}")

    def to_frame(self) -> pd.DataFrame:
        """One row a term, columns as :class:`TermPower`."""
        return _frame(self.terms)

    def pairs_frame(self) -> pd.DataFrame:
        """One row a term whose levels can be compared, columns as :class:`PairPower`."""
        return _frame(self.pairs)

    def grid_frame(self) -> pd.DataFrame:
        """One row a term, number of tasks and number of seeds, columns as :class:`GridPoint`."""
        return _frame(self.grid)

    def needed_frame(self) -> pd.DataFrame:
        """One row a term and number of seeds (or of tasks), columns as :class:`Needed`."""
        return _frame(self.needed).astype(dict.fromkeys(["tasks", "seeds", "trials"], "Int64"))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; a number that is not there is None."""
        return asdict(self)

    def explain(self) -> str:
        """What the plan can find and what it cannot, in sentences."""
        return "\n".join([_opening(self), *_sentences(self), *self.notes])

    def plot(self) -> Figure:
        """Power against the number of tasks, one panel a term, one line a number of seeds."""
        from analysis.power_figures import power_curves

        return power_curves(self)


def _frame(rows: Iterable[Any]) -> pd.DataFrame:
    frame = pd.DataFrame([asdict(row) for row in rows])
    empty = [column for column in frame if frame[column].isna().all()]
    return frame.astype(dict.fromkeys(empty, float))


def _opening(found: Power) -> str:
    whom = "on new tasks, too"
    if found.error != "task":
        whom = "on these tasks, not on new ones" if found.tasks > 1 else "for repetitions of what is planned"
    against = "its interaction with task" if found.error == "task" else "the residual"
    return (
        f"Planned: {count(found.trials, 'trial')} ({count(found.designs, 'design')} × {count(found.tasks, 'task')} × "
        f"{count(found.seeds, 'seed')}). Every term is tested against {against} at {found.alpha:g}, so the answer "
        f"holds {whom}; smallest detectable means found with a power of {found.target:.0%}. Variances are from "
        f"{found.source}."
    )


def _sentences(found: Power) -> Iterable[str]:
    for row in found.terms:
        yield _of_term(row)
        if found.difference is not None and row.power is not None:
            yield _of_wish(row, found)
    for pair in found.pairs:
        if pair.one is not None:
            yield _of_pair(pair)


def _of_term(row: TermPower) -> str:
    part = "" if row.df == row.df_nominal else f" ({row.df} of {row.df_nominal} degrees of freedom are estimable)"
    if row.df == 0:
        return f"{row.term} cannot be told apart from the other terms{part}."
    if row.detectable is None or row.f is None or row.error_sd is None:
        return f"{row.term}: what can be found is not known{part}."
    interval = "" if row.smallest_ci is None else " (90 % interval {:.3g} to {:.3g})".format(*row.smallest_ci)
    if row.measure == ONE:
        what = f"one combination must lie {row.detectable:.3g}{interval} or more off what its parts say"
    else:
        what = f"two levels must differ by {row.detectable:.3g}{interval} or more"
        if row.smallest_one is not None and row.df > 1:
            what += f", or one from all others by {row.smallest_one:.3g}"
    against = "the residual" if row.error == "residual" else row.error
    factor = "" if row.epsilon == 1 else f", both times {row.epsilon:.2f}"
    return (
        f"{row.term}: {what} (F({row.df}, {df_text(row.df_error)}){factor}, f = {row.f:.2g}, error SD "
        f"{row.error_sd:.3g} against {against}){part}."
    )


def _of_pair(row: PairPower) -> str:
    of = "whole designs" if row.of == "whole design" else f"levels of {row.of}"
    tukey = "" if row.tukey is None else f" and {row.tukey:.3g} by Tukey (t, {row.df_pooled} df)"
    return (
        f"Two {of}: {row.one:.3g} or more for one pair named beforehand (t, {row.df} df); for all "
        f"{count(row.pairs, 'pair')}, {row.bonferroni:.3g} by Bonferroni{tukey}."
    )


def _of_wish(row: TermPower, found: Power) -> str:
    needed = [n for n in found.needed if n.term == row.term]
    by_tasks = [
        f"{count(n.tasks, 'task')} with {count(n.seeds, 'seed')}"
        for n in needed
        if n.varied == "tasks" and n.tasks is not None and n.seeds is not None
    ]
    seeds = next((n for n in needed if n.varied == "seeds"), None)
    ways = f"{found.target:.0%} needs {', or '.join(by_tasks)}" if by_tasks else "no number of tasks was found for it"
    if seeds is None:
        more = ""
    elif seeds.seeds is None:
        more = f"; with {count(found.tasks, 'task')} no number of seeds reaches it"
    else:
        more = f"; with {count(found.tasks, 'task')} it needs {count(seeds.seeds, 'seed')}"
    return f"A difference of {found.difference:g} in {row.term} is found with power {share(row.power)}; {ways}{more}."


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def share(power: float | None) -> str:
    """A power in per cent, never 0 or 100; an en dash when there is none."""
    if power is None:
        return "–"
    return "below 1%" if power < 0.005 else "above 99%" if power > 0.995 else f"{power:.0%}"
