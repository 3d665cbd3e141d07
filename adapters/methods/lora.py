"""Methods ``lora`` and ``dora``: low-rank changes of attention, feed-forward and convolution weights.

Tensors, names and start are peft's, which so is referee and file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from adapters import levels
from adapters.budget import Count, asked, nearest_rank
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.layers import Layer, find_layers, parse_targets
from adapters.methods.sizes import size_or_budget

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.delta import Change
    from adapters.edits.edit import Edit

KEYS = ("rank", "budget", "alpha", "rslora", "targets", "text_encoder")


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation.

    Attributes
    ----------
    rank
        Of every change; or None, and then
    budget
        the share of the denoiser's parameters (float) or their number (int) that the rank comes closest to.
    alpha
        The product's factor is alpha / rank; ``"rank"`` keeps it at 1.
    rslora
        Divide alpha by √rank instead (2312.03732).
    targets
        See `adapters.layers.TARGETS`.
    text_encoder
        Whether the text encoder's attentions are changed too.
    """

    rank: int | None = None
    budget: int | float | None = None
    alpha: int | float | str = "rank"
    rslora: bool = False
    targets: str = "attention"
    text_encoder: bool = False

    name: ClassVar[str] = "lora"

    @property
    def alone(self) -> bool:
        """Whether it must be a pack of one: a text encoder's rows are not the denoiser's."""
        return self.text_encoder

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Self:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or not exactly one of rank and budget.
        """
        refuse_unknown_keys(design, KEYS)
        given = {key: value for key, value in design.items() if value is not None}
        rank, budget = size_or_budget(given, "rank")
        alpha = given.get("alpha", "rank")
        return cls(
            rank=rank,
            budget=budget,
            alpha=alpha if alpha == "rank" else levels.positive_number("alpha", alpha),
            rslora=levels.boolean("rslora", given.get("rslora", False)),
            targets=parse_targets(given.get("targets", "attention")),
            text_encoder=levels.boolean("text_encoder", given.get("text_encoder", False)),
        )

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {"rank": self.rank} if self.rank is not None else {"budget": self.budget}
        return {
            "method": self.name,
            **size,
            "alpha": self.alpha,
            "rslora": self.rslora,
            "targets": self.targets,
            "text_encoder": self.text_encoder,
        }

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count A and B of every layer: ``rank · (in · kernel + out)``."""
        layers = self._layers(denoiser, text_encoder)
        backbone = backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        rank = self._rank(layers, backbone)
        trainable = self._parameters(layers, rank)
        return Count(trainable, backbone, resolved={"rank": rank}, budget_asked=budget)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one delta a layer."""
        from adapters.edits.delta import Delta

        layers = self._layers(denoiser, text_encoder)
        rank = self._rank(layers, backbone_parameters(denoiser))
        return [Delta(layer, self._change(layer, rank)) for layer in layers]

    def scale(self, rank: int) -> float:
        """Give the factor on the product of A and B at a rank."""
        alpha = rank if self.alpha == "rank" else float(self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)

    def peft_config(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Give the ``adapter_config.json`` with which peft does the same with a state of this method."""
        from peft import LoraConfig

        ranks = {value.shape[0] for name, value in state.items() if ".lora_A." in name}
        rank = ranks.pop()
        alpha: Any = rank if self.alpha == "rank" else self.alpha
        config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=self.rslora, use_dora=self.name == "dora")
        layers = sorted({name.partition(".lora_")[0] for name in state})
        return {**config.to_dict(), "target_modules": layers, "inference_mode": True}

    def _layers(self, denoiser: nn.Module, text_encoder: nn.Module | None) -> list[Layer]:
        return find_layers(denoiser, self.targets, text_encoder if self.text_encoder else None)

    def _rank(self, layers: list[Layer], backbone: int) -> int:
        if self.rank is not None:
            return self.rank
        budget = asked(self.budget, backbone)
        assert budget is not None  # from_design: exactly one of the two
        return nearest_rank(lambda rank: self._parameters(layers, rank), budget)

    def _parameters(self, layers: list[Layer], rank: int) -> int:
        return sum(rank * (layer.inputs * layer.kernel + layer.outputs) for layer in layers)

    def _change(self, layer: Layer, rank: int) -> Change:
        from adapters.changes.low_rank import low_rank

        return low_rank(layer, rank, self.scale(rank))


@dataclass(frozen=True)
class Dora(Lora):
    """Weight-decomposed low-rank adaptation: LoRA, and a trained magnitude for every output."""

    name: ClassVar[str] = "dora"

    def _parameters(self, layers: list[Layer], rank: int) -> int:
        return super()._parameters(layers, rank) + sum(layer.outputs for layer in layers)

    def _change(self, layer: Layer, rank: int) -> Change:
        from adapters.changes.low_rank import WeightDecomposed, low_rank

        return WeightDecomposed(low_rank(layer, rank, self.scale(rank)))
