"""How the report shows what was tuned: one row a group, one column a grid point, the chosen one marked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.report.content import Tuning

CHOSEN = "●"


def listing(tuning: Tuning, response: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of means, and sentences about choices that are missing or lie on the edge of the grid.

    Parameters
    ----------
    response : str
        The column of the means.

    Returns
    -------
    DataFrame
        All of it text. A grid point without a mean says how many of its trials diverged, if any did.
    list of str
    """
    frame = tuning.frame
    rows, notes = [], []
    by = [frame[column].astype(str) for column in tuning.groups]
    for _, part in frame.groupby(by, sort=False):
        group = {column: str(part[column].iloc[0]) for column in tuning.groups}
        means = {_point(row, tuning.grid): _mean(row, response) for _, row in part.iterrows()}
        rows.append({**group, **means})
        notes += _notes(", ".join(f"{key} {level}" for key, level in group.items()), part, tuning.grid)
    return pd.DataFrame(rows).fillna(""), notes


def _point(row: pd.Series, grid: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {_value(row[key])}" for key in grid if pd.notna(row[key]))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _mean(row: pd.Series, response: str) -> str:
    if pd.isna(row[response]):
        return f"{row['diverged']} of {row['planned']} diverged" if row["diverged"] else "–"
    return f"{row[response]:.3f}{' ' + CHOSEN if row['chosen'] else ''}"


def _notes(name: str, part: pd.DataFrame, grid: tuple[str, ...]) -> list[str]:
    if part["at_edge"].any():
        point = _point(part[part["at_edge"]].iloc[0], grid)
        return [f"{name}: the best that was tried, {point}, lies on the edge of the grid; widen the grid."]
    if part["chosen"].any():
        return []
    if (part["done"] + part["diverged"] < part["planned"]).any():
        return [f"{name}: nothing is chosen yet, for trials are missing."]
    return [f"{name}: nothing can be chosen, for no grid point has a score from every trial."]
