"""Scale: the output of a module is multiplied by a trained vector that starts at one.

Realised with a forward hook on the module, so that no module is replaced, and rows of other slots pass untouched.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Weights, trained
from adapters.edits.stack import Stack
from adapters.layers import Layer


class Scale:
    """A factor on every feature of one module's output (..., features).

    Parameters
    ----------
    name
        The module's dotted path in the denoiser.
    module
        The module.
    writer
        The linear layer in it, or the module itself, whose product is the module's output: it takes the factors when
        they are merged.
    """

    def __init__(self, name: str, module: nn.Module, writer: Layer):
        self.name = name
        self.module = module
        self.writer = writer
        self.parameters: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def like(self) -> Hashable:
        """The module."""
        return self.name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of the vector by its full name."""
        return {f"{self.name}.gamma": (self.writer.outputs,)}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Set the vector to one.

        It lies on the writer's device, in float32, or float64 on a float64 denoiser.
        """
        self.parameters = trained({"gamma": torch.ones(self.writer.outputs)}, self.writer.module.weight)
        return {f"{self.name}.gamma": self.parameters["gamma"]}

    def attach(self, stack: Stack) -> None:
        """Put the hook on."""

        def scale(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
            return stack.replace(output, stack.apply(lambda own, rows: rows * own["gamma"].to(rows.dtype), output))

        self._handles.append(self.module.register_forward_hook(scale))

    def merge(self, weights: Weights) -> None:
        """Multiply the rows of the writer's weight, and its bias."""
        gamma = self.parameters["gamma"]
        for name in ("weight", "bias"):
            if getattr(self.writer.module, name) is None:
                continue
            value = weights[f"{self.writer.name}.{name}"]
            factor = gamma.view(-1, *[1] * (value.ndim - 1))
            weights[f"{self.writer.name}.{name}"] = (value.to(factor.dtype) * factor).to(value.dtype)

    def detach(self) -> None:
        """Take the hook off."""
        while self._handles:
            self._handles.pop().remove()
