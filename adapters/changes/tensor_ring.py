"""Tensor-ring changes ``W' = W T + Δ``: TLoRA (2501.08727).

The features are laid out on a grid of three axes, in = I1·I2·I3. T is a tensor-ring matrix: its entry for
(i1 i2 i3, j1 j2 j3) is the trace of A1[i1, j1] A2[i2, j2] A3[i3, j3], each an R×R matrix. Δ is a tensor ring of six
cores, three for the rows and three for the columns, or an ordinary low-rank product (TLoRA*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.changes.low_rank import LowRank
from adapters.draws import Draws

if TYPE_CHECKING:
    from adapters.layers import AnyLayer

AXES = 3


def axes(features: int) -> tuple[int, int, int]:
    """Lay features out on three axes, ascending, with the smallest sum.

    320 is (4, 8, 10) and not (5, 8, 8), as the paper's parameter counts have it.
    """
    if features == 320:
        return 4, 8, 10
    divisors = [size for size in range(1, features + 1) if features % size == 0]
    grids = [
        (first, second, features // (first * second))
        for first, second in combinations_with_replacement(divisors, 2)
        if features % (first * second) == 0 and features // (first * second) >= second
    ]
    return min(grids, key=sum)


def transform_parameters(features: int, rank: int) -> int:
    """Count the cores of a transform: R² (I1² + I2² + I3²)."""
    return rank**2 * sum(size**2 for size in axes(features))


def residual_parameters(out: int, features: int, rank: int) -> int:
    """Count the cores of a ring residual: R² (ΣI + ΣJ)."""
    return rank**2 * (sum(axes(out)) + sum(axes(features)))


@dataclass(frozen=True)
class RingTransform:
    """T, the identity at the start.

    Attributes
    ----------
    features
        T is (features, features).
    rank
        R.
    noise
        Every R×R slice of the start is the same rank-one matrix, so all get the same gradient and the ring would act
        as if R were 1. The cores start as G⁻¹ A G' with G = 1 + noise · N(0, 1) on each bond, which leaves T the
        identity and breaks the tie.
    """

    features: int
    rank: int
    noise: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of the cores: (I, I, R, R) each."""
        return {f"transform.{d}": (size, size, self.rank, self.rank) for d, size in enumerate(axes(self.features))}

    def draw(self, prefix: str, draws: Draws) -> dict[str, Tensor]:
        """Make the cores of the identity."""
        rank, names = self.rank, list(self.shapes())
        bonds = [torch.eye(rank, dtype=torch.float64) for _ in names]
        if rank > 1:
            noise = [draws.normal(f"{prefix}.{name}", (rank, rank), self.noise) for name in names]
            bonds = [bond + drawn for bond, drawn in zip(bonds, noise, strict=True)]
        cores = {}
        for d, (name, shape) in enumerate(self.shapes().items()):
            even = torch.full((rank, rank), 1 / rank, dtype=torch.float64)
            slices = torch.linalg.inv(bonds[d]) @ even @ bonds[(d + 1) % AXES]
            cores[name] = torch.eye(shape[0], dtype=torch.float64)[..., None, None] * slices
        return cores

    def matrix(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Give T (features, features)."""
        cores = [parameters[name] for name in self.shapes()]
        return torch.einsum("ijab,klbc,mnca->ikmjln", *cores).reshape(self.features, self.features)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Give Σ over cores and slices of ‖A[:, :, r, r'] - I/R‖."""
        total = torch.zeros(())
        for name, shape in self.shapes().items():
            core = parameters[name]
            start = torch.eye(shape[0], dtype=core.dtype, device=core.device)[..., None, None] / self.rank
            total = total.to(core) + (core - start).flatten(0, 1).norm(dim=0).sum()
        return total


@dataclass(frozen=True)
class RingResidual:
    """Δ as a ring of cores (I, R, R) for the rows, then (J, R, R) for the columns; zero at the start.

    Attributes
    ----------
    weight
        Shape (out, in).
    rank
        R.
    """

    weight: tuple[int, int]
    rank: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of the cores."""
        sides = zip(("rows", "columns"), self.weight, strict=True)
        return {f"{s}.{d}": (size, self.rank, self.rank) for s, n in sides for d, size in enumerate(axes(n))}

    def draw(self, prefix: str, draws: Draws) -> dict[str, Tensor]:
        """Draw the cores from N(0, σ²) with σ = √R / (I·R); the first is zero."""
        return {
            name: torch.zeros(shape)
            if name == "rows.0"
            else draws.normal(f"{prefix}.{name}", shape, self.rank**0.5 / (shape[0] * self.rank))
            for name, shape in self.shapes().items()
        }

    def delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Give Δ (out, in): the product of a (out, R²) and a (R², in) matrix."""
        rows, columns = (
            torch.einsum("iab,kbc,mcd->ikmad", *[parameters[f"{side}.{d}"] for d in range(AXES)]).flatten(0, 2)
            for side in ("rows", "columns")
        )
        return rows.flatten(1) @ columns.transpose(1, 2).flatten(1).T


@dataclass(frozen=True)
class TransformResidual:
    """``W' = W T + Δ``.

    Attributes
    ----------
    transform
        T, on the side of the layer's input.
    residual
        Δ: a tensor ring, or of low rank.
    regulariser
        Weight of the transform's distance from the identity in the loss.
    """

    transform: RingTransform
    residual: RingResidual | LowRank
    regulariser: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of all cores."""
        return {**self.transform.shapes(), **self.residual.shapes()}

    def draw(self, prefix: str, draws: Draws, weight: Tensor) -> dict[str, Tensor]:
        """Draw the start, at which W' is W."""
        residual = self.residual
        drawn = residual.draw(prefix, draws, weight) if isinstance(residual, LowRank) else residual.draw(prefix, draws)
        return {**self.transform.draw(prefix, draws), **drawn}

    def added(self, parameters: Mapping[str, Tensor], layer: AnyLayer, tensor: Tensor, output: Tensor) -> Tensor:
        """Give ``(W (T - 1) + Δ) x``.

        The matrix is formed first: half the work of two products with every token where there are more tokens than
        features, and about as much where there are fewer.
        """
        weight = layer.weight.to(tensor.dtype)
        return F.linear(tensor, self._delta(parameters, weight))

    def changed(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        """Give ``W T + Δ``."""
        return weight + self._delta(parameters, weight)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Give what is added to the loss."""
        return self.regulariser * self.transform.penalty(parameters)

    def _delta(self, parameters: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        transform = self.transform.matrix(parameters)
        return weight @ (transform - torch.eye(len(transform)).to(transform)) + self.residual.delta(parameters)
