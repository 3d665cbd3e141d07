"""Branch: what a form makes of the tensor at one position is added to the tensor at another.

Realised with hooks on the modules around which the tensors pass, so that no module is replaced and nothing is left
behind. `adapters.positions` says where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Weights, trained
from adapters.edits.stack import Stack
from adapters.faults import InputFault
from adapters.positions import Block, Site


class Form(Protocol):
    """What a branch computes; see `adapters.forms`."""

    batched: ClassVar[bool]
    """Whether the forms of several slots are best computed at once."""

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
        self.parameters: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []
        self._seen: Tensor | None = None  # the tensor read, between its place and the place of writing
        self._value: Tensor | None = None  # what was added, between the first place of writing and the next

    @property
    def like(self) -> Hashable:
        """The block, the pair and the form."""
        return self.block.name, self.input, self.output, self.form

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every parameter by its full name."""
        return {f"{self.block.name}.{name}": shape for name, shape in self.form.shapes().items()}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Draw the parameters.

        They lie on the block's device, in float32, or float64 on a float64 denoiser.
        """
        self.parameters = trained(self.form.draw(self.block.name, draws), next(self.block.module.parameters()))
        return {f"{self.block.name}.{name}": parameter for name, parameter in self.parameters.items()}

    def attach(self, stack: Stack) -> None:
        """Put the hooks on."""

        def add(target: Tensor, read: Tensor) -> Tensor:
            value = stack.apply(self.form, read, batched=self.form.batched)
            if again:
                self._value = value
            return stack.add(target, value, owned)

        def add_again(target: Tensor) -> Tensor:
            value, self._value = self._value, None
            return stack.add(target, value)

        def keep(tensor: Tensor) -> None:
            self._seen = tensor

        def taken() -> Tensor:
            seen, self._seen = self._seen, None
            if seen is None:
                raise RuntimeError(f"{self.block.name}: {self.output} was reached before {self.input} was read")
            return seen

        sites = self.block.sites
        read, (write, *again) = sites.reads[self.input], sites.writes[self.output]
        owned = write.kind == "output"
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

        def after(output: Any) -> Any:
            if site.place is None:
                return function(output)
            new = function(output[site.place])
            return None if new is None else (*output[: site.place], new, *output[site.place + 1 :])

        if site.kind == "output":
            self._handles.append(module.register_forward_hook(lambda _module, _args, output: after(output)))
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
            if args:  # gradient checkpointing hands by place what joint blocks are otherwise given by name
                new = function(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = function(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
