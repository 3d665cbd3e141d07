"""What every result can do: be a table in Markdown, LaTeX and HTML, and explain itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

import numpy as np
import pandas as pd

_SCROLLED = "max-width: 100%; max-height: 32em; overflow: auto"
_SENTENCE = "max-width: 60em; margin: 0.4em 0"


class Result(ABC):
    """A result of the statistics."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The numbers, a row an entry; what is not there is missing."""

    @abstractmethod
    def explain(self) -> str:
        """The result in sentences, each with its numbers, and what cannot be said."""

    def shown(self) -> pd.DataFrame:
        """What of the table a person is shown first, in Jupyter and by the commands; `to_frame` has all."""
        return self.to_frame()

    def to_markdown(self) -> str:
        """The table in Markdown."""
        frame = _texts(self.to_frame())
        rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)

    def to_latex(self) -> str:
        """The table in LaTeX, for the booktabs package."""
        return str(_texts(self.to_frame()).style.hide(axis="index").format(escape="latex").to_latex(hrules=True))

    def _repr_html_(self) -> str:
        """What is shown of the table, scrolled where it is large, and the sentences, as Jupyter shows them."""
        table = _texts(self.shown()).to_html(index=False, border=0)
        told = "".join(f'<p style="{_SENTENCE}">{escape(line)}</p>' for line in self.explain().splitlines())
        return f'<div style="{_SCROLLED}">{table}</div>{told}'


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells as they are printed: four significant digits, yes and no, nothing where a value is missing."""

    def cell(value: object) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float):
            return "" if value != value else f"{value:.4g}"
        if isinstance(value, tuple | list):
            return ", ".join(cell(each) for each in value)
        if isinstance(value, dict):
            return ", ".join(f"{key} {cell(each)}" for key, each in value.items() if each is not None)
        return "" if value is None else str(value)

    return frame.map(cell).rename(columns=str)
