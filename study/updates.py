"""What becomes of the losses of a step: gradients, and AdamW's updates (betas 0.9 and 0.999, weight decay 0.01).

In float16 small gradients vanish, so losses are scaled before they are differentiated and gradients scaled back after,
by torch's own GradScaler: it halves a scale whose gradients are not finite and leaves that update out, and doubles one
that went well 2,000 times. Every slot has a scaler and an optimiser of its own, so what one leaves out the others do
not, and a slot is scaled as it would be alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from study.training import Slot


class Updates:
    """The updates of slots that need no scaling: those of one learning rate by one fused call."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.optimiser = _adamw(slots)

    def backward(self, losses: Tensor, penalties: Mapping[int, Tensor]) -> None:
        """Find the gradients of the losses (slots,) and of what methods of some slots add to them."""
        self.optimiser.zero_grad(set_to_none=True)
        sum(penalties.values(), losses.sum()).backward()

    def step(self, active: Sequence[int]) -> None:
        """Update what has gradients, which slots that are no longer active have not."""
        self.optimiser.step()

    def of(self, place: int) -> torch.optim.AdamW:
        """Give the optimiser that has the moments of a slot."""
        return self.optimiser

    def scaler(self, place: int) -> torch.amp.GradScaler | None:
        """Give the scaler of a slot's losses, if they are scaled."""
        return None


class ScaledUpdates:
    """The updates of slots whose losses are scaled, each by a scale of its own."""

    def __init__(self, slots: Sequence[Slot], device: torch.device) -> None:
        self.optimisers = {place: _adamw([slot]) for place, slot in enumerate(slots) if slot.every}
        self.scalers = {place: torch.amp.GradScaler(device.type) for place in self.optimisers}

    def backward(self, losses: Tensor, penalties: Mapping[int, Tensor]) -> None:
        """As `Updates.backward`; the gradients are scaled."""
        scaled = []
        for place, optimiser in self.optimisers.items():
            optimiser.zero_grad(set_to_none=True)
            extra = penalties.get(place)
            scaled.append(self.scalers[place].scale(losses[place] if extra is None else losses[place] + extra))
        torch.stack(scaled).sum().backward()

    def step(self, active: Sequence[int]) -> None:
        """Update the active slots whose gradients are finite, and find their next scales."""
        for place in active:
            self.scalers[place].step(self.optimisers[place])
            self.scalers[place].update()

    def of(self, place: int) -> torch.optim.AdamW:
        """As `Updates.of`."""
        return self.optimisers[place]

    def scaler(self, place: int) -> torch.amp.GradScaler | None:
        """As `Updates.scaler`."""
        return self.scalers[place]


def updates(slots: Sequence[Slot], precision: str, device: torch.device) -> Updates | ScaledUpdates:
    """Make the updates of slots under a precision."""
    return ScaledUpdates(slots, device) if precision == "float16" else Updates(slots)


def _adamw(slots: Sequence[Slot]) -> torch.optim.AdamW:
    groups: dict[float, list[nn.Parameter]] = {}
    for slot in slots:
        groups.setdefault(slot.learning_rate, []).extend(slot.parameters)
        groups.setdefault(slot.beside_rate, []).extend(slot.beside)
    found: list[dict[str, Any]] = [{"lr": rate, "params": own} for rate, own in groups.items() if own]
    return torch.optim.AdamW(found, lr=1.0, weight_decay=0.01, fused=True)
