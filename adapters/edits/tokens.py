"""Tokens: trained vectors take part in attention beside those that the denoiser has.

Realised with hooks, so that no module is replaced. `ContextTokens` are appended to the text handed to cross-attention;
`SequenceTokens` are put before a transformer's own sequence, and taken off again. Masks, which diffusers hands to
blocks and attentions as biases (B, 1, tokens) with 0 for what is kept, get zeros for the tokens that are added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.draws import Draws
from adapters.edits.edit import Weights, trained
from adapters.edits.stack import Stack
from adapters.faults import InputFault


class Tokens(ABC):
    """One set of tokens and the modules that share it.

    Parameters
    ----------
    name
        What the tokens' full name begins with.
    modules
        Attentions or blocks, in the order in which they run.
    tokens
        How many tokens.
    width
        Features of each.
    """

    def __init__(self, name: str, modules: Sequence[nn.Module], tokens: int, width: int):
        self.name = f"{name}.tokens"
        self.modules = tuple(modules)
        self.tokens = tokens
        self.width = width
        self.parameters: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def like(self) -> Hashable:
        """The place and the number of tokens."""
        return self.name, self.tokens

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of the tokens by their full name."""
        return {self.name: (self.tokens, self.width)}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Draw the tokens from U(±√(6 / (2 · width))), after Xavier.

        They lie on the modules' device, in float32, or float64 on a float64 denoiser.
        """
        drawn = draws.uniform(self.name, (self.tokens, self.width), (6 / (2 * self.width)) ** 0.5)
        self.parameters = trained({"tokens": drawn}, next(self.modules[0].parameters()))
        return {self.name: self.parameters["tokens"]}

    def attach(self, stack: Stack) -> None:
        """Put the hooks on."""

        def beside(tensor: Tensor) -> Tensor:
            tokens = stack.apply(lambda own, rows: own["tokens"].to(rows.dtype).expand(len(rows), -1, -1), tensor)
            assert tokens is not None
            return tokens

        self._hook(beside)

    def merge(self, weights: Weights) -> None:
        """Refuse: tokens are no change of the denoiser's weights."""
        raise InputFault(
            f"{self.name} are vectors that attention sees beside the denoiser's own; they cannot be merged into its "
            "weights; put them on a pipeline with adapters.load(pipe, path)"
        )

    def detach(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()

    @abstractmethod
    def _hook(self, beside: Callable[[Tensor], Tensor]) -> None:
        """Put the hooks on; `beside` gives the tokens (B, tokens, width) that go with a tensor (B, length, width)."""


class ContextTokens(Tokens):
    """Tokens after the text that cross-attentions are given."""

    def _hook(self, beside: Callable[[Tensor], Tensor]) -> None:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            context, mask = kwargs.get("encoder_hidden_states"), kwargs.get("attention_mask")
            if not isinstance(context, Tensor):
                raise InputFault(
                    f"{self.name} are appended to the text handed to cross-attention, but the denoiser got "
                    f"{type(context).__name__} as encoder_hidden_states; give a tensor (B, tokens, width)"
                )
            kwargs = {**kwargs, "encoder_hidden_states": torch.cat([context, beside(context)], dim=1)}
            if mask is not None:
                kwargs["attention_mask"] = F.pad(mask, (0, self.tokens))
            return args, kwargs

        for module in self.modules:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))


class SequenceTokens(Tokens):
    """Tokens put before the sequence where the first of the blocks begins, and taken off where the last ends."""

    def _hook(self, beside: Callable[[Tensor], Tensor]) -> None:
        def put(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            return torch.cat([beside(args[0]), args[0]], dim=1), *args[1:]

        def unmask(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Gradient checkpointing hands the mask over by place, the ordinary call by name.
            mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
            if mask is None:
                return None
            mask = F.pad(mask, (self.tokens, 0))
            if len(args) > 1:
                return (args[0], mask, *args[2:]), kwargs
            return args, {**kwargs, "attention_mask": mask}

        def take_off(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output[:, self.tokens :]

        self._handles.append(self.modules[0].register_forward_pre_hook(put))
        for module in self.modules:
            self._handles.append(module.register_forward_pre_hook(unmask, with_kwargs=True))
        self._handles.append(self.modules[-1].register_forward_hook(take_off))
