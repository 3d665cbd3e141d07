"""Rows of a data frame as the statistics need them: a numeric response and categorical columns.

Every factor and block is categorical, numbers included. Rows without a response are counted and left out; everything
else that cannot be used is an :class:`~adapters.faults.InputFault`, never a guess.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from adapters.faults import InputFault


@dataclass(frozen=True)
class Cells:
    """The observed cells of some columns: ``codes`` (n,) gives each row's cell, ``levels`` the level codes of a cell.

    Attributes
    ----------
    codes : int array (n,)
        Number of the cell each row falls into, 0 … count − 1.
    levels : int array (count, number of columns)
        Level codes of each cell, in the order of the columns asked for.
    """

    codes: np.ndarray
    levels: np.ndarray

    @property
    def count(self) -> int:
        """Number of observed cells."""
        return len(self.levels)


@dataclass(frozen=True)
class Points:
    """The distinct combinations of all columns: what a model of the columns cannot tell apart.

    Attributes
    ----------
    of_row : int array (n,)
        Number of the point of each row.
    first : int array (m,)
        A row of each point.
    weights : array (m,)
        Rows of each point.
    """

    of_row: np.ndarray
    first: np.ndarray
    weights: np.ndarray

    def means(self, v: np.ndarray) -> np.ndarray:
        """Mean (m,) of values (n,) over the rows of each point."""
        return np.bincount(self.of_row, v, minlength=len(self.first)) / self.weights


@dataclass(frozen=True)
class Sample:
    """A response (n,) and the level of every categorical column in every row."""

    response: str
    y: np.ndarray
    codes: dict[str, np.ndarray]
    levels: dict[str, tuple[str, ...]]
    n_missing: int
    _cells: dict[tuple[str, ...], Cells] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Number of rows with a response."""
        return len(self.y)

    @cached_property
    def points(self) -> Points:
        """The observed combinations of all columns."""
        of_row = self.cells(tuple(self.codes)).codes
        weights = np.bincount(of_row).astype(float)
        first = np.empty(len(weights), dtype=np.int64)
        first[of_row[::-1]] = np.arange(self.n)[::-1]
        return Points(of_row, first, weights)

    def cells(self, columns: Sequence[str]) -> Cells:
        """Observed cells of ``columns``; computed once."""
        key = tuple(columns)
        if key not in self._cells:
            stacked = np.stack([self.codes[c] for c in key], axis=1)
            sizes = [len(self.levels[c]) for c in key]
            # One integer a row sorts far faster than rows of integers; past 2**62 cells fall back on rows.
            if np.prod([float(s) for s in sizes]) < 2**62:
                flat = np.ravel_multi_index(list(stacked.T), sizes)
                unique, codes = _unique(flat, int(np.prod(sizes)))
                levels = np.stack(np.unravel_index(unique, sizes), axis=1)
            else:
                levels, codes = np.unique(stacked, axis=0, return_inverse=True)
            self._cells[key] = Cells(codes.reshape(-1), levels)
        return self._cells[key]

    def label(self, columns: Sequence[str], codes: Sequence[int]) -> str:
        """A cell in words: ``input=CA_out:output=FFN_in``."""
        return ":".join(f"{c}={self.levels[c][k]}" for c, k in zip(columns, codes, strict=True))


