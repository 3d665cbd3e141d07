"""`adapter-study report`: a study's report as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from adapters.faults import InputFault
from study.study import Study


def command(
    study: Annotated[str, typer.Argument(help="A study file, or a shipped study: quick, methods, paper, paper-micro.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write, such as report.html.")],
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
) -> None:
    """Write a study's report as one HTML page.

    The page needs no other file: pictures and style are in it. It is made from what the store holds, so a study that
    still runs has a report too.
    """
    from study.report import page

    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputFault(f"-o {output}: expected a file in a folder that is there")
    text = page(Study.load(study, store))
    part = output.with_name(f"{output.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, output)
    print(output)
