"""Tokens: trained vectors take part in attention beside those that the denoiser has.

Realised with hooks, so that no module is replaced. `ContextTokens` are appended to the text handed to cross-attention;
`SequenceTokens` are put before a transformer's own sequence, and taken off again. Rows of other slots get places too,
since a batch has one length, and do not see them: masks, which diffusers hands to blocks and attentions as biases
(B, 1, tokens) with 0 for what is kept, get -∞ there and zeros in the slots' own rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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

        def beside(tensor: Tensor) -> Beside | None:
            own = stack.apply(
                lambda slot, rows: slot["tokens"].to(rows.dtype).expand(len(rows), -1, -1),
                tensor[:, :0],  # of the rows only their number matters
                batched=False,
            )
            if own is None:
                return None
            tokens = stack.replace(tensor.new_zeros(len(tensor), self.tokens, self.width), own)
            mask = tensor.new_full((len(tensor), 1, self.tokens), -torch.inf)
            mask = stack.replace(mask, mask.new_zeros(len(own), 1, self.tokens))
            return Beside(tokens, mask, hides=len(own) < len(tensor))

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
    def _hook(self, beside: Callable[[Tensor], Beside | None]) -> None:
        """Put the hooks on; `beside` gives what goes beside a tensor (B, length, width), None if no row has tokens."""


@dataclass(frozen=True)
class Beside:
    """What goes beside the places (B, length, width) that the denoiser has.

    Attributes
    ----------
    tokens
        (B, tokens, width); zeros in rows of other slots.
    mask
        (B, 1, tokens); -∞ in rows of other slots, so that nothing is seen of what is there only to fill the batch.
    hides
        Whether there are such rows.
    """

    tokens: Tensor
    mask: Tensor
    hides: bool

    def masks(self, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor] | None:
        """Give the mask of the denoiser's places, which may have none, and of the tokens; None if nothing is hidden."""
        if mask is None and not self.hides:
            return None
        if mask is None:
            mask = self.mask.new_zeros(len(self.mask), 1, length)
        return mask, self.mask.to(mask.dtype).expand(*mask.shape[:-1], -1)


class ContextTokens(Tokens):
    """Tokens after the text that cross-attentions are given."""

    def _hook(self, beside: Callable[[Tensor], Beside | None]) -> None:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            context = kwargs.get("encoder_hidden_states")
            if not isinstance(context, Tensor):
                raise InputFault(
                    f"{self.name} are appended to the text handed to cross-attention, but the denoiser got "
                    f"{type(context).__name__} as encoder_hidden_states; give a tensor (B, tokens, width)"
                )
            found = beside(context)
            if found is None:
                return None
            masks = found.masks(kwargs.get("attention_mask"), context.shape[1])
            longer = {
                "encoder_hidden_states": torch.cat([context, found.tokens], dim=1),
                "attention_mask": masks and torch.cat(masks, dim=-1),
            }
            return args, {**kwargs, **longer}

        for module in self.modules:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))


class SequenceTokens(Tokens):
    """Tokens put before the sequence where the first of the blocks begins, and taken off where the last ends.

    All other edits must see the longer sequence from its beginning to its end. So the tokens are put by the first hook
    of all and taken off by the last, which an insertion attaches last; where sets are nested, that of more blocks after
    that of fewer.
    """

    _length = 0  # of the sequence behind the tokens, from the first of the blocks to the last

    def _hook(self, beside: Callable[[Tensor], Beside | None]) -> None:
        def put(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            sequence = args[0]
            found = beside(sequence)
            if found is None:
                return None
            if found.hides and (block.double_self_attention or hasattr(block, "fuser")):
                raise InputFault(
                    f"{self.name} are put before a sequence that is seen by a second self-attention, which knows no "
                    "mask to hide them from the other slots; insert this design alone, or choose place=context"
                )
            if block is self.modules[0]:
                self._length = sequence.shape[1]
                sequence = torch.cat([found.tokens, sequence], dim=1)
            by_place = len(args) > 1  # so gradient checkpointing hands the mask over, the ordinary call by name
            masks = found.masks(args[1] if by_place else kwargs.get("attention_mask"), self._length)
            mask = masks and torch.cat(masks[::-1], dim=-1)
            if by_place:
                return (sequence, mask, *args[2:]), kwargs
            return (sequence,), {**kwargs, "attention_mask": mask}

        def take_off(_block: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output if beside(output) is None else output[:, self.tokens :]

        for block in self.modules:
            self._handles.append(block.register_forward_pre_hook(put, prepend=True, with_kwargs=True))
        self._handles.append(self.modules[-1].register_forward_hook(take_off))
