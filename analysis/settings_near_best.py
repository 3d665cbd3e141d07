"""How many of a method's settings are about as good as the best, task by task, and whether methods differ in that.

Every task gives each method one share, so that two methods are compared by one difference a task; tasks are the sample,
and answers hold for new ones. Nothing is modelled, and nothing pooled over settings, which share their tasks. A setting
that failed on a task is not among the good ones there. The companion of `sensitivity_fit`, which looks at the means of
settings over tasks and takes the noise off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution
from scipy.stats import ttest_1samp

from adapters.faults import InputFault
from analysis.compared import check_level
from analysis.confirmation_result import FEWEST
from analysis.declared import names
from analysis.means import LEVEL
from analysis.multiplicity import holm
from analysis.near_best_result import MEASURES, NearBest
from analysis.plain import cell_name
from analysis.sample import check_columns, read_sample

POINTS = 61
"""Distances of the curve, from none to `REACH` times the one that is tested."""

REACH = 3.0

_ROW = "a row"  # a space keeps it apart from columns of a store


def near_best(
    frame: pd.DataFrame,
    response: str,
    settings: str | Sequence[str],
    against: str,
    within: float,
    by: str = "method",
    task: str = "task",
    level: float = LEVEL,
    higher_is_better: bool = True,
) -> NearBest:
    """Compare methods by the share of their settings that are about as good as the best on each task.

    Parameters
    ----------
    frame : DataFrame
        One row a trial, failed ones included (without a response). Rows that differ in nothing but others of their
        columns, such as the seed, are averaged.
    response : str
        A numeric column.
    settings : str or sequence of str
        Columns of hyper-parameters; a setting is a combination of their values that was run. One that has no value in
        any row of a method does not exist there.
    against : str
        The method with which every other is compared.
    within : float
        Above 0: settings this close to the best are good, in units of the response.
    by, task : str
        Columns that tell methods and tasks apart.
    level : float
        Of the intervals, each on its own.
    higher_is_better : bool

    Returns
    -------
    NearBest

    Notes
    -----
    On each task the best is the best score that a setting of the method (`share`), or of any method (`share_overall`),
    got there. `sd` is the standard deviation of the scores over the settings, a failure taken as the worst score of the
    task. Means over tasks have t intervals on tasks − 1 degrees of freedom, differences the paired t test; p is
    adjusted over the methods (Holm 1979) within each of the three. All intervals suppose that the tasks are a sample of
    those the answer is for, and that their values are about normal.

    The best of many noisy scores is too good, so shares are smaller than they would be without noise, and more so where
    more settings are nearly the best: noise hides differences between methods rather than making them, as long as it is
    equally large for all.

    Raises
    ------
    InputFault
        A column is missing or holds text; `against` is no method, or the only one; a distance that is none; a setting
        without a row on one of the tasks.
    """
    check_level(level)
    settings = names(settings)
    if not (np.isfinite(within) and within > 0):
        raise InputFault(f"Settings count as good within a distance above 0 of the best, not {within}.")
    if {by, task} & set(settings) or by == task:
        raise InputFault(f"{by!r} tells methods apart and {task!r} tasks, so neither can be among the settings.")
    check_columns(frame, [response, *settings, by, task])
    grids = _grids(frame, response, settings, by, task)
    there = ", ".join(grids)
    if against not in grids or len(grids) < 2:
        raise InputFault(f"Other methods are to be compared with {against!r}; the column {by!r} has {there}.")
    sign = 1 if higher_is_better else -1
    scores = {method: sign * grid.to_numpy() for method, grid in grids.items()}
    tasks = tuple(map(str, next(iter(grids.values())).columns))
    gaps, overall = _gaps(scores)
    values = {method: _measures(scores, method, gaps[method], overall[method], within) for method in scores}
    size = max(float(np.nanmax(np.abs(each), initial=0)) for each in scores.values())
    rows = [_row(method, scores[method], values[method], level, size) for method in scores]
    return NearBest(
        response=response, by=by, settings=tuple(settings), tasks=tasks, against=against, within=within, level=level,
        higher_is_better=higher_is_better, rows=pd.DataFrame(rows),
        by_task=pd.DataFrame(
            {"method": method, "task": name, **{m: float(values[method][m][k]) for m in MEASURES}}
            for method in scores for k, name in enumerate(tasks)
        ),
        contrasts=_contrasts(values, against, level, size),
        curve=_curve({"own": gaps, "overall": overall}, within, level),
        notes=tuple(_notes(grids, tasks)),
    )  # fmt: skip


def _grids(
    frame: pd.DataFrame, response: str, settings: Sequence[str], by: str, task: str
) -> dict[str, pd.DataFrame]:
    """Scores (settings × tasks) of each method, missing where a trial failed; every one of them was run."""
    read_sample(frame, response, [])  # text, infinite, or missing everywhere is a fault
    sample = read_sample(frame.assign(**{_ROW: 0.0}), _ROW, [by, *settings, task], nested=settings)
    cells, places = sample.cells((by, *settings)), sample.cells((task,))
    keys = pd.MultiIndex.from_arrays([cells.codes, places.codes])
    y = pd.Series(frame[response].to_numpy(dtype=float, na_value=np.nan), keys)
    by_cell = y.groupby(level=[0, 1])
    means = by_cell.mean(skipna=False).unstack()  # the mean of a list with a gap is a gap
    run = by_cell.size().unstack(fill_value=0).to_numpy() > 0
    labels = [cell_name(sample, (task,), key) for key in places.levels]
    if not run.all():
        setting, place = np.argwhere(~run)[0]
        first = cell_name(sample, (by, *settings), cells.levels[setting])
        raise InputFault(
            f"{int((~run).sum())} of {run.size} settings × tasks have no row, the first of them {first} on "
            f"{labels[place]}, so shares cannot be counted. Run the study to its end, or choose what was run whole, "
            f"such as {_whole(run, labels, task)}."
        )
    means.columns = pd.Index(labels)
    means.index = pd.Index([cell_name(sample, settings, key[1:]) for key in cells.levels])
    of = np.array([sample.levels[by][key[0]] for key in cells.levels])
    return {method: means[of == method] for method in dict.fromkeys(of.tolist())}


def _whole(run: np.ndarray, labels: Sequence[str], task: str) -> str:
    whole = [label for k, label in enumerate(labels) if run[:, k].all()]
    return f"--where {task}={','.join(whole)}" if whole else "some of the settings with --where"


def _gaps(scores: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How far each score is below the task's best of its own method, and of all methods; a failure is out of reach."""
    reached = {method: np.where(np.isnan(own), -np.inf, own) for method, own in scores.items()}
    top = np.max([own.max(axis=0) for own in reached.values()], axis=0)

    def below(own: np.ndarray, best: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(own), np.where(np.isfinite(best), best, 0.0) - np.nan_to_num(own), np.inf)

    return (
        {method: below(own, own.max(axis=0)) for method, own in reached.items()},
        {method: below(own, top) for method, own in reached.items()},
    )


