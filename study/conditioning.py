"""Rows that follow a condition besides their prompt, such as an edge map, each through the encoder of its trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapters.faults import InputFault
from study.backbones.loading import Backbone
from study.training import RowsOf


class Conditioned:
    """A backbone to whose first features each slot's encoder adds what it makes of the rows' conditions.

    These are the output of the denoiser's first convolution, as in OFT's control experiments (2306.07280). What is
    added to the noisy latents instead is learned much more slowly (docs/decisions.md). All else is the backbone's.

    Parameters
    ----------
    encoders : one a slot, (N, …) → (N, features, h, w), which is brought to the features' size by area means; None for
        a slot that takes no notice of conditions.
    rows : as `study.training.RowsOf` says; the insertion's. `Conditioned.rows` is to be used instead of it.
    """

    def __init__(self, backbone: Backbone, encoders: Sequence[nn.Module | None], rows: RowsOf) -> None:
        self._backbone = backbone
        self._encoders = encoders
        self._rows = rows
        self._owners: Sequence[int] = ()
        self._entry = entry(backbone.denoiser)

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
        if condition is None:
            return self._backbone.predict(noisy, timesteps, context)
        owner = torch.tensor(self._owners, device=noisy.device)

        def followed(module: nn.Module, given: tuple[Any, ...], features: Tensor) -> Tensor:
            for slot, encoder in enumerate(self._encoders):
                own = (owner == slot).nonzero()[:, 0]
                if encoder is not None and len(own):
                    height, width = features.shape[-2:]
                    made = nn.functional.adaptive_avg_pool2d(encoder(condition[own]), (height, width))
                    features = features.index_add(0, own, made.to(features.dtype))
            return features

        hook = self._entry.register_forward_hook(followed)
        try:
            return self._backbone.predict(noisy, timesteps, context)
        finally:
            hook.remove()


def entry(denoiser: nn.Module) -> nn.Conv2d:
    """Give the convolution that noisy latents go through first: of a U-Net, or a transformer's into patches.

    Raises
    ------
    InputFault : there is none.
    """
    for name in ("conv_in", "pos_embed.proj"):
        try:
            found = denoiser.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.Conv2d):
            return found
    raise InputFault(
        f"{type(denoiser).__name__} has no first convolution (conv_in or pos_embed.proj), where maps could come in; "
        "control tasks need one"
    )
