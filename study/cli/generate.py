"""`adapter-study generate`: draw pictures with a trained adapter."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.faults import InputFault
from study.atomic import write_file
from study.cli.told import warn

if TYPE_CHECKING:
    import numpy as np

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95
"""Of JPEG and WebP."""


def command(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder, as `train` writes it.")],
    prompt: Annotated[str, typer.Option(help='What to draw, such as "a photo of a sks robot on grass".')],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write: .png, .jpg or .webp.")],
    count: Annotated[int, typer.Option(min=1, help="Draw so many: out-0.png, out-1.png, …")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other pictures.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps, instead of the recipe's.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance, instead of the recipe's.")] = None,
    map: Annotated[Path | None, typer.Option(help="The map to follow, for an adapter that was trained to.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the backbone is, if not where the adapter was trained.")
    ] = None,
) -> None:
    """Draw pictures with a trained adapter.

    The same command draws the same pictures. The backbone must be the one the adapter was trained on, by its content.
    """
    files = _files(output, count)
    if guidance is not None and not math.isfinite(guidance):
        raise InputFault(f"--guidance {guidance}: expected a finite number, such as 4")
    from study.trained_adapter import draw, loaded

    with loaded(adapter, backbone) as (base, metadata):
        if metadata.token is not None and not _says(prompt, metadata.token):
            warn(f"the prompt lacks {metadata.token!r}, the word that means the subject: {prompt!r}")
        changes = {"sampling_steps": steps, "guidance": guidance}
        protocol = metadata.protocol.model_copy(update={k: v for k, v in changes.items() if v is not None})
        pictures = draw(base, prompt, count, seed, protocol, map)
        for file, picture in zip(files, pictures, strict=True):
            _write(file, picture)
            print(file)


def _files(output: Path, count: int) -> list[Path]:
    """Return the files to write.

    Raises
    ------
    InputFault
        For a format that is not written, or a place that cannot be written to.
    """
    output = output.expanduser()
    if output.suffix.lower() not in FORMATS:
        raise InputFault(f"-o {output}: got the suffix {output.suffix!r}, expected one of {', '.join(FORMATS)}")
    parent = output.absolute().parent
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise InputFault(f"-o {output}: {parent} is no folder that can be written to; make it, or name another")
    files = [output.with_stem(f"{output.stem}-{index}") for index in range(count)] if count > 1 else [output]
    for file in files:
        if file.is_dir():
            raise InputFault(f"-o {output}: {file} is a folder; name another file")
    return files


def _says(prompt: str, token: str) -> bool:
    """Tell whether the prompt has the token as a word; a text encoder does not tell capitals from small letters."""
    return re.search(rf"(?<!\w){re.escape(token)}(?!\w)", prompt, re.IGNORECASE) is not None


def _write(file: Path, picture: np.ndarray) -> None:
    from PIL import Image

    form = FORMATS[file.suffix.lower()]
    write_file(file, lambda part: Image.fromarray(picture).save(part, form, quality=QUALITY))
