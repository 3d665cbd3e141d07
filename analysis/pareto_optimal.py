"""Designs that no other beats on all scores at once, and how firmly that is known.

Designs are weighed without a common currency: a design is Pareto-optimal if no other is at least as good on every score
and better on one. The tasks are drawn anew (a bootstrap) to see how often each is; that speaks about new tasks only as
far as those that were run are a sample of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.by_task import ByTask, by_task
from analysis.declared import names
from analysis.plain import records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_TASKS = 3
_MOST_NAMES = 12
# Below this share of the draws a design that is not optimal on the tasks that were run is not worth a word.
_WORTH_A_WORD = 0.05


@dataclass(frozen=True)
class Pareto(Result):
    """Designs, their scores, and how often each is Pareto-optimal when tasks are drawn anew.

    Attributes
    ----------
    scores : dict of str to str
        Score → "higher" or "lower", whichever is better.
    designs : DataFrame
        design, the columns of ``of``, the mean of every score over the tasks used, ``optimal`` (on these tasks) and
        ``probability`` (share of the draws in which it is; NaN with fewer than three tasks). Most probable first.
    tasks, left_out : tuple of str
        Tasks in which every design has every score, and the others.
    never : tuple of str
        Designs without any complete task; they were not compared.
    """

    scores: dict[str, str]
    of: tuple[str, ...]
    task: str
    draws: int
    seed: int
    designs: pd.DataFrame = field(repr=False, compare=False)
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    never: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def optimal(self) -> list[str]:
        """Designs that are Pareto-optimal on the tasks that were run."""
        return self.designs.loc[self.designs["optimal"], "design"].tolist()

    def to_frame(self) -> pd.DataFrame:
        """One row a design."""
        return self.designs.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; a probability that cannot be given is None."""
        return {
            "scores": dict(self.scores), "of": list(self.of), "task": self.task, "draws": self.draws,
            "seed": self.seed, "designs": records(self.designs), "tasks": list(self.tasks),
            "left_out": list(self.left_out), "never": list(self.never), "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """Which designs no other beats, and how firmly that is known."""
        wanted = ", ".join(f"{name} {better}" for name, better in self.scores.items())
        best = self.designs[self.designs["optimal"]]
        known = self.designs["probability"].notna().all()
        shown = [
            f"{row['design']} (probability {row['probability']:.2f})" if known else str(row["design"])
            for _, row in best.iterrows()
        ]
        lines = [
            f"Pareto-optimal on {len(self.tasks)} levels of {self.task} ({wanted} is better): "
            f"{len(best)} of {len(self.designs)} designs: {_listed(shown)}."
        ]
        close = self.designs[~self.designs["optimal"] & (self.designs["probability"] >= _WORTH_A_WORD)]
        if len(close):
            others = _listed([f"{row['design']} ({row['probability']:.2f})" for _, row in close.iterrows()])
            lines.append(f"Not among them, but in at least {_WORTH_A_WORD:.0%} of the draws: {others}.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """The first two scores of every design, coloured by its probability of being optimal."""
        from analysis.several_figures import pareto_plot

        return pareto_plot(self)


def pareto(
    frame: pd.DataFrame,
    scores: Mapping[str, str],
    of: str | Sequence[str],
    task: str = "task",
    draws: int = 2000,
    seed: int = 0,
) -> Pareto:
    """Probability that each design is Pareto-optimal, by a bootstrap over tasks.

    Parameters
    ----------
    scores : mapping of str to str
        Numeric columns → "higher" or "lower", whichever is better; the number of parameters may be one of them.
    of : str or sequence of str
        Columns whose combinations are the designs.
    task : str
        Column of what is drawn anew, with replacement; scores are averaged within design and task first.
    draws, seed : int
        Of the bootstrap.

    Notes
    -----
    Designs are compared only on tasks where each of them has every score in every row, so that none gains by failing
    where it is hard. With fewer than three tasks no probability is given. The share of draws is not the probability
    that a design truly is optimal: with few tasks it is coarse, and near a tie it is near one half.

    Raises
    ------
    InputFault
        A column is missing or holds text; fewer than two scores; a direction other than the two; no task in common.
    """
    of = names(of)
    if len(scores) < 2:
        raise InputFault(f"Pareto-optimality needs two scores or more; got {', '.join(scores) or 'none'}.")
    wrong = {name: better for name, better in scores.items() if better not in ("higher", "lower")}
    if wrong:
        raise InputFault(
            "Of each score say whether 'higher' or 'lower' is better; got "
            f"{', '.join(f'{name}: {better!r}' for name, better in wrong.items())}."
        )
    if draws < 1:
        raise InputFault(f"The bootstrap needs one draw or more, not {draws}.")
    found = by_task(frame, list(scores), of, task)
    used, count = found.values, len(found.tasks)
    sign = np.array([1.0 if better == "higher" else -1.0 for better in scores.values()])
    means = used.mean(axis=1)
    probability = np.full(len(means), np.nan)
    if count >= FEWEST_TASKS:
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws) / count
        hits = np.zeros(len(means))
        for weight in weights:
            hits += undominated(np.einsum("t,dts->ds", weight, used) * sign)
        probability = hits / draws
    designs = found.table()
    designs[list(scores)] = means
    designs["optimal"], designs["probability"] = undominated(means * sign), probability
    designs = designs.sort_values(["probability", "optimal"], ascending=False, kind="stable").reset_index(drop=True)
    return Pareto(
        dict(scores), tuple(of), task, draws, seed, designs, found.tasks, found.left_out, found.never,
        tuple(_notes(task, draws, seed, found)),
    )  # fmt: skip


def undominated(gains: np.ndarray) -> np.ndarray:
    """Say which rows of ``gains`` (designs, scores), higher being better, no other row dominates: bool (designs,).

    A row dominates another if it is at least as good on every score and better on one.
    """
    as_good = np.ones((len(gains), len(gains)), dtype=bool)
    better = np.zeros_like(as_good)
    for score in gains.T:
        as_good &= score[:, None] >= score[None, :]
        better |= score[:, None] > score[None, :]
    return np.asarray(~(as_good & better).any(axis=0))


def _notes(task: str, draws: int, seed: int, found: ByTask) -> list[str]:
    notes, count = [], len(found.tasks)
    if count < FEWEST_TASKS:
        notes.append(
            f"With {count} of at least {FEWEST_TASKS} levels of {task} no probability can be given: this describes "
            "what was run."
        )
    else:
        notes.append(
            f"Probabilities are shares of {draws} draws of the {count} levels of {task} with replacement "
            f"(seed {seed}). With few levels they are coarse, and speak about new ones only if these are a sample."
        )
    if found.left_out:
        notes.append(f"Left out, since some design lacks a score there: {', '.join(found.left_out)}.")
    if found.never:
        notes.append(f"Never complete, so not compared: {', '.join(found.never)}.")
    return notes


def _listed(shown: Sequence[str]) -> str:
    more = len(shown) - _MOST_NAMES
    return ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
