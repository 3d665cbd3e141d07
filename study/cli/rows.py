"""The rows that commands on results analyse: of a store, a parquet file or a CSV; never imports torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.faults import InputFault

if TYPE_CHECKING:
    import pandas as pd

PAIR = ("input", "output")
_MISSING = {"", "na", "nan", "null", "none"}
# A store's columns that make rows incomparable unless they are factors, and the one that holds the protocol.
_SETTINGS = ("role", "backbone_hash", "backbone")
_PROTOCOL = "protocol_json"
_PLAN = "plan"


def rows(
    results: Path, responses: Sequence[str], columns: Sequence[str], where: Sequence[str] = (), tuning: bool = False
) -> pd.DataFrame:
    """Read results, and give the rows that meet conditions with their responses as numbers.

    Parameters
    ----------
    columns : sequence of str
        The factors and blocks, which tell rows apart.
    where : sequence of str
        Conditions `COLUMN=VALUE[,VALUE…]`.
    tuning : bool
        Read the trials of a store's tuning instead of those of its study.

    Raises
    ------
    InputFault
        If the results cannot be read, a condition is wrong, a response is text, rows that differ in role, backbone or
        protocol are not told apart, or rows were planned because of scores and no condition says that they are meant.
    """
    from study.results import read_results
    from study.store import Store

    every = read_results(results, tuning)
    if results.is_dir() and not tuning and (lost := set(Store(results).pruned()["id"]) - set(every["id"])):
        told = "trial that was pruned on its way is" if len(lost) == 1 else "trials that were pruned on their way are"
        print(f"{len(lost)} {told} left out", file=sys.stderr)
    frame = select(with_protocol(every), list(where))
    check_comparable(frame, list(columns))
    if not any(condition.startswith(f"{_PLAN}=") for condition in where):
        check_planned(frame)
    for response in responses:
        frame = with_numbers(frame, response)
    return frame


def columns_of(factors: Sequence[str], blocks: Sequence[str]) -> list[str]:
    """The columns that factors and blocks such as `task:seed` are made of; `pair` is input and output."""
    own = [column for factor in factors for column in ((*PAIR, "pair") if factor == "pair" else (factor,))]
    return [*own, *(column for block in blocks for column in block.split(":"))]


def crossed_of(text: str, frame: pd.DataFrame, response: str, factors: Sequence[str]) -> str | list[str]:
    """Read `--interactions`; "auto" stands for those of each factor with the backbone, if that is a factor.

    Raises
    ------
    InputFault
        If a name is empty.
    """
    from analysis.declared import default_interactions

    if text == "auto":
        return default_interactions(frame, response, factors) or "none"
    return text if text in ("none", "all") else listed(text, "--interactions")


def parents(nested: str) -> dict[str, str]:
    """Read `CHILD:PARENT,…`.

    Raises
    ------
    InputFault
        If a part is not of this form.
    """
    found = {}
    for part in listed(nested, "--nested"):
        child, sign, parent = part.partition(":")
        if not (child and sign and parent):
            raise InputFault(f"--nested {part!r}: expected CHILD:PARENT, such as rank:method")
        found[child] = parent
    return found


def listed(text: str, option: str) -> list[str]:
    """Split an option's names at commas.

    Raises
    ------
    InputFault
        If a name is empty.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise InputFault(f"{option} {text!r} has an empty name; expected names joined by commas, such as A,B")
    return parts


