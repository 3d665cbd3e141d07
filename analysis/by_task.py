"""Scores of designs by task, and the tasks on which all of them can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.plain import cell_name
from analysis.sample import read_sample

_ROW = "a row"  # a space keeps it apart from columns of a store


@dataclass(frozen=True)
class ByTask:
    """Mean scores of designs on tasks.

    Attributes
    ----------
    designs : list of str
        Names of the designs that have at least one complete task.
    levels : DataFrame
        Their levels, one row a design, one column a factor.
    tasks : tuple of str
        Tasks where each of these designs has every score in every row.
    values : array (designs, tasks, scores)
    left_out : tuple of str
        The other tasks.
    never : tuple of str
        Designs without any complete task.
    """

    designs: list[str]
    levels: pd.DataFrame
    tasks: tuple[str, ...]
    values: np.ndarray
    left_out: tuple[str, ...]
    never: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The designs' names and levels, one row a design; a factor that is called design itself is the name."""
        levels = self.levels.drop(columns="design", errors="ignore")
        return pd.concat([pd.Series(self.designs, name="design"), levels], axis=1)


def by_task(frame: pd.DataFrame, scores: Sequence[str], of: Sequence[str], task: str) -> ByTask:
    """Average scores within design and task, and keep the tasks that all designs have in common.

    A design is complete on a task when it has rows there and none of them lacks a score, so that none gains by failing
    where it is hard. A factor that a design has no level of, since it exists under levels of another only, is absent.

    Raises
    ------
    InputFault
        A column is missing or holds text; no task in common.
    """
    for score in scores:
        read_sample(frame, score, [])  # text, infinite, or missing everywhere is a fault
    present = frame.assign(**{_ROW: 0.0})
    sample = read_sample(present, _ROW, [*of, task], nested=of)
    cells, units = sample.cells(tuple(of)), sample.cells((task,))
    rows = frame[list(scores)].astype(float).reset_index(drop=True)
    both = [pd.Series(cells.codes, name="design"), pd.Series(units.codes, name="unit")]
    # The mean of a list with a gap is a gap.
    means = rows.groupby(both).mean(skipna=False)
    every = pd.MultiIndex.from_product([range(cells.count), range(units.count)])
    values = means.reindex(every).to_numpy().reshape(cells.count, units.count, len(scores))
    complete = ~np.isnan(values).any(axis=2)
    there = complete.any(axis=1)
    common = complete[there].all(axis=0)
    labels = [cell_name(sample, of, key) for key in cells.levels]
    tasks = [cell_name(sample, (task,), key) for key in units.levels]
    if not common.any():
        fewest = min(np.flatnonzero(there).tolist(), key=lambda k: int(complete[k].sum()), default=0)
        raise InputFault(
            f"No {task} has every score of every design, so they cannot be compared fairly. Leave out designs that "
            f"failed most, such as {labels[fewest]} (complete in {int(complete[fewest].sum())} of {len(tasks)})."
        )
    levels = pd.DataFrame(
        [[sample.levels[column][code] for column, code in zip(of, key, strict=True)] for key in cells.levels],
        columns=list(of),
    )
    return ByTask(
        [label for label, good in zip(labels, there, strict=True) if good],
        levels[there].reset_index(drop=True),
        tuple(each for each, good in zip(tasks, common, strict=True) if good),
        values[there][:, common],
        tuple(each for each, good in zip(tasks, common, strict=True) if not good),
        tuple(label for label, good in zip(labels, there, strict=True) if not good),
    )
