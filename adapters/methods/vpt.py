"""Method ``vpt``: trained prompt tokens that attention sees beside the denoiser's own (2203.12119)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import levels
from adapters.budget import Count, asked, nearest_rank
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import cross_attentions, transformer_blocks
from adapters.methods.sizes import size_or_budget

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

KEYS = ("tokens", "budget", "depth", "place")
DEPTHS = ("shallow", "deep")
PLACES = ("context", "sequence")


@dataclass(frozen=True)
class Vpt:
    """Prompt tokens.

    Attributes
    ----------
    tokens
        How many tokens a set has; or None, and then
    budget
        the share of the denoiser's parameters (float) or their number (int) that the number of tokens comes closest to.
    depth
        ``deep``: every attention or block has a set of its own; ``shallow``: sets are shared, see `place`.
    place
        ``context``: tokens are appended to the text handed to cross-attention; shallow, all cross-attentions share one
        set. ``sequence``: tokens are put before a transformer's own sequence; deep, before every block, and taken off
        after it; shallow, before the first block of a transformer (each Transformer2DModel of a U-Net, the whole of a
        DiT), and taken off after its last.
    """

    tokens: int | None = None
    budget: int | float | None = None
    depth: str = "deep"
    place: str = "context"

    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Vpt:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or not exactly one of tokens and budget.
        """
        refuse_unknown_keys(design, KEYS)
        given = {key: value for key, value in design.items() if value is not None}
        tokens, budget = size_or_budget(given, "tokens")
        return cls(
            tokens=tokens,
            budget=budget,
            depth=levels.level("depth", given.get("depth", "deep"), DEPTHS),
            place=levels.level("place", given.get("place", "context"), PLACES),
        )

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {"tokens": self.tokens} if self.tokens is not None else {"budget": self.budget}
        return {"method": "vpt", **size, "depth": self.depth, "place": self.place}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count ``tokens · width`` of every set."""
        sets = self._sets(denoiser)
        backbone = backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        tokens = self._tokens(sets, backbone)
        trainable = tokens * sum(each.width for each in sets)
        return Count(trainable, backbone, resolved={"tokens": tokens}, budget_asked=budget)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit a set."""
        from adapters.edits.tokens import ContextTokens, SequenceTokens

        sets = self._sets(denoiser)
        tokens = self._tokens(sets, backbone_parameters(denoiser))
        kind = ContextTokens if self.place == "context" else SequenceTokens
        return [kind(each.name, each.modules, tokens, each.width) for each in sets]

    def _tokens(self, sets: list[_Set], backbone: int) -> int:
        if self.tokens is not None:
            return self.tokens
        budget = asked(self.budget, backbone)
        assert budget is not None  # from_design: exactly one of the two
        width = sum(each.width for each in sets)
        return nearest_rank(lambda tokens: tokens * width, budget)

    def _sets(self, denoiser: nn.Module) -> list[_Set]:
        return self._context_sets(denoiser) if self.place == "context" else self._sequence_sets(denoiser)

    def _context_sets(self, denoiser: nn.Module) -> list[_Set]:
        found = [_Set(name, module.to_k.in_features, (module,)) for name, module in cross_attentions(denoiser)]
        if not found:
            raise InputFault(
                f"{type(denoiser).__name__} has no cross-attention to give tokens to; choose place=sequence"
            )
        if self.depth == "deep":
            return found
        widths = sorted({each.width for each in found})
        if len(widths) > 1:
            raise InputFault(
                f"the text contexts of {type(denoiser).__name__} have widths {', '.join(map(str, widths))}, so they "
                "cannot share tokens; choose depth=deep"
            )
        return [_Set("context", widths[0], tuple(module for each in found for module in each.modules))]

    def _sequence_sets(self, denoiser: nn.Module) -> list[_Set]:
        # Where attn1 is a cross-attention, tokens of the sequence would be seen by themselves only.
        blocks = [(name, block) for name, block in transformer_blocks(denoiser) if not block.attn1.is_cross_attention]
        if not blocks:
            raise InputFault(
                f"{type(denoiser).__name__} has no transformer blocks with self-attention before which tokens could be "
                "put; choose another method"
            )
        for name, block in blocks:
            if block.pos_embed is not None:
                raise InputFault(
                    f"block {name} adds its own positions to its sequence, which tokens before it would shift; "
                    "choose place=context or another method"
                )
        if self.depth == "deep":
            return [_Set(name, block.dim, (block,)) for name, block in blocks]
        runs = [(parent, [block for _, block in run]) for parent, run in groupby(blocks, lambda each: _parent(each[0]))]
        return [_Set(parent, run[0].dim, tuple(run)) for parent, run in runs]


@dataclass(frozen=True)
class _Set:
    """Tokens of a width that modules share."""

    name: str
    width: int
    modules: tuple[nn.Module, ...]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