def _unique(numbers: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct whole numbers below a limit, in order, and the place of each among them."""
    if limit > 10 * len(numbers) + 1000:
        return np.unique(numbers, return_inverse=True)
    present = np.zeros(limit, dtype=bool)  # counting instead of sorting
    present[numbers] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[numbers]


def text_of(value: object) -> str:
    """A level's name: whole numbers lose the ``.0`` that a float column gives them."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _as_number(level: str) -> float:
    try:
        return float(level)
    except ValueError:
        return np.nan


def natural_order(levels: Iterable[str]) -> list[str]:
    """Levels in the order a person expects: by size when all are numbers, else as they first appear."""
    unique = list(dict.fromkeys(levels))
    numbers = [_as_number(level) for level in unique]
    if unique and not np.isnan(numbers).any():
        return [level for _, level in sorted(zip(numbers, unique, strict=True))]
    return unique


def check_columns(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise :class:`InputFault` that names the columns the frame lacks and those it has."""
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        have = ", ".join(map(str, frame.columns)) or "none"
        raise InputFault(f"The results have no column {', '.join(map(repr, missing))}. Columns there: {have}.")


LARGEST = 1e100
"""A response whose squares, and their sums, stay far from the largest number there is."""


def _numbers(frame: pd.DataFrame, response: str) -> np.ndarray:
    column = frame[response]
    if not pd.api.types.is_numeric_dtype(column):
        bad = column.dropna()
        shown = f" (for instance {bad.iloc[0]!r})" if len(bad) else ""
        raise InputFault(
            f"The response {response!r} holds text{shown}, not numbers. Choose a numeric column with --response."
        )
    y = column.to_numpy(dtype=float, na_value=np.nan)
    if np.isinf(y).any():
        raise InputFault(f"The response {response!r} is infinite in {int(np.isinf(y).sum())} rows; leave them out.")
    if (far := np.abs(y) > LARGEST).any():
        raise InputFault(
            f"The response {response!r} is beyond {LARGEST:g} in {int(far.sum())} rows, too far to sum squares; "
            "leave them out, or give the response in another unit."
        )
    return y


ABSENT = "(absent)"
"""The level of a nested factor where it does not exist."""


def read_sample(frame: pd.DataFrame, response: str, columns: Sequence[str], nested: Collection[str] = ()) -> Sample:
    """Take the response and categorical columns out of a frame.

    Parameters
    ----------
    frame : DataFrame
        One row an observation.
    response : str
        A numeric column. Rows where it is missing (NaN) are counted in ``n_missing`` and left out.
    columns : sequence of str
        Factors and block columns; every distinct value is a level.
    nested : collection of str
        Columns that may be missing in a row, because they exist under some levels of another only.

    Raises
    ------
    InputFault
        A column is missing, the response is text or infinite or missing everywhere, a column is named twice, or a
        factor has no value in a row that has a response.
    """
    check_columns(frame, [response, *columns])
    if response in columns:
        raise InputFault(f"{response!r} is the response and cannot be a factor or block too.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()].tolist()
        raise InputFault(f"The results hold these columns twice: {', '.join(map(repr, twice))}.")
    y = _numbers(frame, response)
    present = ~np.isnan(y)
    if not present.any():
        raise InputFault(f"The response {response!r} has no value in any of the {len(frame)} rows.")
    kept = frame.loc[present]
    codes, levels = {}, {}
    for name in dict.fromkeys(columns):
        column = kept[name]
        if name in nested:
            column = column.astype(object).where(column.notna(), ABSENT)
        elif column.isna().any():
            raise InputFault(
                f"{name!r} has no value in {int(column.isna().sum())} of the {len(kept)} rows that have a response. "
                "Name such a level (for instance 'NA') or leave the rows out."
            )
        numbers, values = pd.factorize(column)
        texts = [text_of(value) for value in values]  # in the order they first appear
        if isinstance(column.dtype, pd.CategoricalDtype):
            there = set(texts)
            order = [t for t in map(text_of, column.cat.categories) if t in there]
        else:
            order = natural_order(texts)
        number = {level: k for k, level in enumerate(order)}
        codes[name] = np.array([number[text] for text in texts], dtype=np.int64)[numbers]
        levels[name] = tuple(order)
    return Sample(response, y[present], codes, levels, int((~present).sum()))


def pairs_with_empty_cells(sample: Sample, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of columns of which some combination of levels never occurs."""
    found = []
    for a, b in combinations(columns, 2):
        if sample.cells((a, b)).count < len(sample.levels[a]) * len(sample.levels[b]):
            found.append((a, b))
    return found
