"""`adapter-study export`: write a trained adapter in a format that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from adapters.faults import InputFault


def command(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder, as `train` writes it.")],
    format: Annotated[
        Literal["diffusers", "peft", "delta"],
        typer.Option(help="diffusers: for load_lora_weights; peft: a peft folder; delta: changes of weights."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to.")],
    approximate: Annotated[
        int | None, typer.Option(min=1, help="With diffusers: the nearest LoRA of this rank of any change of weights.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Where the backbone is, if not where the adapter was trained.")
    ] = None,
) -> None:
    """Write a trained adapter in a format that other programs read.

    A format that cannot hold the adapter is refused; `adapters.load(pipe, path)` puts every adapter on a pipeline.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputFault(f"-o {output}: there is something already; name a folder that is empty or not there")
    from adapters.export import export
    from study.trained_adapter import backbone_of

    base, metadata = backbone_of(adapter, backbone)
    if metadata.control:
        raise InputFault(
            f"{adapter}: it follows control maps through an encoder beside it, which no format of `export` holds; "
            "draw with `adapter-study generate --map`"
        )
    done = export(adapter, format, output, base.pipeline, approximate)
    for file in done.files:
        print(file)
    if done.error is not None:
        print(f"an approximation of rank {approximate}: it misses {done.error:.1%} of the change (Frobenius norm)")
