"""Random streams of initial values, keyed by a seed and a parameter's name.

Equal seed, name and shape give equal values, whatever else is in the design, the slot or the pack, and on every
device: all are drawn on the CPU in float32.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Draws:
    """Initial values under one seed.

    Parameters
    ----------
    seed
        Usually ``generator.initial_seed()`` of the trial's generator.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def uniform(self, name: str, shape: tuple[int, ...], bound: float) -> Tensor:
        """Draw from U(-bound, bound) in the stream of a parameter's name."""
        return torch.empty(shape).uniform_(-bound, bound, generator=self.stream(name))

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Draw from N(0, deviation²) in the stream of a parameter's name."""
        return torch.empty(shape).normal_(0, deviation, generator=self.stream(name))

    def stream(self, name: str) -> torch.Generator:
        """Open the stream of a parameter's name."""
        key = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
