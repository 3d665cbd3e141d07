"""The front of quality against size: what no smaller or equal design beats."""

from __future__ import annotations

import pandas as pd


def on_front(size: pd.Series, score: pd.Series, higher_is_better: bool = True) -> pd.Series:
    """Say which rows are on the Pareto front of a size, smaller being better, and a score.

    A row is on it if no other row is at least as good in both and better in one. Scores are taken as they are: two
    rows whose difference is noise may both be named or not.

    Parameters
    ----------
    size, score : Series
        With a common index; rows with a missing value are on no front.

    Returns
    -------
    Series of bool
    """
    gain = score if higher_is_better else -score
    frame = pd.DataFrame({"size": size, "gain": gain}).dropna()
    frame = frame.sort_values(["size", "gain"], ascending=[True, False], kind="stable")
    best_smaller = frame.groupby("size")["gain"].max().cummax().shift(fill_value=float("-inf"))
    best_equal = frame.groupby("size")["gain"].transform("max")
    on = (frame["gain"] == best_equal) & (frame["gain"] > frame["size"].map(best_smaller))
    return on.reindex(score.index, fill_value=False).astype(bool)
