"""Designs to plan with, and the rows that a plan of them will give."""

import numpy as np
import pandas as pd

from adapters.positions import PAIRS

POSITIONS = pd.DataFrame(PAIRS, columns=["input", "output"])
PAIR = ("input", "output")
BALANCED = pd.DataFrame([(a, b) for a in "pqrst" for b in "xyz"], columns=["a", "b"])


def one_way(levels: int, each: int) -> pd.DataFrame:
    """A factor whose levels are planned several times over, so that nothing but it is in the model."""
    return pd.DataFrame({"a": np.repeat(np.arange(levels), each).astype(str)})


def planned_rows(cells: pd.DataFrame, tasks: int, seeds: int) -> pd.DataFrame:
    """The rows that a plan will give."""
    frame = cells.merge(pd.DataFrame({"task": [f"t{k}" for k in range(tasks)]}), how="cross")
    return frame.merge(pd.DataFrame({"seed": range(seeds)}), how="cross")
