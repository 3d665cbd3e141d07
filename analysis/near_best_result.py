"""The result of counting settings that are about as good as the best, task by task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.anova_table import p_text
from analysis.plain import records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("share", "share_overall", "sd")
"""Of each method on each task: settings near its own best, near the best of all methods, SD over the settings."""


@dataclass(frozen=True)
class NearBest(Result):
    """How many of each method's settings are about as good as the best, and how methods differ in that.

    Attributes
    ----------
    against : str
        The method with which every other is compared.
    within : float
        Settings this close to the best of a task are good, in units of the response.
    rows : DataFrame
        One row a method: settings, failed (trials), and of each measure (share, share_overall, sd) the mean over tasks
        and its interval (``_lower``, ``_upper``); NaN where tasks are too few or do not vary.
    by_task : DataFrame
        method, task, share, share_overall, sd.
    contrasts : DataFrame
        measure, method, difference to ``against``, lower, upper, t, df, p, p_adjusted (Holm, within a measure).
    curve : DataFrame
        of (own or overall best), method, within, share, lower, upper.
    """

    response: str
    by: str
    settings: tuple[str, ...]
    tasks: tuple[str, ...]
    against: str
    within: float
    level: float
    higher_is_better: bool
    rows: pd.DataFrame
    by_task: pd.DataFrame
    contrasts: pd.DataFrame
    curve: pd.DataFrame
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a method."""
        return self.rows.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not there is None."""
        return {
            "response": self.response, "by": self.by, "settings": list(self.settings), "tasks": list(self.tasks),
            "against": self.against, "within": self.within, "level": self.level,
            "higher_is_better": self.higher_is_better, "rows": records(self.rows), "by_task": records(self.by_task),
            "contrasts": records(self.contrasts), "curve": records(self.curve), "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """The shares, each other method beside the one it is compared with, and what cannot be said."""
        return "\n".join([*self._shares(), *self._differences(), *self.notes])

    def plot(self) -> Figure:
        """The share of settings against the distance to the best."""
        from analysis.importance_figures import near_best_curves

        return near_best_curves(self)

    def _shares(self) -> Iterator[str]:
        tasks = f"{len(self.tasks)} task{'s' * (len(self.tasks) != 1)}"
        for row in self.rows.to_dict("records"):
            ends = (row["share_lower"], row["share_upper"])
            interval = f" ({self.level:.0%} interval {ends[0]:.0%} … {ends[1]:.0%})" if ends[0] == ends[0] else ""
            yield (
                f"{row['method']}: on average over {tasks}, {row['share']:.0%} of its {row['settings']} settings"
                f"{interval} lie within {self.within:.3g} of the best that it reached there, and "
                f"{row['share_overall']:.0%} within that of the best of all methods."
            )

    def _differences(self) -> Iterator[str]:
        for row in self.contrasts[self.contrasts["measure"] == "share"].to_dict("records"):
            told = f"{row['method']} less {self.against}, near its own best: {row['difference']:+.0%}"
            if row["p"] != row["p"]:
                yield f"{told}; no test, since tasks are too few or give the same difference."
                continue
            sure = row["p_adjusted"] < 1 - self.level
            meaning = "not shown to differ"
            if sure:
                meaning = f"it depends {'less' if row['difference'] > 0 else 'more'} on its settings"
            yield (
                f"{told} ({self.level:.0%} interval over tasks {row['lower']:+.0%} … {row['upper']:+.0%}, "
                f"t({row['df']}) = {row['t']:.2f}, p {_p(row['p'])}, with Holm's correction {_p(row['p_adjusted'])}): "
                f"{meaning}."
            )


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
