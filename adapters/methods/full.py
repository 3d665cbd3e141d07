"""Method ``full``: the denoiser's own parameters, by default all, are trained in place; alone in a pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import levels
from adapters.budget import Count
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import cross_attentions
from adapters.own_parameters import of_attentions, only

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

PARTS = ("all", "attention", "cross_attention_kv")


@dataclass(frozen=True)
class Full:
    """Fine-tuning of the denoiser's own parameters.

    Attributes
    ----------
    part
        ``all``; ``attention``: all parameters of all attentions; ``cross_attention_kv``: the key and value matrices of
        the cross-attentions, as Custom Diffusion has it (2212.04488).
    """

    part: str = "all"

    alone: ClassVar[bool] = True

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Full:
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
        # Trial ids are hashes of canonical designs, and those of stores from before there were parts must stay valid.
        return {"method": "full"} if self.part == "all" else {"method": "full", "part": self.part}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the parameters of the part."""
        backbone = backbone_parameters(denoiser)
        trainable = sum(parameter.numel() for parameter in self._parameters(denoiser).values())
        return Count(trainable, backbone)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Train the part's parameters where they are."""
        from adapters.edits.in_place import InPlace

        return [InPlace(self._parameters(denoiser))]

    def _parameters(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        if self.part == "all":
            return dict(denoiser.named_parameters())
        if self.part == "attention":
            found = of_attentions(denoiser)
        else:
            texts = [module for _, module in cross_attentions(denoiser)]
            found = only(denoiser, (layer.weight for module in texts for layer in (module.to_k, module.to_v)))
        if not found:
            kind = "attention" if self.part == "attention" else "cross-attention"
            raise InputFault(
                f"{type(denoiser).__name__} has no {kind}, so part={self.part} is empty; choose another part"
            )
        return found
