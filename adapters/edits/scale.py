"""Scale: the output of a module is multiplied by a trained vector that starts at one.

Realised with a forward hook on the module, so that no module is replaced, and rows of other slots pass untouched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Rows, Weights
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
        self._handles: list[RemovableHandle] = []
        self._gamma: nn.Parameter | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of the vector by its full name."""
        return {f"{self.name}.gamma": (self.writer.outputs,)}

    def attach(self, slot: int, rows: Rows, draws: Draws) -> dict[str, nn.Parameter]:
        """Set the vector to one and put the hook on.

        The vector lies on the writer's device, in float32, or float64 on a float64 denoiser.
        """
        weight = self.writer.module.weight
        kept = torch.promote_types(torch.float32, weight.dtype)
        gamma = self._gamma = nn.Parameter(torch.ones(self.writer.outputs, device=weight.device, dtype=kept))

        def scale(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
            own = rows.of(slot, output)
            factor = gamma.to(output.dtype)
            if own is None:
                return output * factor
            if not len(own):
                return output
            return output.index_copy(0, own, output[own] * factor)

        self._handles.append(self.module.register_forward_hook(scale))
        return {f"{self.name}.gamma": gamma}

    def merge(self, weights: Weights) -> None:
        """Multiply the rows of the writer's weight, and its bias."""
        assert self._gamma is not None, "merged before it was attached"
        for name in ("weight", "bias"):
            if getattr(self.writer.module, name) is None:
                continue
            value = weights[f"{self.writer.name}.{name}"]
            factor = self._gamma.view(-1, *[1] * (value.ndim - 1))
            weights[f"{self.writer.name}.{name}"] = (value.to(factor.dtype) * factor).to(value.dtype)

    def detach(self) -> None:
        """Take the hook off."""
        while self._handles:
            self._handles.pop().remove()
