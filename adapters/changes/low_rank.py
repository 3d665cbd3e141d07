"""Low-rank changes: LoRA (2106.09685) and DoRA (2402.09353), with the tensors, names and start of peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.draws import Draws
from adapters.layers import Layer

if TYPE_CHECKING:
    from adapters.layers import AnyLayer

A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight"


@dataclass(frozen=True)
class LowRank:
    """``ΔW = scale · B A``; of a convolution A has its kernel and B is 1×1.

    Attributes
    ----------
    weight
        Shape of the layer's weight: (out, in) or (out, in, k, k).
    rank
        Rows of A.
    scale
        Factor on the product.
    """

    weight: tuple[int, ...]
    rank: int
    scale: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of A and B."""
        out, *read = self.weight
        return {A: (self.rank, *read), B: (out, self.rank, *[1] * (len(read) - 1))}

    def draw(self, prefix: str, draws: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Draw A from U(±1/√fan_in), as peft does; B is zero."""
        shapes = self.shapes()
        fan_in = torch.Size(shapes[A][1:]).numel()
        return {A: draws.uniform(f"{prefix}.{A}", shapes[A], fan_in**-0.5), B: torch.zeros(shapes[B])}

    def added(self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, output: Tensor) -> Tensor:
        """Give ``scale · B (A x)``."""
        return self.scaled(parameters, layer, tensor, self.scale)

    def scaled(
        self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, scale: Tensor | float
    ) -> Tensor:
        """Give ``scale · B (A x)`` with one scale, or one for each output in the shape of B, which takes it up."""
        if isinstance(layer, nn.Conv2d):
            hidden = F.conv2d(tensor, parameters[A], None, layer.stride, layer.padding, layer.dilation)
            return F.conv2d(hidden, parameters[B] * scale)
        return F.linear(F.linear(tensor, parameters[A]), parameters[B] * scale)

    def delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Give ``scale · B A`` in the weight's shape."""
        return (parameters[B].flatten(1) @ parameters[A].flatten(1)).view(self.weight) * self.scale

    def changed(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Give ``W + ΔW``."""
        return weight + self.delta(parameters)


@dataclass(frozen=True)
class WeightDecomposed:
    """``W' = m · (W + ΔW) / ‖W + ΔW‖`` for each output.

    The norm is held constant in the gradient, as §4.3 of DoRA's paper has it.
    """

    low_rank: LowRank

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of A, B and the magnitude m: (out,), of a convolution (1, out, 1, 1)."""
        out, *read = self.low_rank.weight
        return {**self.low_rank.shapes(), MAGNITUDE: (out,) if len(read) == 1 else (1, out, 1, 1)}

    def draw(self, prefix: str, draws: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Draw A and B as LoRA does; m is the norm of each output's weights."""
        drawn = self.low_rank.draw(prefix, draws, weight)
        return {**drawn, MAGNITUDE: weight.flatten(1).norm(dim=1).view(self.shapes()[MAGNITUDE])}

    def added(self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, output: Tensor) -> Tensor:
        """Give ``(g - 1) · W x + g · ΔW x`` with g the ratio of magnitude and norm."""
        ratio = self._ratio(parameters, layer.weight.to(output.dtype))
        scale = (ratio * self.low_rank.scale).view(-1, *[1] * (layer.weight.ndim - 1))
        added = self.low_rank.scaled(parameters, layer, tensor, scale)
        shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        product = output if layer.bias is None else output - layer.bias.view(shape)
        return added + (ratio - 1).view(shape) * product

    def changed(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Give ``g · (W + ΔW)``."""
        ratio = self._ratio(parameters, weight)
        return ratio.view(-1, *[1] * (weight.ndim - 1)) * self.low_rank.changed(parameters, weight)

    def _ratio(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        with torch.no_grad():
            norm = self.low_rank.changed(parameters, weight).flatten(1).norm(dim=1)
        return parameters[MAGNITUDE].flatten() / norm


def low_rank(layer: Layer, rank: int, scale: float) -> LowRank:
    """Make the change of a layer."""
    return LowRank(tuple(layer.module.weight.shape), rank, scale)
