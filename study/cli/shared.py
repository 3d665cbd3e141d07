"""The arguments and options that several commands share; those that save memory are called as in diffusers' scripts."""

from typing import Annotated

import typer

from study import config, recipe
from study.shipped import names

StudyFile = Annotated[
    str, typer.Argument(help=f"A study file, or a shipped study: {', '.join(names(config.SHIPPED))}.")
]
RecipeFile = Annotated[
    str, typer.Argument(help=f"A recipe file, or a shipped recipe: {', '.join(names(recipe.SHIPPED))}.")
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--gradient_checkpointing", "--gradient-checkpointing", help="Less memory; blocks are computed twice a step."
    ),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep text encoders and autoencoder on the CPU while they are not used.")
]
