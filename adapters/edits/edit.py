"""What every edit can do, which rows of a batch belong to which slot of a pack, and weights with edits merged in."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from adapters.draws import Draws
from adapters.faults import InputFault


class Rows:
    """Which rows of the batch belong to which slot.

    Parameters
    ----------
    slots
        Number of slots of the pack. With one, rows need not be declared: all are its own.
    """

    def __init__(self, slots: int):
        self.slots = slots
        self._slot_of_row: list[int] | None = None
        self._indices: dict[tuple[int, torch.device], Tensor] = {}

    @contextmanager
    def declared(self, slot_of_row: Tensor | Sequence[int]) -> Iterator[None]:
        """Declare the slot of every row for as long as the context lasts; the former declaration comes back after.

        Raises
        ------
        InputFault
            For a slot that does not exist.
        """
        slots = [int(slot) for slot in slot_of_row]
        wrong = sorted({slot for slot in slots if not 0 <= slot < self.slots})
        if wrong:
            raise InputFault(f"rows of slots {wrong} were declared, but the slots are 0 to {self.slots - 1}")
        former = self._slot_of_row, self._indices
        self._slot_of_row, self._indices = slots, {}
        try:
            yield
        finally:
            self._slot_of_row, self._indices = former

    def of(self, slot: int, tensor: Tensor) -> Tensor | None:
        """Give the indices of a slot's rows in a tensor (B, ...), or None when all rows are its own.

        Raises
        ------
        InputFault
            When the declared rows are not as many as the tensor has, or none are declared in a pack of several.
        """
        if self._slot_of_row is None:
            if self.slots == 1:
                return None
            raise InputFault(
                f"a pack of {self.slots} slots was run without saying whose rows are whose; "
                "run it inside `with insertion.rows(slot_of_row):`"
            )
        if len(self._slot_of_row) != tensor.shape[0]:
            raise InputFault(
                f"rows() declared {len(self._slot_of_row)} rows, but the batch has {tensor.shape[0]}; "
                "declare every row of the batch, guidance and prior rows included"
            )
        if self.slots == 1:
            return None
        key = slot, tensor.device
        if key not in self._indices:
            own = [row for row, owner in enumerate(self._slot_of_row) if owner == slot]
            self._indices[key] = torch.tensor(own, dtype=torch.long, device=tensor.device)
        return self._indices[key]


Weights = MutableMapping[str, Tensor]
"""Weights of a denoiser by full name, on which edits are merged one after another."""


class Edit(Protocol):
    """A change of the denoiser that can be put on and undone to the bit."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every trained parameter by its full name; allocates nothing."""

    def attach(self, slot: int, rows: Rows, draws: Draws) -> dict[str, nn.Parameter]:
        """Put the edit on for a slot and give its trained parameters by full name."""

    def merge(self, weights: Weights) -> None:
        """Change weights so that the bare denoiser computes what it computes with the attached edit.

        Raises
        ------
        InputFault
            When no weights of the denoiser can do what the edit does.
        """

    def detach(self) -> None:
        """Undo everything that `attach` did; a second call does nothing."""
