"""Method ``none``: the untuned backbone. Nothing is added and nothing trained."""

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
class Untuned:
    """The backbone as it is."""

    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Untuned:
        """Validate a design; it has no key but ``method``."""
        refuse_unknown_keys(design, ())
        return cls()

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "none"}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count zero parameters."""
        return Count(trainable=0, backbone=backbone_parameters(denoiser))

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Change nothing."""
        return []
