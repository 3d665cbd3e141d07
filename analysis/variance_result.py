"""Variance components as a result: what a row's score varies by, what a difference of designs does, and what to buy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.plain import or_none, records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Component:
    """One source of variance.

    Attributes
    ----------
    role : str
        ``design`` (fixed: the spread of the designs' means), ``shared`` (the same for all designs, so no part of their
        differences) or ``noise`` (differs between designs at random).
    columns : tuple of str
        What it is drawn anew with, the design aside.
    levels : int or None
        Number drawn; None for the residual.
    variance : float
        By equating mean squares to their expectations; may be negative, NaN where the rows do not tell.
    sd : float
        Its root, 0 when negative.
    lower, upper : float
        Interval of the variance, cut off at 0; NaN where there is none.
    method : str
        Of the interval.
    reml : float
        By restricted maximum likelihood; NaN for the design, which is fixed, or where it could not be fitted.
    share : float
        Of the variance of a single row's score, negative estimates counted as 0.
    in_difference : float
        Of the variance of a difference between two designs' means; NaN where the role is not ``noise``.
    """

    component: str
    role: str
    columns: tuple[str, ...]
    levels: int | None
    df: int
    variance: float
    sd: float
    lower: float
    upper: float
    method: str
    reml: float
    share: float
    in_difference: float


@dataclass(frozen=True)
class Evaluation:
    """The noise of a trial's score that comes from judging it by few pictures, what all designs share aside.

    Attributes
    ----------
    rows : float
        Rows (pictures) of a trial.
    variance, sd : float
        Of the mean of them, around what endless prompts and pictures would give.
    share : float
        Of the variance of a trial's score around its design's mean, what all designs share aside.
    """

    rows: float
    variance: float
    sd: float
    share: float


@dataclass(frozen=True)
class VarianceResult(Result):
    """Variance components.

    Attributes
    ----------
    designs : int
        Number of them.
    residual : str
        What the residual stands for.
    units : dict of str to float
        How many of each unit were run: tasks, seeds of a task, … the mean where it differs.
    evaluation : Evaluation or None
        None where a row is a whole trial.
    balanced : bool
        Whether every design was run alike; otherwise intervals are approximate.
    """

    response: str
    n: int
    n_missing: int
    designs: int
    components: tuple[Component, ...]
    residual: str
    units: dict[str, float]
    evaluation: Evaluation | None
    level: float
    balanced: bool
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Component:
        """One component, by name."""
        for row in self.components:
            if row.component == name:
                return row
        raise KeyError(f"no component {name!r}; there are {', '.join(r.component for r in self.components)}")

    def to_frame(self) -> pd.DataFrame:
        """A row a component."""
        return pd.DataFrame([asdict(row) for row in self.components])

    def difference_variance(self, **units: float) -> float:
        """Variance of the difference between two designs' means.

        Every random term that differs between designs adds twice its variance over the number drawn for a design, the
        product of its units; one with a negative estimate adds nothing.

        Parameters
        ----------
        **units : float
            How many of a unit, ``task=12``; those not named as they were run. Infinity is allowed.

        Returns
        -------
        float
            NaN where a variance it needs is not known, or there is a single design.

        Raises
        ------
        InputFault
            An unknown unit, or a number that is not above 0.
        """
        strange = [f"{unit}={count:g}" for unit, count in units.items() if unit not in self.units or not count > 0]
        if strange:
            raise InputFault(
                f"{', '.join(strange)} cannot be asked for: the units are {', '.join(self.units)}, each more than 0."
            )
        return float(sum(self._adds(row, {**self.units, **units}) for row in self._noise)) if self._noise else np.nan

    @property
    def _noise(self) -> list[Component]:
        return [row for row in self.components if row.role == "noise"] if self.designs > 1 else []

    @staticmethod
    def _adds(row: Component, units: dict[str, float]) -> float:
        if row.variance != row.variance:
            return float("nan")
        return 2 * max(row.variance, 0.0) / float(np.prod([units[c] for c in row.columns]))

    def budget(self) -> pd.DataFrame:
        """What doubling each unit gains.

        Returns
        -------
        DataFrame
            A row a unit; the first, ``as run``, is what there is. Columns: buy, now, then; se, the standard error of a
            difference between two designs' means; gain, the share of its variance that is taken off; se_limit, the
            standard error that no number of this unit goes below.
        """
        now = self.difference_variance()
        rows = [{"buy": "as run", "now": np.nan, "then": np.nan, "se": now**0.5, "gain": 0.0, "se_limit": np.nan}]
        for unit, count in self.units.items():
            then = self.difference_variance(**{unit: 2 * count})
            rows.append(
                {
                    "buy": unit,
                    "now": count,
                    "then": 2 * count,
                    "se": then**0.5,
                    "gain": 1 - then / now if now > 0 else np.nan,
                    "se_limit": self.difference_variance(**{unit: np.inf}) ** 0.5,
                }
            )
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not known is null."""
        return {
            "response": self.response, "n": self.n, "n_missing": self.n_missing, "designs": self.designs,
            "components": [{k: or_none(v) for k, v in asdict(row).items()} for row in self.components],
            "residual": self.residual, "units": self.units,
            "evaluation": asdict(self.evaluation) if self.evaluation else None, "budget": records(self.budget()),
            "level": self.level, "balanced": self.balanced, "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """What varies, what a difference of designs is measured by, and what to buy more of."""
        lines = [self._components()]
        for row in self.components:
            if row.variance < 0:
                lines.append(
                    f"The estimate for {row.component} is negative ({row.variance:.3g}): the rows show no such "
                    "variance, and it is counted as 0."
                    + (" So is its whole interval, by chance or because the model is wrong." if row.upper == 0 else "")
                )
            elif row.variance != row.variance:
                lines.append(f"The rows do not tell the variance of {row.component}: it has no degrees of freedom.")
        if self.designs > 1:
            lines += self._difference()
        if self.evaluation:
            e, of = self.evaluation, "pictures" if {"prompt", "picture"} & set(self.units) else "rows"
            lines.append(
                f"Of the variance of a trial's score around its design's mean, {_percent(e.share)} is evaluation "
                f"noise: the mean of its {e.rows:.3g} {of} has a standard deviation of {e.sd:.3g} around what endless "
                "ones would give, what all designs share aside."
            )
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def _components(self) -> str:
        known = [row for row in self.components if row.variance == row.variance]
        parts = ", ".join(
            f"{row.component} {_percent(row.share)} (SD {row.sd:.3g}, {self.level:.0%} interval {_root(row.lower)} to "
            f"{_root(row.upper)})"
            for row in sorted(known, key=lambda row: -row.share)
        )
        return f"The variance of a single row's {self.response} comes from: {parts}."

    def _difference(self) -> list[str]:
        now = self.difference_variance()
        if not now > 0:
            return [
                "The standard error of a difference between two designs cannot be given: the variances that it is made "
                "of are " + ("not known." if now != now else "estimated as 0.")
            ]
        sizes = _counts(self.units)
        shares = ", ".join(
            f"{_percent(row.in_difference)} from {row.component}"
            + (f" ({self.residual})" if row.component == "residual" else "")
            for row in sorted(self._noise, key=lambda row: -row.in_difference)
        )
        shared = [row.component for row in self.components if row.role == "shared"]
        lines = [
            f"The difference between the means of two designs, each over {sizes}, has a standard error of "
            f"{now**0.5:.3g}; of its variance {shares}."
            + (f" What designs share ({', '.join(shared)}) is no part of it." if shared else "")
        ]
        for row in self._noise:
            if row.lower == 0 and row.upper > max(row.variance, 0.0):
                most = (
                    now + self._adds(replace(row, variance=row.upper), self.units) - self._adds(row, self.units)
                ) ** 0.5
                lines.append(
                    f"The variance of {row.component} is not told from 0 and may be as large as {row.upper:.3g}, which "
                    f"would make that standard error {most:.3g}."
                )
        table = self.budget().iloc[1:].sort_values("gain", ascending=False, kind="stable").to_dict("records")
        gains = [
            f"{'t' if k else 'T'}wice as many {row['buy']}s would take {_percent(row['gain'])} off that variance "
            f"(standard error {row['se']:.3g}"
            + (f"; however many, not below {row['se_limit']:.3g})" if row["se_limit"] > 0 else ")")
            for k, row in enumerate(table)
        ]
        best = " or ".join(f"{row['buy']}s" for row in table if row["gain"] > table[0]["gain"] - 1e-9)
        lines.append(f"{'; '.join(gains)}. Most is gained by more {best}, what they cost aside.")
        return lines

    def plot(self) -> Figure:
        """Shares of a row's variance, and what doubling each unit gains."""
        from analysis.variance_figures import shares

        return shares(self)


def _root(variance: float) -> str:
    return f"{max(variance, 0.0) ** 0.5:.3g}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def _counts(units: dict[str, float]) -> str:
    parts = [f"{count:.3g} {unit}s" for unit, count in units.items()]
    if len(parts) == 1:
        return parts[0]
    return f"{parts[0]}, with {' and '.join(parts[1:])} each"
