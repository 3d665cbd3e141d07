"""Methods ``tlora`` and ``tlora_star``: a transform and a residual by tensor decomposition (2501.08727)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from adapters import levels
from adapters.budget import Count, asked, nearest_rank
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import Layer, find_layers, parse_targets
from adapters.methods.sizes import size_or_budget

if TYPE_CHECKING:
    from torch import nn

    from adapters.changes.low_rank import LowRank
    from adapters.changes.tensor_ring import RingResidual
    from adapters.edits.edit import Edit

NOISE = 0.1


@dataclass(frozen=True)
class Tlora:
    """Tensor-ring transform and tensor-ring residual.

    Attributes
    ----------
    transform_rank
        R of the transform.
    rank
        R of the residual, called ``residual_rank``; or None, and then
    budget
        the share of the denoiser's parameters (float) or their number (int) that it comes closest to.
    init_noise
        See `adapters.changes.tensor_ring.RingTransform`.
    regulariser
        Weight of the transform's distance from the identity in the loss.
    targets
        ``attention``, ``ff`` or both.
    """

    transform_rank: int = 2
    rank: int | None = None
    budget: int | float | None = None
    init_noise: int | float = NOISE
    regulariser: int | float = 0
    targets: str = "attention"

    name: ClassVar[str] = "tlora"
    rank_key: ClassVar[str] = "residual_rank"
    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Self:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or not exactly one of the residual's rank and budget.
        """
        refuse_unknown_keys(design, ("transform_rank", cls.rank_key, "budget", "init_noise", "regulariser", "targets"))
        given = {key: value for key, value in design.items() if value is not None}
        rank, budget = size_or_budget(given, cls.rank_key)
        targets = parse_targets(given.get("targets", "attention"))
        if "conv" in targets:
            raise InputFault(
                f"targets=conv: method={cls.name} transforms features of linear layers; give attention, ff"
            )
        return cls(
            transform_rank=levels.positive_integer("transform_rank", given.get("transform_rank", 2)),
            rank=rank,
            budget=budget,
            init_noise=levels.non_negative_number("init_noise", given.get("init_noise", NOISE)),
            regulariser=levels.non_negative_number("regulariser", given.get("regulariser", 0)),
            targets=targets,
        )

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {self.rank_key: self.rank} if self.rank is not None else {"budget": self.budget}
        return {
            "method": self.name,
            "transform_rank": self.transform_rank,
            **size,
            "init_noise": self.init_noise,
            "regulariser": self.regulariser,
            "targets": self.targets,
        }

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the cores of every layer's transform and residual."""
        layers = find_layers(denoiser, self.targets)
        backbone = backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        rank = self._rank(layers, backbone)
        trainable = self._parameters(layers, rank)
        return Count(
            trainable,
            backbone,
            resolved={"transform_rank": self.transform_rank, self.rank_key: rank},
            budget_asked=budget,
        )

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one delta a layer."""
        from adapters.changes.tensor_ring import RingTransform, TransformResidual
        from adapters.edits.delta import Delta

        layers = find_layers(denoiser, self.targets)
        rank = self._rank(layers, backbone_parameters(denoiser))
        edits: list[Edit] = []
        for layer in layers:
            transform = RingTransform(layer.inputs, self.transform_rank, self.init_noise)
            edits.append(Delta(layer, TransformResidual(transform, self._residual(layer, rank), self.regulariser)))
        return edits

    def _rank(self, layers: list[Layer], backbone: int) -> int:
        if self.rank is not None:
            return self.rank
        budget = asked(self.budget, backbone)
        assert budget is not None  # from_design: exactly one of the two
        return nearest_rank(lambda rank: self._parameters(layers, rank), budget)

    def _parameters(self, layers: list[Layer], rank: int) -> int:
        from adapters.changes.tensor_ring import transform_parameters

        return sum(
            transform_parameters(layer.inputs, self.transform_rank) + self._residual_parameters(layer, rank)
            for layer in layers
        )

    def _residual_parameters(self, layer: Layer, rank: int) -> int:
        from adapters.changes.tensor_ring import residual_parameters

        return residual_parameters(layer.outputs, layer.inputs, rank)

    def _residual(self, layer: Layer, rank: int) -> RingResidual | LowRank:
        from adapters.changes.tensor_ring import RingResidual

        return RingResidual((layer.outputs, layer.inputs), rank)


@dataclass(frozen=True)
class TloraStar(Tlora):
    """Tensor-ring transform and LoRA's residual, whose rank is called ``rank``; its factor is 1."""

    name: ClassVar[str] = "tlora_star"
    rank_key: ClassVar[str] = "rank"

    def _residual_parameters(self, layer: Layer, rank: int) -> int:
        return rank * (layer.inputs + layer.outputs)

    def _residual(self, layer: Layer, rank: int) -> RingResidual | LowRank:
        from adapters.changes.low_rank import low_rank

        return low_rank(layer, rank, 1.0)
