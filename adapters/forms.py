"""Function forms: what is computed between the tensor read and the tensor written.

A form holds no tensors: it says which parameters it has, draws them, and applies given ones. Its arithmetic runs in
the type of the tensor it is given, whatever type the parameters are kept in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.draws import Draws

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "identity": lambda tensor: tensor,
}


@dataclass(frozen=True)
class Bottleneck:
    """``Linear(read, width) → activation → Linear(width, write)``, times a scale.

    Applied to the last dimension of a tensor (..., read); gives (..., write).
    """

    read: int
    write: int
    width: int
    activation: str
    scale: float
    init: str

    batched: ClassVar[bool] = True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its name."""
        return {
            "down.weight": (self.width, self.read),
            "down.bias": (self.width,),
            "up.weight": (self.write, self.width),
            "up.bias": (self.write,),
        }

    def draw(self, prefix: str, draws: Draws) -> dict[str, Tensor]:
        """Draw initial float32 values on the CPU; `prefix` makes the names that key the random streams."""
        return _draw_layers(self.shapes(), prefix, draws, self.init)

    def __call__(self, parameters: Mapping[str, Tensor], tensor: Tensor) -> Tensor:
        """Apply the form to a tensor (..., read)."""
        cast = _cast(parameters, tensor)
        hidden = ACTIVATIONS[self.activation](F.linear(tensor, cast("down.weight"), cast("down.bias")))
        return F.linear(hidden, cast("up.weight") * self.scale, cast("up.bias") * self.scale)


@dataclass(frozen=True)
class ConvolutionalBottleneck:
    """``GroupNorm → SiLU → Conv3x3(read, width) → activation → Conv3x3(width, write)``, times a scale.

    Applied to a tensor (B, read, H, W); gives (B, write, H, W).
    """

    read: int
    write: int
    width: int
    activation: str
    scale: float
    init: str
    groups: int

    batched: ClassVar[bool] = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its name."""
        return {
            "norm.weight": (self.read,),
            "norm.bias": (self.read,),
            "down.weight": (self.width, self.read, 3, 3),
            "down.bias": (self.width,),
            "up.weight": (self.write, self.width, 3, 3),
            "up.bias": (self.write,),
        }

    def draw(self, prefix: str, draws: Draws) -> dict[str, Tensor]:
        """Draw initial float32 values on the CPU; `prefix` makes the names that key the random streams."""
        return _draw_layers(self.shapes(), prefix, draws, self.init)

    def __call__(self, parameters: Mapping[str, Tensor], tensor: Tensor) -> Tensor:
        """Apply the form to a tensor (B, read, H, W)."""
        cast = _cast(parameters, tensor)
        hidden = F.silu(F.group_norm(tensor, self.groups, cast("norm.weight"), cast("norm.bias")))
        hidden = F.conv2d(hidden, cast("down.weight"), cast("down.bias"), padding=1)
        hidden = ACTIVATIONS[self.activation](hidden)
        return F.conv2d(hidden, cast("up.weight") * self.scale, cast("up.bias") * self.scale, padding=1)


def _cast(parameters: Mapping[str, Tensor], like: Tensor) -> Callable[[str], Tensor]:
    return lambda name: parameters[name].to(like.dtype)


def _draw_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str, draws: Draws, init: str) -> dict[str, Tensor]:
    """Draw as PyTorch's own layers do: norms are one and zero, the rest U(±1/√fan_in), biases included."""
    values = {}
    for name, shape in shapes.items():
        layer, kind = name.split(".")
        if layer == "norm":
            values[name] = torch.ones(shape) if kind == "weight" else torch.zeros(shape)
        elif layer == "up" and init == "zero_up":
            values[name] = torch.zeros(shape)
        else:
            fan_in = torch.Size(shapes[f"{layer}.weight"][1:]).numel()
            values[name] = draws.uniform(f"{prefix}.{name}", shape, fan_in**-0.5)
    return values
