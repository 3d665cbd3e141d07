"""Method ``difffit``: own biases, norms and class embedder, and new factors on branch outputs (2304.06648).

On diffusers' DiT-XL/2 the class embedder is 32,288,256 parameters, because all of the 28 blocks have a copy of its
1,001 rows; the paper's 0.83 M have one, new, of 102 rows for the new classes. Where exactly the paper's factors are is
not known, so `gamma` names the placements of public code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.budget import Count
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import Layer, attentions, feed_forward_layers, projections, transformer_blocks
from adapters.own_parameters import biases, class_embedders, norm_weights, own_edits

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit


@dataclass(frozen=True)
class DiffFit:
    """Bias, norm and class embedder tuning with scaling factors.

    Attributes
    ----------
    gamma
        ``blocks``: factors on the outputs of self-attention, cross-attention and feed-forward of every transformer
        block; ``blocks+qkvo``: also on those of the query, key, value and output projections of every attention;
        ``first:N``: as ``blocks``, in the first N transformer blocks in the order of the denoiser's modules, which in a
        diffusers U-Net is down, up, middle.
    """

    gamma: str = "blocks"

    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> DiffFit:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or a budget: the size is fixed.
        """
        refuse_unknown_keys(design, ("gamma",))
        gamma = design.get("gamma")
        if gamma is None:
            return cls()
        first = re.fullmatch(r"first:\s*0*([1-9][0-9]{0,17})", gamma) if isinstance(gamma, str) else None
        if gamma not in ("blocks", "blocks+qkvo") and first is None:
            raise InputFault(
                f"gamma={gamma!r} is no level of gamma; allowed are blocks, blocks+qkvo, "
                "and first:N with a number N of transformer blocks, such as first:14"
            )
        return cls(f"first:{first[1]}" if first else gamma)

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "difffit", "gamma": self.gamma}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the denoiser's own parameters that are trained, and the factors."""
        backbone = backbone_parameters(denoiser)
        trainable = sum(parameter.numel() for parameter in _own(denoiser).values())
        trainable += sum(writer.outputs for _, _, writer in self._scaled(denoiser))
        return Count(trainable, backbone)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit an own parameter and one a vector of factors, which multiply what the former give."""
        from adapters.edits.scale import Scale

        factors = [Scale(name, module, writer) for name, module, writer in self._scaled(denoiser)]
        return [*own_edits(denoiser, _own(denoiser)), *factors]

    def _scaled(self, denoiser: nn.Module) -> list[tuple[str, nn.Module, Layer]]:
        """List what is scaled: its name, itself, and the layer that writes its output."""
        blocks = transformer_blocks(denoiser)
        if not blocks:
            raise InputFault(
                f"{type(denoiser).__name__} has no transformer blocks whose branches method=difffit could scale; "
                "choose another method, for instance bitfit"
            )
        if self.gamma.startswith("first:"):
            first = int(self.gamma.removeprefix("first:"))
            if first > len(blocks):
                raise InputFault(
                    f"gamma={self.gamma}, but {type(denoiser).__name__} has {len(blocks)} transformer blocks; "
                    f"give first:{len(blocks)} at most"
                )
            blocks = blocks[:first]
        found: list[tuple[str, nn.Module, Layer]] = []
        for name, block in blocks:
            for part in ("attn1", "attn2"):
                attention = getattr(block, part)
                if attention is not None:
                    out = projections(f"{name}.{part}", attention)[-1]
                    found.append((f"{name}.{part}", attention, out))
            found.append((f"{name}.ff", block.ff, feed_forward_layers(f"{name}.ff", block.ff)[-1]))
        if self.gamma == "blocks+qkvo":
            layers = [layer for name, attention in attentions(denoiser) for layer in projections(name, attention)]
            found += [(layer.name, layer.module, layer) for layer in layers]
        return found


def _own(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    return {**biases(denoiser), **norm_weights(denoiser), **class_embedders(denoiser)}
