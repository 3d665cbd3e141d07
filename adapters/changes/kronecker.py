"""Kronecker changes ``ΔW = A ⊗ B`` with factors of free shape: DiffuseKronA (2402.17412)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.draws import Draws

if TYPE_CHECKING:
    from adapters.layers import AnyLayer

A, B = "krona_A", "krona_B"


@dataclass(frozen=True)
class Kronecker:
    """``ΔW = A ⊗ B`` with A (a1, a2) and B (out / a1, in / a2); no scale.

    Attributes
    ----------
    weight
        Shape (out, in) of the layer's weight; a1 divides out and a2 divides in.
    a1, a2
        Shape of A.
    init
        ``normal``: A from N(0, 1/a1²), as the paper's code has it; ``kaiming``: from U(±1/√a2). B is zero.
    """

    weight: tuple[int, int]
    a1: int
    a2: int
    init: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of A and B."""
        out, read = self.weight
        return {A: (self.a1, self.a2), B: (out // self.a1, read // self.a2)}

    def draw(self, prefix: str, draws: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Draw A; B is zero."""
        shapes = self.shapes()
        if self.init == "normal":
            factor = draws.normal(f"{prefix}.{A}", shapes[A], 1 / self.a1)
        else:
            factor = draws.uniform(f"{prefix}.{A}", shapes[A], self.a2**-0.5)
        return {A: factor, B: torch.zeros(shapes[B])}

    def added(self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, output: Tensor) -> Tensor:
        """Give ``(A ⊗ B) x``.

        The product of the factors is formed: their own products with every token are fewer operations, but on so
        small matrices that they take 3 to 17 times as long.
        """
        return F.linear(tensor, self._delta(parameters))

    def changed(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Give ``W + A ⊗ B``."""
        return weight + self._delta(parameters)

    def _delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return torch.kron(parameters[A], parameters[B])
