"""Stack: edits of like shape at one place, one a slot, run as one batched product on their slots' rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adapters.edits.rows import Layout, Rows

Function = Callable[..., Tensor]
"""Computes (R, ...) from the parameters of a slot, by name, and tensors (R, ...) of its rows."""


class Stack:
    """The slots that have like edits at one place, and their parameters.

    Parameters
    ----------
    rows
        Which rows of the batch belong to which slot.
    slots
        The slots.
    parameters
        Those of each, by their names in the edit.
    """

    def __init__(self, rows: Rows, slots: Sequence[int], parameters: Sequence[Mapping[str, nn.Parameter]]):
        self._rows = rows
        self._slots = tuple(slots)
        self._parameters = list(parameters)

    def apply(self, function: Function, *tensors: Tensor, batched: bool = True) -> Tensor | None:
        """Compute a function of each slot's parameters and of its rows of tensors (B, ...).

        Parameters
        ----------
        batched
            Whether slots with equally many rows go through the function at once. Not so for convolutions: with a
            kernel for each slot they are grouped convolutions, which take up to twice as long as one after the other.

        Returns
        -------
        Tensor or None
            (R, ...), the rows in the order of `add` and `replace`; None when none of the slots has rows.
        """
        layout = self._layout(tensors[0])
        if not layout.present:
            return None
        chosen = [tensor if layout.index is None else tensor.index_select(0, layout.index) for tensor in tensors]
        own = [self._parameters[place] for place in layout.present]
        if len(own) == 1:
            return function(own[0], *chosen)
        if not batched or len(set(layout.counts)) > 1:
            parts = zip(own, *[tensor.split(layout.counts) for tensor in chosen], strict=True)
            return torch.cat([function(parameters, *rows) for parameters, *rows in parts])
        stacked = {name: torch.stack([parameters[name] for parameters in own]) for name in own[0]}
        each = [tensor.unflatten(0, (len(own), -1)) for tensor in chosen]
        return torch.vmap(function)(stacked, *each).flatten(0, 1)

    def add(self, target: Tensor, value: Tensor | None, owned: bool = False) -> Tensor:
        """Add what `apply` gave to the slots' rows of a tensor (B, ...); the other rows are as they were.

        Parameters
        ----------
        owned
            Whether the tensor was made by the module it came out of, which keeps nothing of it. Rows of it can then be
            changed where they are, which saves a copy of the rows of all other slots; but not so for a view, as a
            linear layer's output is: the backward pass would copy the gradient of all of it.
        """
        if value is None:
            return target
        layout, value = self._layout(target), value.to(target.dtype)
        if layout.index is None:  # the function may have been given the tensor itself, and have kept it
            return target + value
        in_place = owned and not target._is_view()
        return (target if in_place else target.clone()).index_add_(0, layout.index, value)

    def replace(self, target: Tensor, value: Tensor | None) -> Tensor:
        """Put what `apply` gave in the place of the slots' rows of a tensor (B, ...)."""
        if value is None:
            return target
        layout, value = self._layout(target), value.to(target.dtype)
        return value if layout.index is None else target.index_copy(0, layout.index, value)

    def _layout(self, tensor: Tensor) -> Layout:
        return self._rows.of(self._slots, tensor)
