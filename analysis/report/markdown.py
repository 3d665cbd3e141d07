"""The report as Markdown, with its figures as files beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from analysis.report.blocks import Block, Code, Details, Heading, Notes, Page, Picture, Side, Table, Terms, Text


def to_markdown(page: Page, folder: str) -> tuple[str, dict[str, bytes]]:
    """Write a page as Markdown (GitHub's, for its tables).

    Parameters
    ----------
    folder : str
        Where the figures will lie, from the Markdown file.

    Returns
    -------
    str
    dict of str to bytes
        The figures: name of the file → its bytes.
    """
    files = figures_of(page)
    names = {id(picture): name for name, picture in zip(files, page.pictures(), strict=True)}
    links = {key: f"{quote(folder)}/{name}" for key, name in names.items()}
    lines = [f"# {plain(page.title)}", plain(page.lead), *_written(page.top, links)]
    for section in page.sections:
        lines += [f"## {plain(section.title)}", *_written(section.blocks, links)]
    return "\n\n".join(lines) + "\n", files


def figures_of(page: Page) -> dict[str, bytes]:
    """The figures of a page as PNG files, in its order: name of the file → its bytes."""
    files: dict[str, bytes] = {}
    for number, picture in enumerate(page.pictures(), start=1):
        files[f"{number:02d}-{picture.name}.png"] = picture.data if picture.format == "png" else _png(picture.data)
    return files


def _png(data: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def plain(text: str) -> str:
    """Text that Markdown and HTML inside it take as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def _written(blocks: Sequence[Block], links: Mapping[int, str]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Text):
            yield f"> {plain(block.words)}" if block.kind in ("warning", "question") else plain(block.words)
        elif isinstance(block, Heading):
            yield f"### {plain(block.words)}"
        elif isinstance(block, Notes):
            if block.items:
                yield "\n".join(f"- {plain(item)}" for item in block.items)
        elif isinstance(block, Terms):
            yield "\n".join(f"- **{plain(name)}**: {plain(value)}" for name, value in block.pairs)
        elif isinstance(block, Table):
            yield _table(block)
        elif isinstance(block, Picture):
            yield _picture(block, links)
        elif isinstance(block, Side):
            yield from (_picture(picture, links) for picture in block.pictures)
        elif isinstance(block, Code):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.code)), default=0))
            language = {"shell": "sh"}.get(block.language, block.language)
            yield f"{plain(block.words)}\n\n{fence}{language}\n{block.code.rstrip()}\n{fence}"
        elif isinstance(block, Details):
            yield f"**{plain(block.summary)}**"
            yield from _written(block.blocks, links)


def _picture(picture: Picture, links: Mapping[int, str]) -> str:
    image = f"![{plain(picture.alt)}]({links[id(picture)]})"
    return f"{image}\n\n*{plain(picture.caption)}*" if picture.caption else image


def _table(table: Table) -> str:
    head = "| " + " | ".join(plain(name) or " " for name, _ in table.columns) + " |"
    rule = "|" + "|".join(" ---: " if numeric else " --- " for _, numeric in table.columns) + "|"
    rows = ["| " + " | ".join(plain(cell) for cell in row.cells) + " |" for row in table.rows]
    return "\n".join([f"*{plain(table.caption)}*", "", head, rule, *rows])
