"""Which designs may still be the best: the first step of the recommendation's rule, to decide what to run next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.compared import check_level
from analysis.declared import AUTO, declared
from analysis.means import LEVEL
from analysis.recommend_sets import Runs, choose
from analysis.sample import check_columns


def may_be_best(
    frame: pd.DataFrame,
    response: str,
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    pair: tuple[str, str] | None = None,
    error: str = AUTO,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> np.ndarray:
    """Say of each row whether its design may be the best: whether it is in Hsu's set.

    The set is that of the first step of :func:`analysis.recommend`, whose parameters these are; where the levels that
    may be the best were never run together, whole designs are compared.

    Returns
    -------
    array of bool, shape (rows,)

    Raises
    ------
    InputFault
        As :func:`analysis.recommend`.
    """
    check_level(level)
    frame = frame.reset_index(drop=True)
    plan = declared(factors, blocks, pair=pair)
    check_columns(frame, [response, *plan.columns])
    runs = Runs(frame, response, plan, pair, higher_is_better)
    choice = choose(runs, runs.model(), error, level)
    if not choice.candidates.any():
        choice = choose(runs, runs.whole(), error, level)
    return choice.candidates[runs.cells.codes]
