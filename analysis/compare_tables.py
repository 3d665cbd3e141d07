"""The results of comparisons: tables of contrasts, the set of levels that may be the best, and Welch's test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.anova_table import df_text, p_text
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLD = 10  # contrasts that are told in words; the table has all
_DRAWN = 60


@dataclass(frozen=True)
class ContrastTable(Result):
    """Contrasts of means with simultaneous intervals.

    Attributes
    ----------
    of : tuple of str
        The columns whose levels are compared.
    method : str
        What was asked for: "contrasts", "pairwise", "Games-Howell" or "trend".
    adjust : str
        How p values are adjusted for the number of contrasts.
    level : float
        Of the intervals.
    intervals : str
        What makes the intervals simultaneous, or that they are not.
    error : str
        What standard errors come from.
    approximate : bool
        Whether degrees of freedom or standard errors are approximations.
    rows : DataFrame
        A row a contrast: contrast, (first, second,) estimate, se, df, t, p (on its own), p_adjusted, lower, upper,
        estimable, error. What the data cannot give is NaN.
    departure : dict or None
        For a trend, the joint test of what it leaves: F, df1, df2, p.
    """

    response: str
    of: tuple[str, ...]
    method: str
    adjust: str
    level: float
    intervals: str
    error: str
    approximate: bool
    n: int
    n_missing: int
    question: str
    notes: tuple[str, ...]
    rows: pd.DataFrame = field(repr=False, compare=False)
    departure: dict[str, float] | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a contrast."""
        return self.rows.copy()

    def shown(self) -> pd.DataFrame:
        """Contrasts by name, without the columns of their sides."""
        return self.rows.drop(columns=["first", "second", "error"], errors="ignore")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists: what ``to_json`` writes."""
        return {
            "response": self.response, "of": list(self.of), "method": self.method, "adjust": self.adjust,
            "level": self.level, "intervals": self.intervals, "error": self.error, "approximate": self.approximate,
            "n": self.n, "n_missing": self.n_missing, "question": self.question, "contrasts": records(self.rows),
            "departure": self.departure, "notes": list(self.notes),
        }  # fmt: skip

    def to_json(self) -> str:
        """One JSON document; a number that is not there is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def explain(self) -> str:
        """The contrasts in sentences, the clearest first."""
        rows, alpha = self.rows, 1 - self.level
        tested = rows[rows["p_adjusted"].notna()].sort_values("p_adjusted", kind="stable")
        clear, unclear = tested[tested["p_adjusted"] < alpha], tested[tested["p_adjusted"] >= alpha]
        lines = [self.question, self._count(len(clear), len(tested))]
        lines += [self._sentence(row) for row in clear.head(_TOLD).to_dict("records")]
        if len(clear) > _TOLD:
            lines.append(f"The table has the other {len(clear) - _TOLD}.")
        if len(unclear):
            reach = float(np.abs(unclear[["lower", "upper"]].to_numpy()).max())
            lines.append(
                f"Of {len(unclear)} the data do not show whether they differ from 0; their {self._intervals()} reach "
                f"as far as {reach:.3g}, so this is no evidence that they are 0."
            )
        if self.departure is not None:
            lines.append(_departure(self.departure))
        lines += _left_out(rows)
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """Estimates with their intervals, the clearest first; of more than 60 contrasts those with the smallest p."""
        from analysis.figures import dot_plot

        shown = self.rows[self.rows["lower"].notna()].sort_values("p_adjusted", kind="stable")
        axis = f"{self.response}, {self._intervals()}"
        if len(shown) > _DRAWN:
            axis += f"; {_DRAWN} of {len(shown)} contrasts, smallest p"
            shown = shown.head(_DRAWN)
        clear = np.where(shown["p_adjusted"] < 1 - self.level, "differ", "not shown to differ")
        return dot_plot(shown.assign(shown=clear), "contrast", "estimate", "shown", axis, {"no difference": 0.0})

    def _intervals(self) -> str:
        return f"{percent(self.level)} intervals ({self.intervals})"

    def _count(self, clear: int, tested: int) -> str:
        kind = {"pairwise": "differences", "Games-Howell": "differences"}.get(self.method, "contrasts")
        name = ":".join(self.of)
        if not tested:
            return f"None of the {len(self.rows)} {kind} of {name} can be tested."
        return (
            f"{clear} of {tested} {kind} of {name} in {self.response} are not 0 at {percent(1 - self.level)} (p "
            f"{_ADJUSTED.get(self.adjust, 'of each on its own, not adjusted')}; standard errors from {self.error})."
        )

    def _sentence(self, row: Mapping[Any, Any]) -> str:
        p = row["p_adjusted"]
        return (
            f"{row['contrast']}: {row['estimate']:.4g} ({row['lower']:.4g} to {row['upper']:.4g}), "
            f"t({df_text(round(row['df'], 1))}) = {row['t']:.3g}, p {'' if p < 1e-4 else '= '}{p_text(p)}."
        )


