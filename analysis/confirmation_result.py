"""The result of a confirmation: differences to the other designs, non-inferiority, and the same in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.plain import or_none, p_is, records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3
"""Tasks below which differences are described and nothing is tested."""
SHRINKS = "chosen because it was the best: expected to shrink"


@dataclass(frozen=True)
class NonInferiority:
    """A one-sided test that the chosen design is at most a margin worse than the reference.

    Attributes
    ----------
    margin : float
        In the response's unit, decided before the confirmation was run.
    bound : float or None
        Of the difference, on the side that is worse, one-sided at the result's level; None if the tasks are too few.
    p : float or None
        Of the hypothesis that the chosen design is worse by the margin or more.
    shown : bool or None
        Whether the bound is less than the margin on the worse side of 0; None if nothing is tested.
    """

    reference: str
    margin: float
    difference: float | None
    bound: float | None
    df: int | None
    p: float | None
    shown: bool | None


@dataclass(frozen=True)
class Earlier:
    """What the search that chose the design saw of it, on its own tasks.

    Attributes
    ----------
    mean : float
        Of the chosen design: over seeds, then over tasks.
    tasks : int
    differences : dict of str to float
        Chosen less other, over the tasks where both have every score; for designs that the search ran too.
    """

    mean: float
    tasks: int
    differences: dict[str, float]


@dataclass(frozen=True)
class Confirmation(Result):
    """A chosen design against others on new tasks; every difference is the chosen design less the other.

    Attributes
    ----------
    chosen : str
    level : float
        Of the intervals, each on its own, and of the one-sided bound of non-inferiority.
    tasks : tuple of str
    n, n_failed : int
        Trials, and those of them without a response.
    mean : float
        Of the chosen design, over seeds and then over the tasks where none of its trials failed.
    rows : DataFrame
        One row another design: against, mean (its own, as above), tasks (that count for the pair), better (on how many
        of them the chosen design is), difference, sd (of the tasks' differences), se, df, t, p, p_adjusted (Holm, over
        the rows), lower, upper; failed (of its own trials). Where nothing is tested, missing.
    worst : float or None
        The worst response there is, which failures get in ``worst_rows``; None without failures.
    worst_rows : DataFrame or None
        ``rows`` with failures at that value.
    noninferior, noninferior_worst : NonInferiority or None
        Without failures, and with failures at the worst response; None without a reference.
    differences : DataFrame
        One row a task, one column another design; missing where a trial failed.
    earlier : Earlier or None
    """

    response: str
    chosen: str
    level: float
    tasks: tuple[str, ...]
    n: int
    n_failed: int
    mean: float
    rows: pd.DataFrame = field(compare=False)
    worst: float | None
    worst_rows: pd.DataFrame | None = field(compare=False)
    noninferior: NonInferiority | None
    noninferior_worst: NonInferiority | None
    differences: pd.DataFrame = field(compare=False)
    earlier: Earlier | None
    notes: tuple[str, ...]
    higher_is_better: bool = True

    @property
    def tested(self) -> bool:
        """Whether anything is tested: there are tasks enough."""
        return bool(self.rows["p"].notna().any())

    @property
    def unsure(self) -> tuple[str, ...]:
        """Designs of which it depends on how failures count whether the chosen one is better or worse."""
        if self.worst_rows is None:
            return ()
        pairs = zip(self.rows.iterrows(), self.worst_rows.iterrows(), strict=True)
        return tuple(row["against"] for (_, row), (_, worst) in pairs if self._verdict(row) != self._verdict(worst))

    def to_frame(self) -> pd.DataFrame:
        """``rows``; with failures, the difference and the adjusted p with them at the worst response beside."""
        frame = self.rows.copy()
        if self.worst_rows is not None:
            for column in ("difference", "p_adjusted"):
                frame[f"{column}_worst"] = self.worst_rows[column]
        if self.earlier is not None and self.earlier.differences:
            frame["difference_earlier"] = frame["against"].map(self.earlier.differences).astype(float)
        return frame

    def shown(self) -> pd.DataFrame:
        """The same without what the sentences have where it matters."""
        told = ["sd", "se", "p", "difference_worst", "p_adjusted_worst"]
        return self.to_frame().drop(columns=told, errors="ignore")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what is not there is None."""
        worst_rows = None if self.worst_rows is None else records(self.worst_rows)
        return {
            "response": self.response, "chosen": self.chosen, "level": self.level, "tasks": list(self.tasks),
            "n": self.n, "n_failed": self.n_failed, "mean": or_none(self.mean), "rows": records(self.rows),
            "worst": self.worst, "worst_rows": worst_rows, "unsure": list(self.unsure),
            "noninferior": None if self.noninferior is None else asdict(self.noninferior),
            "noninferior_worst": None if self.noninferior_worst is None else asdict(self.noninferior_worst),
            "differences": [
                {"task": str(task), **{str(k): or_none(float(v)) for k, v in row.items()}}
                for task, row in self.differences.iterrows()
            ],
            "earlier": None if self.earlier is None else asdict(self.earlier), "notes": list(self.notes),
        }  # fmt: skip

    def to_json(self) -> str:
        """One JSON document; a number that is not there is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def explain(self) -> str:
        """The comparison, non-inferiority, failures and the earlier estimate in sentences."""
        lines = [
            f"{self.chosen} was compared with {_listed(self.rows['against'])} on {len(self.tasks)} "
            f"task{'s' * (len(self.tasks) != 1)}, paired by task; its mean {self.response} is {_value(self.mean)}."
        ]
        if self.tested:
            lines[0] += " The answers are about new tasks like these; intervals are each on its own."
        else:
            lines.append(self._untested())
        lines += [self._difference(row) for _, row in self.rows.iterrows()]
        if self.noninferior is not None:
            lines.append(self._noninferior(self.noninferior))
        if self.n_failed:
            lines += self._failures()
        if self.earlier is not None:
            lines += self._earlier(self.earlier)
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """The differences with their intervals, 0 and, with a reference, the margin."""
        from analysis.figures import dot_plot

        lines = {"equal": 0.0}
        if self.noninferior is not None:
            lines["margin"] = -self._sign * self.noninferior.margin
        shown = f"{self.response}: {self.chosen} less the other" + (f", {self.level:.0%}" if self.tested else "")
        return dot_plot(self.rows, "against", "difference", axis=shown, lines=lines)

    @property
    def _sign(self) -> int:
        return 1 if self.higher_is_better else -1

    def _untested(self) -> str:
        if len(self.tasks) < FEWEST:
            return (
                f"{len(self.tasks)} task{'s are' if len(self.tasks) != 1 else ' is'} too few to say anything of other "
                f"tasks: the differences are described, not tested. A test needs {FEWEST} tasks, and 6 or more to be "
                "worth much."
            )
        return "No difference can be tested: failures leave too few tasks, or differences do not vary."

    def _difference(self, row: pd.Series) -> str:
        if np.isnan(row["difference"]):
            return f"Against {row['against']}: no task where all trials of both have a {self.response}."
        told = (
            f"Against {row['against']} (mean {_value(row['mean'])}): {row['difference']:+.4f}, better on "
            f"{row['better']} of {row['tasks']} tasks"
        )
        if np.isnan(row["p"]):
            return f"{told}; not tested."
        verdict = "no clear difference"
        if row["against"] in self.unsure:
            verdict = "no verdict, since it depends on how failures count"
        elif row["p_adjusted"] < 1 - self.level:
            verdict = f"{self.chosen} is {'better' if self._sign * row['difference'] > 0 else 'worse'}"
        return (
            f"{told}; {self.level:.0%} interval {row['lower']:+.4f} to {row['upper']:+.4f}, t({int(row['df'])}) = "
            f"{row['t']:.2f}, p {p_is(row['p_adjusted'])} (Holm): {verdict}."
        )

    def _noninferior(self, found: NonInferiority) -> str:
        if found.shown is None or found.bound is None:
            return f"Whether {self.chosen} is non-inferior to {found.reference} cannot be said: nothing is tested."
        told = (
            f"the difference to {found.reference} is {'above' if self.higher_is_better else 'below'} "
            f"{found.bound:+.4f} (one-sided {self.level:.0%} bound), the margin is "
            f"{'−' if self.higher_is_better else '+'}{found.margin:g} (p {p_is(found.p)})"
        )
        other = self.noninferior_worst
        if other is not None and other.shown != found.shown:
            words = {True: "shown", False: "not shown", None: "not tested"}
            return (
                f"Non-inferiority to {found.reference} is not claimed, since it depends on how failures count: where "
                f"nothing failed {told}, {words[found.shown]}; with the worst value {words[other.shown]}."
            )
        if not found.shown:
            return f"Non-inferiority to {found.reference} is not shown: {told}."
        return f"{self.chosen} is non-inferior to {found.reference}: {told}."

    def _failures(self) -> list[str]:
        own = self.n_failed - int(self.rows["failed"].sum())
        told = [f"{row['against']} {row['failed']}" for _, row in self.rows.iterrows() if row["failed"]]
        told = [f"{self.chosen} {own}"] * (own > 0) + told
        lines = [
            f"{self.n_failed} of {self.n} trials have no {self.response} ({', '.join(told)}); a task with one counts "
            "for no difference that it belongs to."
        ]
        if self.worst_rows is None or self.worst is None:
            return lines
        lines.append(
            f"With failures at the worst {self.response} there is ({self.worst:.4f}) the differences are "
            + "; ".join(
                f"{row['against']} {row['difference']:+.4f}"
                + ("" if np.isnan(row["p_adjusted"]) else f" (p {p_is(row['p_adjusted'])})")
                for _, row in self.worst_rows.iterrows()
                if not np.isnan(row["difference"])
            )
            + "."
        )
        return lines

    def _verdict(self, row: pd.Series) -> int:
        return int(np.sign(row["difference"])) if row["p_adjusted"] < 1 - self.level else 0

    def _earlier(self, earlier: Earlier) -> list[str]:
        lines = [
            f"Where it was chosen, {self.chosen} had a mean {self.response} of {earlier.mean:.4f} on {earlier.tasks} "
            f"task{'s' * (earlier.tasks != 1)} ({SHRINKS}); means of different tasks differ by the tasks too."
        ]
        both = [(row["against"], row["difference"]) for _, row in self.rows.iterrows()]
        told = [
            f"{name} {earlier.differences[name]:+.4f} there, {here:+.4f} here"
            for name, here in both
            if name in earlier.differences and not np.isnan(here)
        ]
        if told:
            lines.append(f"Differences where it was chosen ({SHRINKS}) and here: {'; '.join(told)}.")
        return lines


def _listed(names: Sequence[str] | pd.Series) -> str:
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _value(number: float) -> str:
    return "unknown" if np.isnan(number) else f"{number:.4f}"
