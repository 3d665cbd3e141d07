"""Confirmation: one design that was chosen before, against others, on tasks that nothing used; paired by task.

Every task gives one difference for each other design: seeds are averaged first, and what all designs share on a task
cancels. Tasks are the sample, so the answers hold for new tasks. One difference a task is enough: nothing is modelled,
and nothing pooled over designs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import nct, ttest_1samp
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.compared import check_level
from analysis.confirmation_result import FEWEST, Confirmation, Earlier, NonInferiority
from analysis.means import LEVEL
from analysis.multiplicity import holm
from analysis.sample import read_sample, text_of

_TESTED = ("df", "t", "p", "p_adjusted", "lower", "upper")


def confirm(
    frame: pd.DataFrame,
    response: str,
    of: str,
    chosen: str,
    reference: str | None = None,
    margin: float | None = None,
    earlier: pd.DataFrame | None = None,
    task: str = "task",
    seed: str = "seed",
    level: float = LEVEL,
    notes: Sequence[str] = (),
    higher_is_better: bool = True,
) -> Confirmation:
    """Compare a design that was chosen before with others on tasks that nothing used.

    For each other design, each task gives the mean over seeds of chosen less other; these differences are one sample,
    with a t interval and a t test on tasks − 1 degrees of freedom. p values are adjusted over the other designs (Holm
    1979). Non-inferiority to the reference is one test that was planned before, so it is not adjusted.

    Parameters
    ----------
    frame : DataFrame
        One row a trial, failed ones included (without a response).
    of : str
        The column that names designs.
    chosen, reference : str
        Designs; the reference is the one that the chosen design should not be worse than by ``margin`` or more.
    margin : float, optional
        Above 0, in the unit of the response; goes with ``reference``.
    earlier : DataFrame, optional
        Trials of the search that chose the design, with the same columns, on its own tasks; shown beside, never tested:
        what was chosen for its mean has a mean too good there.
    task, seed : str
        Columns. Seeds are paired within tasks; without the column ``seed``, all rows of a task are averaged.
    level : float
        Of the two-sided intervals, each on its own, and of the one-sided bound.
    notes : sequence of str
        Sentences to add at the end.
    higher_is_better : bool
        Whether larger responses are better, else smaller.

    Returns
    -------
    Confirmation

    Raises
    ------
    InputFault
        A column is missing or holds text; the chosen design or the reference does not occur; nothing to compare with;
        a reference without a margin above 0, or the reverse; no trial has a response.

    References
    ----------
    S. Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.
    G. Piaggio et al. (2012), Reporting of noninferiority and equivalence randomized trials, JAMA 308.
    """
    check_level(level)
    if (reference is None) != (margin is None) or (margin is not None and not 0 < margin < np.inf):
        raise InputFault(f"A reference goes with a margin above 0: got {reference!r} and {margin!r}.")
    trials = _trials(frame, response, of, task, seed)
    designs = [name for name in dict.fromkeys(trials["design"]) if name != chosen]
    there = ", ".join(dict.fromkeys(trials["design"]))
    for name in (chosen, reference):
        if name is not None and name not in set(trials["design"]):
            raise InputFault(f"{name!r} is no level of {of}; there are {there}.")
    if not designs or reference == chosen:
        raise InputFault(f"{chosen} is to be compared with other designs; {of} has {there}, the reference {reference}.")
    sign = 1 if higher_is_better else -1
    lost = trials["y"].isna()
    scale = float(trials["y"].abs().max())
    differences = _differences(trials, chosen, designs)
    rows = _rows(trials, differences, level, scale, sign)
    worst, worst_rows, noninferior_worst = None, None, None
    if lost.any():
        worst = float(trials["y"].min() if higher_is_better else trials["y"].max())
        filled = trials.assign(y=trials["y"].fillna(worst))
        all_differences = _differences(filled, chosen, designs)
        worst_rows = _rows(filled, all_differences, level, scale, sign).assign(failed=rows["failed"])
        noninferior_worst = _noninferior(all_differences, reference, margin, level, scale, sign)
    return Confirmation(
        response=response, chosen=chosen, level=level, tasks=tuple(dict.fromkeys(trials["task"])), n=len(trials),
        n_failed=int(lost.sum()), mean=_mean(trials, chosen), rows=rows, worst=worst, worst_rows=worst_rows,
        noninferior=_noninferior(differences, reference, margin, level, scale, sign),
        noninferior_worst=noninferior_worst,
        differences=differences, earlier=_seen(earlier, response, of, task, seed, chosen, designs),
        notes=tuple(notes), higher_is_better=higher_is_better,
    )  # fmt: skip


def chance(
    frame: pd.DataFrame,
    response: str,
    of: str,
    chosen: str,
    reference: str,
    margin: float,
    tasks: int,
    task: str = "task",
    seed: str = "seed",
    level: float = LEVEL,
) -> float | None:
    """Return how likely non-inferiority is shown on so many new tasks, if the two designs are equally good.

    The power of the one-sided t test at a true difference of 0 (noncentral t), with the standard deviation of the
    differences on the tasks there are. That is itself uncertain: it is a reason for more tasks, not a promise.

    Parameters
    ----------
    frame, response, of, chosen, reference, margin, task, seed, level
        As for :func:`confirm`; earlier trials of both designs.
    tasks : int
        New tasks.

    Returns
    -------
    float or None
        None where fewer than three tasks have every score of both designs, or their differences do not vary.

    Raises
    ------
    InputFault
        As :func:`confirm`.
    """
    if tasks < FEWEST or frame.empty or frame[response].isna().all():
        return None
    trials = _trials(frame, response, of, task, seed)
    if not {chosen, reference} <= set(trials["design"]):
        return None
    values = _differences(trials, chosen, [reference])[reference].dropna().to_numpy()
    if not _can_be_tested(values, float(trials["y"].abs().max())):
        return None
    away = margin * np.sqrt(tasks) / values.std(ddof=1)
    return float(nct.sf(t_distribution.ppf(level, tasks - 1), tasks - 1, away))


def _trials(frame: pd.DataFrame, response: str, of: str, task: str, seed: str) -> pd.DataFrame:
    """The trials with columns of their own names: design, task, seed, y."""
    columns = [of, task, *([seed] if seed in frame.columns else [])]
    read_sample(frame, response, columns)  # a missing column, text, or nothing at all is a fault
    empty = [column for column in columns if frame[column].isna().any()]
    if empty:
        raise InputFault(f"{empty[0]!r} has no value in {int(frame[empty[0]].isna().sum())} rows; every trial has one.")
    return pd.DataFrame(
        {
            "design": frame[of].map(text_of).to_numpy(), "task": frame[task].map(text_of).to_numpy(),
            "seed": frame[seed].map(text_of).to_numpy() if seed in frame.columns else "",
            "y": frame[response].to_numpy(dtype=float, na_value=np.nan),
        }
    )  # fmt: skip


def _cells(trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean of every task and seed (rows) and design (columns), missing where a trial failed; and whether it was run."""
    grouped = trials.groupby(["task", "seed", "design"], sort=False)["y"]
    means = grouped.mean(skipna=False).unstack("design")  # the mean of a list with a gap is a gap
    return means, grouped.size().unstack("design").reindex_like(means).notna()


