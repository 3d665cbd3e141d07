"""Rows that follow a condition besides their prompt, such as an edge map, each through the encoder of its trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from study.backbones.loading import Backbone
from study.training import RowsOf


class Conditioned:
    """A backbone to whose noisy latents each slot's encoder adds what it makes of the rows' conditions.

    Everything else is the backbone's.

    Parameters
    ----------
    encoders : one a slot, (N, …) → (N, C, h, w); None for a slot that takes no notice of conditions.
    rows : as `study.training.RowsOf` says; the insertion's. `Conditioned.rows` is to be used instead of it.
    """

    def __init__(self, backbone: Backbone, encoders: Sequence[nn.Module | None], rows: RowsOf) -> None:
        self._backbone = backbone
        self._encoders = encoders
        self._rows = rows
        self._owners: Sequence[int] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    @contextmanager
    def rows(self, slot_of_row: Sequence[int]) -> Iterator[None]:
        """Open a context in which each row is its slot's."""
        former, self._owners = self._owners, slot_of_row
        try:
            with self._rows(slot_of_row):
                yield
        finally:
            self._owners = former

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict for noisy latents (N, C, h, w); `condition` (N, …) is a row a picture."""
        if condition is not None:
            owner = torch.tensor(self._owners, device=noisy.device)
            added = torch.zeros_like(noisy)
            for slot, encoder in enumerate(self._encoders):
                own = (owner == slot).nonzero()[:, 0]
                if encoder is not None and len(own):
                    added = added.index_add(0, own, encoder(condition[own]).to(added.dtype))
            noisy = noisy + added
        return self._backbone.predict(noisy, timesteps, context)
