"""Method ``bitfit``: the denoiser's own biases are trained, and nothing else (2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import levels
from adapters.budget import Count
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.own_parameters import biases, of_attentions, own_edits

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

PARTS = ("all", "attention")


@dataclass(frozen=True)
class BitFit:
    """Bias tuning.

    Attributes
    ----------
    part
        ``all``: the biases of linear, convolutional and normalisation layers; ``attention``: those within attentions.
    """

    part: str = "all"

    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> BitFit:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or a budget: the size is fixed.
        """
        refuse_unknown_keys(design, ("part",))
        part = design.get("part")
        return cls(levels.level("part", "all" if part is None else part, PARTS))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "bitfit", "part": self.part}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the biases."""
        backbone = backbone_parameters(denoiser)
        trainable = sum(bias.numel() for bias in self._biases(denoiser).values())
        return Count(trainable, backbone)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit a bias."""
        return own_edits(denoiser, self._biases(denoiser))

    def _biases(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        found = biases(denoiser)
        if self.part == "attention":
            inside = of_attentions(denoiser)
            found = {name: bias for name, bias in found.items() if name in inside}
        if not found:
            raise InputFault(
                f"{type(denoiser).__name__} has no biases for part={self.part}; choose another part or method"
            )
        return found
