"""`adapter-study report`: a study's report as one HTML page, or as Markdown with its figures as files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.shared import StudyFile
from study.study import Study

HTML, MARKDOWN = (".html", ".htm"), (".md", ".markdown")


def command(
    study: StudyFile,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="report.html: one page; report.md: Markdown, figures beside it.")
    ],
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Write the figures into this folder as well, a file each.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Show the confirmation of this recipe: a file, or a shipped recipe.")
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps/--no-maps", help="Attention and noise maps of trials whose weights are kept.")
    ] = True,
) -> None:
    """Write a study's report as one HTML page, or as Markdown.

    The page needs no other file: pictures and style are in it. Markdown has its figures in the folder NAME_files beside
    it. A report is made from what the store holds, so a study that still runs has one too, which says so. Maps are made
    anew with the backbone, which takes most of the time; --no-maps leaves them out.
    """
    from study.report import built

    kind = output.suffix.lower()
    if kind not in (*HTML, *MARKDOWN):
        raise InputFault(f"-o {output}: expected a name that ends in .html or .md")
    beside = output.with_name(f"{output.stem}_files") if kind in MARKDOWN else None
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputFault(f"-o {output}: expected a file in a folder that is there")
    for folder, option in ((beside, f"-o {output}"), (figures, "--figures")):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputFault(f"{option}: {folder} is a file; the figures need a folder of that name")
    page = built(Study.load(study, store), study, recipe, maps, lambda words: print(words, file=sys.stderr))
    if beside is not None:
        from analysis.report.markdown import to_markdown

        text, files = to_markdown(page, beside.name)
        _write(beside, files)
    else:
        from analysis.report.page import to_html

        text = to_html(page)
    if figures is not None:
        from analysis.report.markdown import figures_of

        _write(figures, figures_of(page))
    write_file(output, partial(_fill, text.encode()))
    print(output)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        write_file(folder / name, partial(_fill, data))


def _fill(data: bytes, part: Path) -> None:
    part.write_bytes(data)