_ADJUSTED = {
    "tukey": "adjusted by Tukey-Kramer",
    "holm": "adjusted by Holm",
    "dunnett": "adjusted by Dunnett",
    "games-howell": "adjusted by Games-Howell",
}


BEST_COLUMNS = (
    "level", "component", "n", "mean", "estimate", "se", "df", "critical", "p_adjusted", "lower", "upper",
    "may_be_best", "estimable", "error",
)  # fmt: skip
"""Columns of :class:`BestSet`; a factor of such a name is in its ``level`` only."""


@dataclass(frozen=True)
class BestSet(Result):
    """Multiple comparisons with the best (Hsu 1981, 1984): which levels may be the best, and by how much.

    Attributes
    ----------
    may_be_best : tuple of str
        The levels that the data do not exclude from being the best. The truly best is among them with probability
        `level` at least. Where levels fall into components that cannot be compared, each has its own set.
    rows : DataFrame
        A row a level: level, a column for each of `of`, component (number; levels of different ones cannot be
        compared), n, mean (marginal), estimate (how much better than the best other level of the component; positive is
        better, also where lower values are), se, df, critical, p_adjusted (of the hypothesis that it is the best),
        lower, upper (simultaneous), may_be_best (None where it cannot be said), estimable, error.
    """

    response: str
    of: tuple[str, ...]
    higher_is_better: bool
    level: float
    error: str
    approximate: bool
    n: int
    n_missing: int
    question: str
    notes: tuple[str, ...]
    may_be_best: tuple[str, ...]
    rows: pd.DataFrame = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a level, in the order of the levels."""
        return self.rows.copy()

    def shown(self) -> pd.DataFrame:
        """Levels by name, without columns that are the same for all: one component, all estimable."""
        alike = [name for name in ("component", "estimable") if self.rows[name].nunique() == 1]
        return self.rows.drop(columns=[*self.of, *alike, "critical", "error"], errors="ignore")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists: what ``to_json`` writes."""
        return {
            "response": self.response, "of": list(self.of), "method": "best",
            "higher_is_better": self.higher_is_better, "level": self.level, "intervals": _HSU, "error": self.error,
            "approximate": self.approximate, "n": self.n, "n_missing": self.n_missing, "question": self.question,
            "may_be_best": list(self.may_be_best), "levels": records(self.rows), "notes": list(self.notes),
        }  # fmt: skip

    def to_json(self) -> str:
        """One JSON document; a number that is not there is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def explain(self) -> str:
        """The set in sentences."""
        lines = [self.question]
        several = self.rows["component"].nunique() > 1
        for number, rows in self.rows.groupby("component", sort=True):
            compared = rows[rows["lower"].notna()]
            where = f" of component {number}" if several else ""
            if len(compared):
                lines += self._component(compared, where)
            elif several:
                lines.append(f"Component {number}: {', '.join(rows['level'])} cannot be compared with any other level.")
        if not self.rows["lower"].notna().any():
            lines.append(f"None of the {len(self.rows)} levels of {':'.join(self.of)} can be compared.")
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """How much better each level is than the best of the others, with simultaneous intervals, best first."""
        from analysis.figures import dot_plot

        shown = self.rows[self.rows["lower"].notna()]
        shown = shown.sort_values(["component", "estimate"], ascending=[True, False], kind="stable")
        part = np.where(shown["may_be_best"].astype(bool), "may be the best", "is not the best")
        axis = f"{self.response}: better than the best other level by, {percent(self.level)} intervals ({_HSU})"
        return dot_plot(shown.assign(part=part), "level", "estimate", "part", axis, {"as good as the best other": 0.0})

    def _component(self, rows: pd.DataFrame, where: str) -> list[str]:
        inside = rows[rows["may_be_best"].astype(bool)].sort_values("estimate", ascending=False, kind="stable")
        first = inside.iloc[0]
        end = "highest" if self.higher_is_better else "lowest"
        number = "1 is the best" if len(inside) == 1 else f"{len(inside)} may be the best"
        lines = [
            f"Of the {len(rows)} levels{where} of {':'.join(self.of)}, {number} in {self.response} ({end}), with "
            f"{percent(self.level)} confidence (Hsu's comparisons with the best; standard errors from {self.error}): "
            f"{', '.join(inside['level'])}.",
            f"{first['level']} is ahead of the best other level by {first['estimate']:.4g} ({first['lower']:.4g} to "
            f"{first['upper']:.4g}).",
        ]
        outside = rows[~rows["may_be_best"].astype(bool)]
        if len(outside):
            lines.append(
                f"{len(outside)} {'is' if len(outside) == 1 else 'are'} not the best (p ≤ "
                f"{p_text(float(outside['p_adjusted'].max()))}): {', '.join(outside['level'])}."
            )
        return lines


_HSU = "constrained, Hsu"


@dataclass(frozen=True)
class WelchTest(Result):
    """Welch's (1951) analysis of variance of cells with unequal variances; F, df and p are None where not testable."""

    response: str
    of: tuple[str, ...]
    n: int
    n_missing: int
    cells: int
    F: float | None
    df1: float | None
    df2: float | None
    p: float | None
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([{"term": ":".join(self.of), "F": self.F, "df1": self.df1, "df2": self.df2, "p": self.p}])

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists: what ``to_json`` writes."""
        return {
            "response": self.response, "of": list(self.of), "method": "welch", "n": self.n,
            "n_missing": self.n_missing, "cells": self.cells, "F": self.F, "df1": self.df1, "df2": self.df2,
            "p": self.p, "notes": list(self.notes),
        }  # fmt: skip

    def to_json(self) -> str:
        """One JSON document; a number that is not there is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def explain(self) -> str:
        """The test in a sentence."""
        name = ":".join(self.of)
        if self.F is None or self.p is None or self.df1 is None or self.df2 is None:
            lines = [f"The {self.cells} cells of {name} cannot be tested."]
        else:
            verdict = "differ" if self.p < 0.05 else "are not shown to differ"
            lines = [
                f"The means of the {self.cells} cells of {name} {verdict} in {self.response}, variances not taken as "
                f"equal: Welch's F({df_text(self.df1)}, {df_text(round(self.df2, 1))}) = {self.F:.3g}, p "
                f"{'' if self.p < 1e-4 else '= '}{p_text(self.p)}."
            ]
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dictionaries; NaN is None."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def percent(share: float) -> str:
    """A probability as it is printed: 95%, 99.5%."""
    return f"{100 * share:g}%"


def _departure(test: dict[str, float]) -> str:
    verdict = "The means depart" if test["p"] < 0.05 else "The means are not shown to depart"
    p = test["p"]
    return (
        f"{verdict} from a polynomial of these degrees: F({df_text(test['df1'])}, {df_text(test['df2'])}) = "
        f"{test['F']:.3g}, p {'' if p < 1e-4 else '= '}{p_text(p)}."
    )


def _left_out(rows: pd.DataFrame) -> list[str]:
    lines = []
    for count, why in (
        ((~rows["estimable"].astype(bool)).sum(), "are not determined by the data (not estimable)"),
        ((rows["estimable"].astype(bool) & rows["p"].isna()).sum(), "have no standard error: nothing measures it"),
    ):
        if count:
            lines.append(f"{count} of {len(rows)} contrasts {why}.")
    return lines
