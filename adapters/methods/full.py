"""Method ``full``: every parameter of the denoiser is trained in place; the yardstick, and a pack of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.budget import Count
from adapters.designs import backbone_parameters, refuse_unknown_keys

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit


@dataclass(frozen=True)
class Full:
    """Full fine-tuning of the denoiser."""

    alone: ClassVar[bool] = True

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Full:
        """Validate a design; it has no key but ``method``."""
        refuse_unknown_keys(design, ())
        return cls()

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "full"}

    def count(self, denoiser: nn.Module) -> Count:
        """Count every parameter of the denoiser."""
        backbone = backbone_parameters(denoiser)
        return Count(trainable=backbone, backbone=backbone, ratio=1.0)

    def edits(self, denoiser: nn.Module) -> list[Edit]:
        """Train all parameters where they are."""
        from adapters.edits.in_place import InPlace

        return [InPlace(dict(denoiser.named_parameters()))]
