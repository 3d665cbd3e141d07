"""Delta: something is added to the product of one layer's weight and its input, as if the weight had changed.

Realised with a forward hook on the layer, so that no module is replaced, and rows of other slots pass untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.changes.tensor_ring import TransformResidual
from adapters.draws import Draws
from adapters.edits.edit import Rows, Weights
from adapters.layers import TEXT_ENCODER, Layer

if TYPE_CHECKING:
    from adapters.layers import AnyLayer


class Change(Protocol):
    """How a weight changes; see `adapters.changes`. It holds no tensors."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its name."""

    def draw(self, prefix: str, draws: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Give initial values; `weight` is the layer's own."""

    def added(self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, output: Tensor) -> Tensor:
        """Give what is added to `output`, which the layer made of `tensor`."""

    def changed(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Give the weight with the change in it."""


class Delta:
    """A change of one layer's weight.

    Parameters
    ----------
    layer
        Where.
    change
        What.
    """

    def __init__(self, layer: Layer, change: Change):
        self.layer = layer
        self.change = change
        self._handles: list[RemovableHandle] = []
        self._parameters: dict[str, nn.Parameter] = {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its full name."""
        return {f"{self.layer.name}.{name}": shape for name, shape in self.change.shapes().items()}

    def attach(self, slot: int, rows: Rows, draws: Draws) -> dict[str, nn.Parameter]:
        """Draw the parameters and put the hook on.

        The parameters lie on the layer's device, in float32, or float64 on a float64 denoiser.
        """
        weight = self.layer.module.weight.detach()
        kept = torch.promote_types(torch.float32, weight.dtype)
        drawn = self.change.draw(self.layer.name, draws, weight.to(kept))
        self._parameters = {name: nn.Parameter(value.to(weight.device, kept)) for name, value in drawn.items()}

        def add(layer: AnyLayer, args: tuple[Any, ...], output: Tensor) -> Tensor:
            own = None if of_text else rows.of(slot, output)
            tensor, target = (args[0], output) if own is None else (args[0][own], output[own])
            if not len(target):
                return output
            cast = {name: value.to(target.dtype) for name, value in self._parameters.items()}
            change = self.change.added(cast, layer, tensor, target).to(target.dtype)
            return output + change if own is None else output.index_add(0, own, change)

        of_text = self.layer.name.startswith(TEXT_ENCODER)  # its rows are prompts, and its pack is of one
        self._handles.append(self.layer.module.register_forward_hook(add))
        return {f"{self.layer.name}.{name}": parameter for name, parameter in self._parameters.items()}

    @property
    def regularised(self) -> bool:
        """Whether the change adds to the training loss."""
        return isinstance(self.change, TransformResidual) and self.change.regulariser > 0

    def penalty(self) -> Tensor:
        """Give what a regularised change adds to the training loss."""
        assert isinstance(self.change, TransformResidual)
        return self.change.penalty(self._parameters)

    def merge(self, weights: Weights) -> None:
        """Change the layer's weight."""
        name = f"{self.layer.name}.weight"
        weight = weights[name]
        kept = torch.promote_types(torch.float32, weight.dtype)
        weights[name] = self.change.changed(self._parameters, weight.to(kept)).to(weight.dtype)

    def detach(self) -> None:
        """Take the hook off."""
        while self._handles:
            self._handles.pop().remove()
