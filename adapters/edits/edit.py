"""What every edit can do, and weights with edits merged in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from typing import Protocol

import torch
from torch import Tensor, nn

from adapters.draws import Draws
from adapters.edits.stack import Stack

Weights = MutableMapping[str, Tensor]
"""Weights of a denoiser by full name, on which edits are merged one after another."""


class Edit(Protocol):
    """A change of the denoiser that can be put on and undone to the bit."""

    parameters: dict[str, nn.Parameter]
    """The trained parameters by their names in the edit; none before `start`."""

    @property
    def like(self) -> Hashable:
        """What edits must have in common to be stacked: their place and all that shapes the computation there."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every trained parameter by its full name; allocates nothing."""

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Make the trained parameters and give them by full name."""

    def attach(self, stack: Stack) -> None:
        """Put the edit on, for all slots of a stack of edits like it."""

    def merge(self, weights: Weights) -> None:
        """Change weights so that the bare denoiser computes what it computes with the attached edit.

        Raises
        ------
        InputFault
            When no weights of the denoiser can do what the edit does.
        """

    def detach(self) -> None:
        """Undo everything that `start` and `attach` did; a second call does nothing."""


def trained(values: Mapping[str, Tensor], like: Tensor) -> dict[str, nn.Parameter]:
    """Make parameters of initial values: on the device of a weight, in float32, or float64 where the weight is."""
    kept = torch.promote_types(torch.float32, like.dtype)
    return {name: nn.Parameter(value.to(like.device, kept)) for name, value in values.items()}
