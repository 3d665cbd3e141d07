"""Ways to save a worker's memory that change no numbers but rounding, and so are no part of a trial's identity.

A command hands them to its workers in an environment variable, since every worker of a run saves alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from adapters.faults import InputFault

VARIABLE = "ADAPTER_STUDY_SAVE_MEMORY"
"""Holds the names of what is on, such as ``gradient_checkpointing,offload``."""


@dataclass(frozen=True)
class Saving:
    """What is done to save memory.

    Attributes
    ----------
    gradient_checkpointing
        The denoiser's activations are computed anew in the backward pass instead of being kept (non-reentrant).
    offload
        Text encoders and autoencoder are on the CPU but for the moments when they are used.
    """

    gradient_checkpointing: bool = False
    offload: bool = False

    @classmethod
    def of_environment(cls) -> Saving:
        """Read what the command asked for.

        Raises
        ------
        InputFault
            For a name that is none of these.
        """
        names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
        if unknown := sorted(names - {"gradient_checkpointing", "offload"}):
            raise InputFault(f"{VARIABLE} names {unknown[0]!r}; known are gradient_checkpointing and offload")
        return cls("gradient_checkpointing" in names, "offload" in names)

    def to_environment(self) -> None:
        """Hand it to the workers that this process starts, beside what the variable says already."""
        before = Saving.of_environment()
        on = [name for name in ("gradient_checkpointing", "offload") if getattr(self, name) or getattr(before, name)]
        if on:
            os.environ[VARIABLE] = ",".join(on)


NOTHING = Saving()
"""Everything is kept where it is computed."""
