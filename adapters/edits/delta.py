"""Delta: something is added to the product of one layer's weight and its input, as if the weight had changed.

Realised with a forward hook on the layer, so that no module is replaced, and rows of other slots pass untouched.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.changes.tensor_ring import TransformResidual
from adapters.draws import Draws
from adapters.edits.edit import Weights, trained
from adapters.edits.rows import Rows
from adapters.edits.stack import Stack
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
        self.parameters: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def like(self) -> Hashable:
        """The layer and the change."""
        return self.layer.name, self.change

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its full name."""
        return {f"{self.layer.name}.{name}": shape for name, shape in self.change.shapes().items()}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Draw the parameters.

        They lie on the layer's device, in float32, or float64 on a float64 denoiser.
        """
        weight = self.layer.module.weight.detach()
        own = weight.to(torch.promote_types(torch.float32, weight.dtype))
        self.parameters = trained(self.change.draw(self.layer.name, draws, own), weight)
        return {f"{self.layer.name}.{name}": parameter for name, parameter in self.parameters.items()}

    def attach(self, stack: Stack) -> None:
        """Put the hook on."""

        def add(layer: AnyLayer, args: tuple[Any, ...], output: Tensor) -> Tensor:
            def added(parameters: Mapping[str, Tensor], tensor: Tensor, target: Tensor) -> Tensor:
                cast = {name: value.to(target.dtype) for name, value in parameters.items()}
                return self.change.added(cast, layer, tensor, target)

            # A linear or convolutional layer made its output anew and keeps its input only.
            return own.add(output, own.apply(added, args[0], output, batched=linear), owned=True)

        # The rows of a text encoder are prompts, and its pack is of one.
        linear = isinstance(self.layer.module, nn.Linear)
        own = Stack(Rows(1), [0], [self.parameters]) if self.layer.name.startswith(TEXT_ENCODER) else stack
        self._handles.append(self.layer.module.register_forward_hook(add))

    @property
    def regularised(self) -> bool:
        """Whether the change adds to the training loss."""
        return isinstance(self.change, TransformResidual) and self.change.regulariser > 0

    def penalty(self) -> Tensor:
        """Give what a regularised change adds to the training loss."""
        assert isinstance(self.change, TransformResidual)
        return self.change.penalty(self.parameters)

    def merge(self, weights: Weights) -> None:
        """Change the layer's weight."""
        name = f"{self.layer.name}.weight"
        weight = weights[name]
        kept = torch.promote_types(torch.float32, weight.dtype)
        weights[name] = self.change.changed(self.parameters, weight.to(kept)).to(weight.dtype)

    def detach(self) -> None:
        """Take the hook off."""
        while self._handles:
            self._handles.pop().remove()
