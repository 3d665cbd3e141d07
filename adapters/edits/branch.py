"""Branch: what a form makes of the tensor at one position is added to the tensor at another.

Realised with hooks on the modules around which the tensors pass, so that no module is replaced and nothing is left
behind. `adapters.positions` says where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Rows, Weights
from adapters.faults import InputFault
from adapters.positions import Block, Site


class Form(Protocol):
    """What a branch computes; see `adapters.forms`."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its name."""

    def draw(self, prefix: str, draws: Draws) -> dict[str, Tensor]:
        """Draw initial values."""

    def __call__(self, parameters: Mapping[str, Tensor], tensor: Tensor) -> Tensor:
        """Apply the form to the tensor read."""


class Branch:
    """An adapter on one block.

    Parameters
    ----------
    block
        Where it sits.
    input, output
        The pair of positions.
    form
        What is computed between them.
    """

    def __init__(self, block: Block, input: str, output: str, form: Form):
        self.block = block
        self.input = input
        self.output = output
        self.form = form
        self._handles: list[RemovableHandle] = []
        self._parameters: dict[str, nn.Parameter] = {}
        self._seen: Tensor | None = None  # the tensor read, between its place and the place of writing
        self._value: Tensor | None = None  # what was added, between the first place of writing and the next

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its full name."""
        return {f"{self.block.name}.{name}": shape for name, shape in self.form.shapes().items()}

    def attach(self, slot: int, rows: Rows, draws: Draws) -> dict[str, nn.Parameter]:
        """Draw the parameters and put the hooks on.

        The parameters lie on the block's device, in float32, or float64 on a float64 denoiser.
        """
        like = next(self.block.module.parameters())
        kept = torch.promote_types(torch.float32, like.dtype)
        drawn = self.form.draw(self.block.name, draws)
        self._parameters = {name: nn.Parameter(value.to(like.device, kept)) for name, value in drawn.items()}

        def add(target: Tensor, read: Tensor) -> Tensor:
            own = rows.of(slot, target)
            if own is not None and not len(own):
                return target
            value = self.form(self._parameters, read if own is None else read.index_select(0, own))
            if again:
                self._value = value
            return put(target, value)

        def put(target: Tensor, value: Tensor) -> Tensor:
            own = rows.of(slot, target)
            value = value.to(target.dtype)
            return target + value if own is None else target.index_add(0, own, value)

        def add_again(target: Tensor) -> Tensor:
            value, self._value = self._value, None
            return target if value is None else put(target, value)

        def keep(tensor: Tensor) -> None:
            self._seen = tensor

        def taken() -> Tensor:
            seen, self._seen = self._seen, None
            if seen is None:
                raise RuntimeError(f"{self.block.name}: {self.output} was reached before {self.input} was read")
            return seen

        sites = self.block.sites
        read, (write, *again) = sites.reads[self.input], sites.writes[self.output]
        if read == write:
            self._tap(write, lambda tensor: add(tensor, tensor))
        elif self.input == self.output:
            self._tap(sites.before[self.input], keep)
            self._tap(write, lambda tensor: add(tensor, taken() + tensor))
        else:
            self._tap(read, keep)
            self._tap(write, lambda tensor: add(tensor, taken()))
        for site in again:
            self._tap(site, add_again)
        return {f"{self.block.name}.{name}": parameter for name, parameter in self._parameters.items()}

    def merge(self, weights: Weights) -> None:
        """Refuse: a branch between two positions is no change of the denoiser's weights."""
        raise InputFault(
            f"an adapter that reads {self.input} and is added at {self.output} is a layer of its own and cannot be "
            "merged into the denoiser's weights; put it on a pipeline with adapters.load(pipe, path)"
        )

    def detach(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()
        self._seen = self._value = None

    def _tap(self, site: Site, function: Callable[[Tensor], Tensor | None]) -> None:
        """Run a function on the tensor passing a site; what it returns, if anything, takes the tensor's place."""
        module = self.block.module.get_submodule(site.module)
        if site.kind == "output":
            self._handles.append(module.register_forward_hook(lambda _module, _args, tensor: function(tensor)))
            return

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if site.kind == "context":
                context = kwargs.get("encoder_hidden_states")
                if not isinstance(context, Tensor):
                    raise InputFault(
                        f"{self.block.name}: {self.input} is the text handed to cross-attention, but the denoiser "
                        f"got {type(context).__name__} as encoder_hidden_states; give a tensor (B, tokens, width)"
                    )
                new = function(context)
                return None if new is None else (args, {**kwargs, "encoder_hidden_states": new})
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
