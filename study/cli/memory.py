"""The options that several commands share: ways to save memory, called as in diffusers' training scripts."""

from typing import Annotated

import typer

GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--gradient_checkpointing", "--gradient-checkpointing", help="Less memory; blocks are computed twice a step."
    ),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep text encoders and autoencoder on the CPU while they are not used.")
]
