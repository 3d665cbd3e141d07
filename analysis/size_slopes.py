"""A score against the number of parameters: the trend over designs, and the front of both.

What ten times as many parameters are worth is a regression on the logarithm with a design as one observation, since
rows of one design say nothing more about size. Designs differ in more than size, so it is a description, no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from adapters.faults import InputFault
from analysis.by_task import by_task
from analysis.declared import names
from analysis.front import on_front
from analysis.pareto_optimal import FEWEST_TASKS
from analysis.plain import or_none, p_is, records
from analysis.result import Result
from analysis.sample import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SizeTrend(Result):
    """A score against the logarithm of the number of parameters, a design being one observation.

    Attributes
    ----------
    slope, lower, upper, p : float
        Change of the score with ten times as many parameters; t interval and two-sided p over designs.
    df : int
        Designs − 2.
    slope_tasks, lower_tasks, upper_tasks : float
        Mean of the tasks' own slopes with the t interval over tasks; NaN with fewer than three tasks.
    designs : DataFrame
        design, parameters, the score, ``front``: whether no smaller or equal design is better.
    """

    response: str
    parameters: str
    task: str
    level: float
    higher_is_better: bool
    slope: float
    lower: float
    upper: float
    p: float
    df: int
    slope_tasks: float
    lower_tasks: float
    upper_tasks: float
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    never: tuple[str, ...]
    designs: pd.DataFrame = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a design, smallest first."""
        return self.designs.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what cannot be given is None."""
        plain = {
            name: getattr(self, name)
            for name in ("response", "parameters", "task", "level", "higher_is_better", "df")
        }  # fmt: skip
        numbers = {
            name: or_none(getattr(self, name))
            for name in ("slope", "lower", "upper", "p", "slope_tasks", "lower_tasks", "upper_tasks")
        }
        return {
            **plain, **numbers, "tasks": list(self.tasks), "left_out": list(self.left_out),
            "never": list(self.never),             "designs": records(self.designs),
        }  # fmt: skip

    def explain(self) -> str:
        """The trend, what it holds for, and the front."""
        lines = [
            f"Ten times as many {self.parameters} change {self.response} by {self.slope:.3g} ({self.level:.0%} "
            f"interval {self.lower:.3g} to {self.upper:.3g}, p {p_is(self.p)}), over {len(self.designs)} designs as "
            f"observations on {len(self.tasks)} levels of {self.task}."
        ]
        if np.isnan(self.slope_tasks):
            lines.append(
                f"With fewer than {FEWEST_TASKS} levels of {self.task} nothing can be said of the trend on new ones."
            )
        else:
            lines.append(
                f"For these designs on new levels of {self.task} the change is {self.slope_tasks:.3g} (interval "
                f"{self.lower_tasks:.3g} to {self.upper_tasks:.3g}, t over {len(self.tasks)} of them)."
            )
        lines.append("Designs differ in more than size, so the trend is no effect of size alone.")
        front = self.designs[self.designs["front"]]
        lines.append(
            f"On the front of {self.response} and {self.parameters}: "
            + ", ".join(f"{r['design']} ({r['parameters']:,.0f}; {r[self.response]:.4g})" for _, r in front.iterrows())
            + "; differences that are noise may decide who is on it."
        )
        if self.left_out:
            lines.append(f"Left out, since some design has no {self.response} there: {', '.join(self.left_out)}.")
        if self.never:
            lines.append(f"Never complete, so not compared: {', '.join(self.never)}.")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Score of each design against its parameters, with the front."""
        from analysis.figures import cost

        return cost(
            self.designs, self.response, "design", {"parameters": self.parameters},
            higher_is_better=self.higher_is_better, axis=self.response,
        )  # fmt: skip


def size_trend(
    frame: pd.DataFrame,
    response: str,
    of: str | Sequence[str],
    parameters: str = "parameters",
    task: str = "task",
    higher_is_better: bool = True,
    level: float = 0.95,
) -> SizeTrend:
    """Regress a score on the base-10 logarithm of the number of parameters, with designs as observations.

    Parameters
    ----------
    of : str or sequence of str
        Columns whose combinations are the designs; each has one number of parameters.
    parameters : str
        A positive numeric column.
    task : str
        Column over which scores are averaged, each level counted equally; only levels on which every design has the
        score in every row are used, so that none gains by failing where it is hard.
    level : float
        Of the intervals.

    Raises
    ------
    InputFault
        A column is missing or holds text; a design with several numbers of parameters, or one not above 0; fewer than
        three designs, or all of one size; no task in common.
    """
    of = names(of)
    found = by_task(frame, [response, parameters], of, task)
    ends = frame.groupby(of, observed=True, dropna=False)[parameters].agg(["min", "max"]).reset_index()
    mixed = ends[ends["max"] - ends["min"] > 1e-9 * ends["max"].abs()]
    several = [":".join(map(text_of, row)) for row in mixed[of].itertuples(index=False)]
    if several:
        raise InputFault(
            f"{', '.join(several)}: {parameters} differs between rows of one design; name the factor that it depends "
            "on among the columns of the designs, or analyse one backbone at a time."
        )
    size = found.values[:, 0, 1]
    if (size <= 0).any():
        raise InputFault(f"{parameters} must be above 0 for a logarithm; the smallest is {size.min():g}.")
    if len(size) < 3 or len(set(size)) < 2:
        raise InputFault(
            f"A trend over {parameters} needs three designs of two sizes or more; there are {len(size)} designs of "
            f"{len(set(size))} sizes."
        )
    x, scores = np.log10(size), found.values[:, :, 0]
    mean = scores.mean(axis=1)
    fit = stats.linregress(x, mean)
    df = len(x) - 2
    half = float(stats.t.ppf((1 + level) / 2, df)) * float(fit.stderr)
    over_tasks = (np.nan, np.nan, np.nan)
    if len(found.tasks) >= FEWEST_TASKS:
        centred = x - x.mean()
        own = centred @ scores / (centred @ centred)
        width = float(stats.t.ppf((1 + level) / 2, len(own) - 1) * own.std(ddof=1) / np.sqrt(len(own)))
        over_tasks = (float(own.mean()), float(own.mean()) - width, float(own.mean()) + width)
    designs = found.table()
    designs["parameters"], designs[response] = size, mean
    designs["front"] = on_front(designs["parameters"], designs[response], higher_is_better)
    designs = designs.sort_values("parameters", kind="stable").reset_index(drop=True)
    slope = float(fit.slope)
    return SizeTrend(
        response, parameters, task, level, higher_is_better, slope, slope - half, slope + half, float(fit.pvalue), df,
        *over_tasks, found.tasks, found.left_out, found.never, designs,
    )  # fmt: skip
