"""Own: one of the denoiser's own parameters, of which every slot has a copy that takes its place on the slot's rows.

The parameter itself stays as it is: the outputs of the modules that hold it are changed to what they are with the copy,
by forward hooks, so that no module is replaced, and rows of other slots pass untouched.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Weights, trained
from adapters.edits.stack import Stack

_CHANNELS_FIRST = nn.modules.conv._ConvNd, nn.GroupNorm, nn.modules.batchnorm._NormBase


class Own(ABC):
    """A copy of a parameter.

    Parameters
    ----------
    name
        The parameter's full name in the denoiser.
    parameter
        The parameter.
    modules
        The modules that hold it: one, or those that share it.
    """

    first: ClassVar[bool] = False
    """Whether the output must be changed before any other hook does so."""

    def __init__(self, name: str, parameter: nn.Parameter, modules: Sequence[nn.Module]):
        self.name = name
        self.parameter = parameter
        self.modules = tuple(modules)
        self.parameters: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def like(self) -> Hashable:
        """The parameter."""
        return self.name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of the parameter by its full name."""
        return {self.name: tuple(self.parameter.shape)}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Copy the parameter.

        The copy lies on its device, in float32, or float64 where the parameter is.
        """
        self.parameters = trained({"copy": self.parameter.detach().clone()}, self.parameter)
        return {self.name: self.parameters["copy"]}

    def attach(self, stack: Stack) -> None:
        """Put the hooks on."""

        def change(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return self._changed(stack, module, args[0], output)

        for module in self.modules:
            self._handles.append(module.register_forward_hook(change, prepend=self.first))

    def merge(self, weights: Weights) -> None:
        """Put the copy in the place of the parameter."""
        weights[self.name] = self.parameters["copy"].detach().to(self.parameter.dtype, copy=True)

    def detach(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()

    @abstractmethod
    def _changed(self, stack: Stack, module: nn.Module, tensor: Tensor, output: Tensor) -> Tensor:
        """Give what a module that holds the parameter makes of a tensor with the copies; `output` is without."""


class Bias(Own):
    """The bias of a linear, convolutional or normalisation layer: the difference is added."""

    def _changed(self, stack: Stack, module: nn.Module, tensor: Tensor, output: Tensor) -> Tensor:
        features = self.parameter.shape
        pixels = output.ndim - 2 if isinstance(module, _CHANNELS_FIRST) else 0
        places = output.ndim - 1 - len(features) - pixels
        shape = *[1] * places, *features, *[1] * pixels

        def difference(own: Mapping[str, Tensor], rows: Tensor) -> Tensor:
            value = (own["copy"] - self.parameter.detach()).to(output.dtype)
            return value.view(shape).expand(len(rows), *shape)

        # Of the rows only their number matters.
        value = stack.apply(difference, output.new_empty(len(output), 0), batched=False)
        if value is None:
            return output
        # The module made its output anew. Zeros added to the rows of other slots cost less than finding one's own.
        return output.add_(stack.replace(output.new_zeros(len(output), *shape), value))


class NormWeight(Own):
    """The weight of a normalisation layer: the output is computed anew, with the layer's own bias."""

    first = True

    def __init__(self, name: str, parameter: nn.Parameter, modules: Sequence[nn.Module]):
        super().__init__(name, parameter, modules)
        self._bare: dict[nn.Module, nn.Module] = {}  # copies of the modules, without hooks and weight

    def attach(self, stack: Stack) -> None:
        """Put the hooks on."""
        for module in self.modules:
            self._bare[module] = copy.deepcopy(module)
            del self._bare[module].weight
        super().attach(stack)

    def _changed(self, stack: Stack, module: nn.Module, tensor: Tensor, output: Tensor) -> Tensor:
        bare = self._bare[module]

        def computed(own: Mapping[str, Tensor], rows: Tensor) -> Tensor:
            bare.weight = own["copy"].to(self.parameter.dtype)
            return bare.forward(rows)

        return stack.replace(output, stack.apply(computed, tensor, batched=False))


class Table(Own):
    """The table of an embedding: it is looked up instead."""

    def _changed(self, stack: Stack, module: nn.Module, tensor: Tensor, output: Tensor) -> Tensor:
        return stack.replace(
            output, stack.apply(lambda own, rows: F.embedding(rows, own["copy"]), tensor, batched=False)
        )
