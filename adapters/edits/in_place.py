"""InPlace: the denoiser's own parameters are trained; the originals are kept and put back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

from adapters.draws import Draws
from adapters.edits.edit import Weights
from adapters.edits.stack import Stack


class InPlace:
    """Train parameters where they are.

    Parameters
    ----------
    parameters
        The parameters by their full name in the denoiser.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        self.parameters = dict(parameters)
        self._originals: dict[str, tuple[Tensor, bool]] = {}

    @property
    def like(self) -> Hashable:
        """Nothing: it is never stacked."""
        return id(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its full name."""
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Keep copies of the parameters, and let them be trained."""
        for name, parameter in self.parameters.items():
            self._originals[name] = parameter.data, parameter.requires_grad
            # in float32 at least, as all that is trained: small updates vanish in a type of half the bytes
            parameter.data = parameter.data.to(torch.promote_types(torch.float32, parameter.dtype), copy=True)
            parameter.requires_grad_(True)
        return dict(self.parameters)

    def attach(self, stack: Stack) -> None:
        """Do nothing: the denoiser itself is changed, for a pack of one."""

    def merge(self, weights: Weights) -> None:
        """Put the trained values in place of the originals."""
        for name, parameter in self.parameters.items():
            weights[name] = parameter.detach().to(self._originals[name][0].dtype, copy=True)

    def detach(self) -> None:
        """Put the originals back, bit for bit, and drop the gradients."""
        for name, (original, required) in self._originals.items():
            parameter = self.parameters[name]
            parameter.grad = None  # before the type changes
            parameter.data = original
            parameter.requires_grad_(required)
        self._originals = {}
