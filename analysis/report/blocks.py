"""What a page is made of: sections of texts, tables, figures and code, which HTML and Markdown write each in their way.

Everything is plain text; whoever writes it escapes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Text:
    """A paragraph; ``kind`` is "", "small", "question" (what a test answers) or "warning"."""

    words: str
    kind: str = ""


@dataclass(frozen=True)
class Notes:
    """Sentences, a line each."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """Names with their values; ``kind`` is "facts" (few, large) or "list"."""

    pairs: tuple[tuple[str, str], ...]
    kind: str = "list"


@dataclass(frozen=True)
class Row:
    """Cells of a table's row as text, the first of which names it; ``kind`` is "", "clear" or "muted"."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table: caption, columns (name, whether it holds numbers) and rows."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Picture:
    """A figure: its bytes and format ("png" or "webp"), its width on a wide page in CSS pixels, what it shows (alt)."""

    name: str
    data: bytes = field(repr=False)
    width: int
    alt: str
    caption: str = ""
    format: str = "png"


@dataclass(frozen=True)
class Side:
    """Small figures side by side."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Code:
    """Code that runs as shown."""

    words: str
    language: str
    code: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    words: str


@dataclass(frozen=True)
class Details:
    """What is folded up until it is asked for."""

    summary: str
    blocks: tuple[Block, ...]


Block = Text | Notes | Terms | Table | Picture | Side | Code | Heading | Details


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; ``id`` is its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes
    ----------
    lead : str
        The answer, in a few sentences.
    top : tuple of Block
        What stands before the first section.
    """

    title: str
    lead: str
    top: tuple[Block, ...]
    sections: tuple[Section, ...]

    def pictures(self) -> Iterator[Picture]:
        """Every figure, in the order of the page."""
        yield from _pictures(self.top)
        for section in self.sections:
            yield from _pictures(section.blocks)


def _pictures(blocks: Sequence[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Side):
            yield from block.pictures
        elif isinstance(block, Details):
            yield from _pictures(block.blocks)


def number(value: Any) -> str:
    """A number as tables show it: three decimals, whole ones with thousands apart, an en dash where there is none."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def table_of(frame: pd.DataFrame, caption: str, most: int = 300, numeric: Collection[str] = ()) -> Table:
    """A frame as a table; of a longer one the first ``most`` rows, which the caption then says.

    Parameters
    ----------
    numeric : collection of str
        Columns of text that hold numbers; those of numbers do anyway.
    """
    columns = tuple((str(c), c in numeric or pd.api.types.is_numeric_dtype(frame[c])) for c in frame.columns)
    rows = tuple(Row(tuple(number(v) for v in row)) for row in frame.head(most).itertuples(index=False))
    if len(frame) > most:
        caption = f"{caption} (the first {most} of {len(frame)} rows)"
    return Table(caption, columns, rows)
