"""What every result can do: be a table in Markdown, LaTeX and HTML, and explain itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

import pandas as pd


class Result(ABC):
    """A result of the statistics."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The numbers, a row an entry; what is not there is missing."""

    @abstractmethod
    def explain(self) -> str:
        """The result in sentences, each with its numbers, and what cannot be said."""

    def to_markdown(self) -> str:
        """The table in Markdown."""
        frame = _texts(self.to_frame())
        rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)

    def to_latex(self) -> str:
        """The table in LaTeX, for the booktabs package."""
        return str(_texts(self.to_frame()).style.hide(axis="index").format(escape="latex").to_latex(hrules=True))

    def _repr_html_(self) -> str:
        """The table and the sentences, as Jupyter shows them."""
        table = _texts(self.to_frame()).to_html(index=False, border=0)
        return table + "".join(f"<p>{escape(line)}</p>" for line in self.explain().splitlines())


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells as they are printed: four significant digits, nothing where a value is missing."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.4g}"
        if isinstance(value, tuple | list):
            return ", ".join(cell(each) for each in value)
        if isinstance(value, dict):
            return ", ".join(f"{key} {cell(each)}" for key, each in value.items() if each is not None)
        return "" if value is None else str(value)

    return frame.map(cell).rename(columns=str)