def _differences(trials: pd.DataFrame, chosen: str, designs: Sequence[str]) -> pd.DataFrame:
    """Chosen less other (columns) for every task, over the seeds that both were run with."""
    means, run = _cells(trials)
    found = {}
    for other in designs:
        both = run[chosen] & run[other]
        found[other] = (means[chosen] - means[other])[both].groupby(level="task", sort=False).mean(skipna=False)
    order = pd.Index(dict.fromkeys(trials["task"]), name="task")
    return pd.DataFrame({name: column.reindex(order) for name, column in found.items()}, index=order)


def _mean(trials: pd.DataFrame, design: str) -> float:
    own = trials[trials["design"] == design]
    return float(own.groupby("task")["y"].mean(skipna=False).mean())


def _rows(trials: pd.DataFrame, differences: pd.DataFrame, level: float, scale: float, sign: int) -> pd.DataFrame:
    rows = []
    for other in differences.columns:
        values = differences[other].dropna().to_numpy()
        row: dict[str, Any] = {"against": other, "mean": _mean(trials, other), "tasks": len(values)}
        row |= {"better": int((sign * values > 0).sum()), **dict.fromkeys(("difference", "sd", "se", *_TESTED), np.nan)}
        if len(values):
            row["difference"] = float(values.mean())
        if len(values) > 1:
            row["sd"] = float(values.std(ddof=1))
            row["se"] = row["sd"] / np.sqrt(len(values))
        if _can_be_tested(values, scale):
            test = ttest_1samp(values, 0)
            interval = test.confidence_interval(level)
            row |= {"df": float(test.df), "t": float(test.statistic), "p": float(test.pvalue)}
            row |= {"lower": float(interval.low), "upper": float(interval.high)}
        row["failed"] = int(trials["y"].isna()[trials["design"] == other].sum())
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame["p_adjusted"] = holm(frame["p"].to_numpy())
    return frame


def _can_be_tested(values: np.ndarray, scale: float) -> bool:
    """Whether there are tasks enough, and their differences vary by more than rounding."""
    return len(values) >= FEWEST and bool(values.std(ddof=1) > 8 * np.finfo(float).eps * scale)


def _noninferior(
    differences: pd.DataFrame, reference: str | None, margin: float | None, level: float, scale: float, sign: int
) -> NonInferiority | None:
    if reference is None or margin is None:
        return None
    values = differences[reference].dropna().to_numpy()
    mean = float(values.mean()) if len(values) else None
    if not _can_be_tested(values, scale):
        return NonInferiority(reference, margin, mean, None, None, None, None)
    test = ttest_1samp(sign * values, -margin, alternative="greater")
    bound = float(test.confidence_interval(level).low)
    return NonInferiority(reference, margin, mean, sign * bound, int(test.df), float(test.pvalue), bound > -margin)


def _seen(
    earlier: pd.DataFrame | None, response: str, of: str, task: str, seed: str, chosen: str, designs: Sequence[str]
) -> Earlier | None:
    """What the search saw of the chosen design; None if it has no complete task of it."""
    if earlier is None or earlier.empty or earlier[response].isna().all():
        return None
    trials = _trials(earlier, response, of, task, seed)
    own = trials[trials["design"] == chosen].groupby("task")["y"].mean(skipna=False).dropna()
    if own.empty:
        return None
    run = [name for name in designs if name in set(trials["design"])]
    means = _differences(trials, chosen, run).mean().dropna().to_dict() if run else {}
    return Earlier(float(own.mean()), len(own), {str(name): float(value) for name, value in means.items()})
