"""Methods ``adaptformer`` and ``sequential``: bottlenecks by the feed-forward, known under names of their own.

Both are points of the design space of ``adapter`` and compile through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import levels
from adapters.budget import Count
from adapters.designs import refuse_unknown_keys
from adapters.methods.adapter import ACTIVATIONS, Adapter
from adapters.methods.sizes import size_or_budget

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit


@dataclass(frozen=True)
class Preset(ABC):
    """A bottleneck whose places are given.

    Attributes
    ----------
    width
        Bottleneck width of every block; or None, and then
    budget
        the share of the denoiser's parameters (float) or the number of parameters (int) that the widths must meet.
    """

    width: int | None = None
    budget: int | float | None = None

    alone: ClassVar[bool] = False

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the bottlenecks' parameters in closed form."""
        return self._adapter().count(denoiser)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one branch a block."""
        return self._adapter().edits(denoiser)

    @property
    def _size(self) -> dict[str, Any]:
        return {"width": self.width} if self.width is not None else {"budget": self.budget}

    @abstractmethod
    def _adapter(self) -> Adapter:
        """Give the point of the design space."""


@dataclass(frozen=True)
class AdaptFormer(Preset):
    """A ReLU bottleneck in parallel to the feed-forward (2205.13535), as its code has it without a norm of its own.

    It reads FFN_in and is added at Trans_out; its last layer is zero at the start.

    Attributes
    ----------
    scale
        Factor on the bottleneck's output; 0.1 in the paper.
    """

    scale: int | float = 0.1

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> AdaptFormer:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or not exactly one of width and budget.
        """
        refuse_unknown_keys(design, ("width", "budget", "scale"))
        width, budget = size_or_budget(design, "width")
        scale = design.get("scale")
        return cls(width, budget, levels.positive_number("scale", 0.1 if scale is None else scale))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "adaptformer", "scale": self.scale, **self._size}

    def _adapter(self) -> Adapter:
        return Adapter("FFN_in", "Trans_out", "relu", self.scale, "zero_up", self.width, self.budget)


@dataclass(frozen=True)
class Sequential(Preset):
    """A bottleneck after the feed-forward, with a skip connection around it (Houlsby 1902.00751, Pfeiffer 2005.00247).

    It reads FFN_out and is added at Trans_out; its last layer is zero at the start.

    Attributes
    ----------
    activation
        relu, sigmoid, silu or identity.
    """

    activation: str = "relu"

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Sequential:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or not exactly one of width and budget.
        """
        refuse_unknown_keys(design, ("width", "budget", "activation"))
        width, budget = size_or_budget(design, "width")
        activation = design.get("activation")
        return cls(width, budget, levels.level("activation", "relu" if activation is None else activation, ACTIVATIONS))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "sequential", "activation": self.activation, **self._size}

    def _adapter(self) -> Adapter:
        return Adapter("FFN_out", "Trans_out", self.activation, 1, "zero_up", self.width, self.budget)
