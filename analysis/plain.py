"""Small things that several results write alike: a p value in a sentence, a frame as plain records, a design's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.anova_table import p_text
from analysis.sample import Sample


def p_is(p: float | None) -> str:
    """A p value after the letter p: ``= .0312`` or ``< .0001``; in words when there is none."""
    if p is None or np.isnan(p):
        return "not known"
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def or_none(value: Any) -> Any:
    """The value, or None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries; what is missing is None."""
    return [{str(key): or_none(value) for key, value in row.items()} for row in frame.to_dict("records")]


def cell_name(sample: Sample, columns: Sequence[str], codes: Sequence[int]) -> str:
    """The levels of a cell, joined: ``CA_out:FFN_in``."""
    return ":".join(sample.levels[column][code] for column, code in zip(columns, codes, strict=True))