def with_protocol(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a column `protocol.KEY` for every key of the protocol in which its rows differ."""
    if _PROTOCOL not in frame.columns or frame[_PROTOCOL].nunique() < 2:
        return frame
    try:
        protocols = {text: json.loads(text) for text in frame[_PROTOCOL].unique()}
    except (TypeError, ValueError) as fault:
        raise InputFault(f"the column {_PROTOCOL} holds something that is not JSON ({fault})") from fault
    keys = sorted({key for protocol in protocols.values() for key in protocol})
    added = {}
    for key in keys:
        texts = {text: json.dumps(protocol.get(key)).strip('"') for text, protocol in protocols.items()}
        if len(set(texts.values())) > 1:
            added[f"protocol.{key}"] = frame[_PROTOCOL].map(texts)
    return frame.assign(**added)


def select(frame: pd.DataFrame, where: list[str]) -> pd.DataFrame:
    """Return the rows that meet every `COLUMN=VALUE[,VALUE…]`.

    Raises
    ------
    InputFault
        If a condition is not of this form, names no column, or leaves no row.
    """
    from analysis.sample import text_of

    for condition in where:
        column, sign, values = condition.partition("=")
        if not sign or not column or not values:
            raise InputFault(f"--where {condition!r}: expected COLUMN=VALUE, such as task=subject/robot")
        if column not in frame.columns:
            raise InputFault(
                f"--where {condition!r}: there is no column {column!r}; there are {', '.join(frame.columns)}"
            )
        texts = frame[column].map(text_of)
        kept = frame[texts.isin([value.strip() for value in values.split(",")])]
        if kept.empty:
            levels = list(dict.fromkeys(texts))
            shown = ", ".join(levels[:12]) + (", …" if len(levels) > 12 else "")
            raise InputFault(f"--where {condition!r}: no row is left; the values of {column} are {shown or 'none'}")
        frame = kept
    return frame


def check_comparable(frame: pd.DataFrame, columns: list[str]) -> None:
    """Raise InputFault if rows differ in role, backbone or protocol within a combination of the columns' levels."""
    present = [c for c in dict.fromkeys(columns) if c in frame.columns]
    if not present or not {"design_json", "role"} <= set(frame.columns):
        return  # not the rows of a store
    varying = [c for c in frame.columns if c in _SETTINGS or c.startswith("protocol.")]
    for column in varying:
        if column in present or column == "role":
            mixed = column == "role" and frame["role"].nunique() > 1 and "role" not in present
        else:
            mixed = bool((frame.groupby(present, dropna=False)[column].nunique() > 1).any())
        if mixed:
            levels = [str(v) for v in dict.fromkeys(frame[column])]
            raise InputFault(
                f"the rows have several values of {column} ({', '.join(levels)}) that --factors does not tell apart; "
                f"choose with --where {column}={levels[0]}"
            )


def check_planned(frame: pd.DataFrame) -> None:
    """Raise InputFault if rows of a store were planned because of scores: the others then lack rows by outcome."""
    from study.strategies.search import ADAPTIVE, FIXED

    if _PLAN not in frame.columns or "design_json" not in frame.columns:
        return
    adaptive = int((frame[_PLAN] == ADAPTIVE).sum())
    if adaptive:
        choice = f"--where {_PLAN}={FIXED} takes the {len(frame) - adaptive} planned before any score was known"
        none = "none was planned before any score was known; `adapter-study recommend` says which may be the best"
        raise InputFault(
            f"{adaptive} of {len(frame)} rows were planned because of earlier scores (strategy refine or optuna), so "
            f"designs lack rows by outcome, and tests and means over all rows would be biased; "
            f"{choice if adaptive < len(frame) else none}; --where {_PLAN}={FIXED},{ADAPTIVE} takes all, knowingly"
        )


def with_numbers(frame: pd.DataFrame, response: str) -> pd.DataFrame:
    """Return the frame with a response that was read as text as numbers; empty, NA and nan are missing values."""
    import numpy as np
    import pandas as pd

    if response not in frame.columns or pd.api.types.is_numeric_dtype(frame[response]):
        return frame
    numbers = np.full(len(frame), np.nan)
    for k, value in enumerate(frame[response]):
        if value is None or value is pd.NA or str(value).strip().lower() in _MISSING:
            continue
        try:
            numbers[k] = float(value)
        except (TypeError, ValueError):
            raise InputFault(
                f"the response {response!r} holds text: {str(value)!r} in row {k + 1}; expected numbers, and nothing "
                "or NA where the value is missing"
            ) from None
    return frame.assign(**{response: numbers})
