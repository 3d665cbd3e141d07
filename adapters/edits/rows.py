"""Which rows of a batch belong to which slot of a pack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.faults import InputFault


@dataclass(frozen=True)
class Layout:
    """Where the rows of some slots are in a batch.

    Attributes
    ----------
    present
        Which of the slots that were asked for have rows, by their place among them.
    counts
        How many rows each of these has.
    index
        The rows, one slot after the other; None when they are the whole batch in its order.
    """

    present: tuple[int, ...]
    counts: tuple[int, ...]
    index: Tensor | None


class Rows:
    """Which rows of the batch belong to which slot.

    Parameters
    ----------
    slots
        Number of slots of the pack. With one, rows need not be declared: all are its own.
    """

    def __init__(self, slots: int):
        self.slots = slots
        self._slot_of_row: tuple[int, ...] | None = None
        self._layouts: dict[tuple[tuple[int, ...], tuple[int, ...], torch.device], Layout] = {}

    @contextmanager
    def declared(self, slot_of_row: Tensor | Sequence[int]) -> Iterator[None]:
        """Declare the slot of every row for as long as the context lasts; the former declaration comes back after.

        Raises
        ------
        InputFault
            For a slot that does not exist.
        """
        slots = tuple(int(slot) for slot in slot_of_row)
        wrong = sorted({slot for slot in slots if not 0 <= slot < self.slots})
        if wrong:
            raise InputFault(f"rows of slots {wrong} were declared, but the slots are 0 to {self.slots - 1}")
        former, self._slot_of_row = self._slot_of_row, slots
        try:
            yield
        finally:
            self._slot_of_row = former

    def of(self, slots: tuple[int, ...], tensor: Tensor) -> Layout:
        """Find the rows of some slots in a tensor (B, ...).

        Raises
        ------
        InputFault
            When the declared rows are not as many as the tensor has, or none are declared in a pack of several.
        """
        if self._slot_of_row is None:
            if self.slots == 1:
                return Layout((0,), (tensor.shape[0],), None)
            raise InputFault(
                f"a pack of {self.slots} slots was run without saying whose rows are whose; "
                "run it inside `with insertion.rows(slot_of_row):`"
            )
        if len(self._slot_of_row) != tensor.shape[0]:
            raise InputFault(
                f"rows() declared {len(self._slot_of_row)} rows, but the batch has {tensor.shape[0]}; "
                "declare every row of the batch, guidance and prior rows included"
            )
        key = self._slot_of_row, slots, tensor.device
        if key not in self._layouts:
            self._layouts[key] = _layout(*key)
        return self._layouts[key]


def _layout(slot_of_row: tuple[int, ...], slots: tuple[int, ...], device: torch.device) -> Layout:
    own = [[row for row, owner in enumerate(slot_of_row) if owner == slot] for slot in slots]
    present = tuple(place for place, rows in enumerate(own) if rows)
    index = [row for rows in own for row in rows]
    whole = index == list(range(len(slot_of_row)))
    return Layout(
        present,
        tuple(len(own[place]) for place in present),
        None if whole else torch.tensor(index, dtype=torch.long, device=device),
    )