def _shares(gaps: np.ndarray, within: float) -> np.ndarray:
    """Share of the settings within reach, of each task."""
    return np.asarray((gaps <= within * (1 + 1e-9)).mean(axis=0))  # at the very edge none is lost to rounding


def _measures(
    scores: dict[str, np.ndarray], method: str, own: np.ndarray, overall: np.ndarray, within: float
) -> dict[str, np.ndarray]:
    every = np.vstack(list(scores.values()))
    worst = np.nanmin(np.where(np.isnan(every).all(axis=0), 0.0, every), axis=0)
    filled = np.where(np.isnan(scores[method]), worst, scores[method])
    sd = filled.std(axis=0, ddof=1) if len(filled) > 1 else np.full(filled.shape[1], np.nan)
    return {"share": _shares(own, within), "share_overall": _shares(overall, within), "sd": sd}


def _ends(values: np.ndarray, level: float, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The t interval of the mean over tasks, which are the last axis; NaN where they are too few, or do not vary."""
    count = values.shape[-1]
    mean, sd = values.mean(axis=-1), values.std(axis=-1, ddof=1) if count > 1 else np.zeros(values.shape[:-1])
    tested = (count >= FEWEST) & (sd > 8 * np.finfo(float).eps * size)
    half = np.where(tested, sd, np.nan) / np.sqrt(count) * t_distribution.isf((1 - level) / 2, max(count - 1, 1))
    return mean - half, mean + half


def _size(measure: str, size: float) -> float:
    return size if measure == "sd" else 1.0


def _row(
    method: str, scores: np.ndarray, values: dict[str, np.ndarray], level: float, size: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "settings": len(scores), "failed": int(np.isnan(scores).sum())}
    for measure in MEASURES:
        low, high = _ends(values[measure], level, _size(measure, size))
        low, high = np.clip([low, high], 0, np.inf if measure == "sd" else 1).tolist()
        row |= {measure: float(values[measure].mean()), f"{measure}_lower": low, f"{measure}_upper": high}
    return row


def _contrasts(
    values: dict[str, dict[str, np.ndarray]], against: str, level: float, size: float
) -> pd.DataFrame:
    """Each method less the one it is compared with, paired by task."""
    found = []
    for measure in MEASURES:
        rows = []
        for method, own in values.items():
            if method == against:
                continue
            apart = own[measure] - values[against][measure]
            low, high = _ends(apart, level, _size(measure, size))
            row: dict[str, Any] = {"measure": measure, "method": method, "difference": float(apart.mean())}
            row |= {"lower": float(low), "upper": float(high), "t": np.nan, "df": len(apart) - 1, "p": np.nan}
            if low == low:
                test = ttest_1samp(apart, 0)
                row |= {"t": float(test.statistic), "p": float(test.pvalue)}
            rows.append(row)
        frame = pd.DataFrame(rows)
        found.append(frame.assign(p_adjusted=holm(frame["p"].to_numpy())))
    return pd.concat(found, ignore_index=True)


def _curve(gaps: dict[str, dict[str, np.ndarray]], within: float, level: float) -> pd.DataFrame:
    """Mean share against the distance, with the interval at each distance by itself."""
    parts = []
    distances = np.linspace(0, REACH * within, POINTS)
    for of, methods in gaps.items():
        for method, own in methods.items():
            shares = np.stack([_shares(own, float(distance)) for distance in distances])
            low, high = np.clip(_ends(shares, level, 1.0), 0, 1)
            columns = {"within": distances, "share": shares.mean(axis=1), "lower": low, "upper": high}
            parts.append(pd.DataFrame({"of": of, "method": method, **columns}))
    return pd.concat(parts, ignore_index=True)


def _notes(grids: dict[str, pd.DataFrame], tasks: Sequence[str]) -> list[str]:
    notes = []
    if len(tasks) < FEWEST:
        notes.append(
            f"No interval and no test: there {'is' if len(tasks) == 1 else 'are'} {len(tasks)} "
            f"task{'s' * (len(tasks) != 1)}, and {FEWEST} or more are needed."
        )
    if len({tuple(sorted(grid.index)) for grid in grids.values()}) > 1:
        notes.append(
            "The methods were not run on the same settings. A share depends on the grid it is counted over, so the "
            "comparison holds for these grids alone."
        )
    failed = {method: int(grid.isna().to_numpy().sum()) for method, grid in grids.items()}
    if any(failed.values()):
        told = ", ".join(f"{count} of {method}" for method, count in failed.items() if count)
        notes.append(f"Settings that failed on a task are not near the best there: {told}.")
    return notes
