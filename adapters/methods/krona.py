"""Method ``krona``: Kronecker changes of attention and feed-forward weights with factors of free shape (2402.17412)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, log
from typing import TYPE_CHECKING, Any

from adapters import levels
from adapters.budget import Count, asked
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import Layer, find_layers, parse_targets

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

KEYS = ("a1", "a2", "budget", "init", "targets", "text_encoder")
INITS = ("normal", "kaiming")
ROWS = 4
"""a1 of the paper's best factor, (4, 64); of shapes with as many parameters the one with a1 nearest to it is taken."""


@dataclass(frozen=True)
class Krona:
    """Kronecker adaptation ``ΔW = A ⊗ B``.

    Attributes
    ----------
    a1, a2
        Shape of A; a1 divides every layer's outputs and a2 its inputs. None, and then
    budget
        the share of the denoiser's parameters (float) or their number (int) that the shape comes closest to.
    init
        See `adapters.changes.kronecker.Kronecker`.
    targets
        ``attention``, ``ff`` or both.
    text_encoder
        Whether the text encoder's attentions are changed too.
    """

    a1: int | None = None
    a2: int | None = None
    budget: int | float | None = None
    init: str = "normal"
    targets: str = "attention"
    text_encoder: bool = False

    @property
    def alone(self) -> bool:
        """Whether it must be a pack of one: a text encoder's rows are not the denoiser's."""
        return self.text_encoder

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Krona:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, or neither or both of a1, a2 and budget.
        """
        refuse_unknown_keys(design, KEYS)
        given = {key: value for key, value in design.items() if value is not None}
        shape = {key: levels.positive_integer(key, given[key]) for key in ("a1", "a2") if key in given}
        if len(shape) == 1 or bool(shape) == ("budget" in given):
            got = ", ".join(key for key in ("a1", "a2", "budget") if key in given) or "none of them"
            raise InputFault(f"method=krona needs a1 and a2, or budget; got {got}; give for instance a1=4, a2=64")
        targets = parse_targets(given.get("targets", "attention"))
        if "conv" in targets:
            raise InputFault("targets=conv: a Kronecker product is no convolution's kernel; give attention, ff or both")
        return cls(
            a1=shape.get("a1"),
            a2=shape.get("a2"),
            budget=None if shape else levels.budget(given["budget"]),
            init=levels.level("init", given.get("init", "normal"), INITS),
            targets=targets,
            text_encoder=levels.boolean("text_encoder", given.get("text_encoder", False)),
        )

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {"budget": self.budget} if self.a1 is None else {"a1": self.a1, "a2": self.a2}
        rest = {"init": self.init, "targets": self.targets, "text_encoder": self.text_encoder}
        return {"method": "krona", **size, **rest}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the factors of every layer: ``a1·a2 + (out / a1)·(in / a2)``."""
        layers = self._layers(denoiser, text_encoder)
        backbone = backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        a1, a2 = self._shape(layers, budget)
        trainable = _parameters(layers, a1, a2)
        return Count(trainable, backbone, resolved={"a1": a1, "a2": a2}, budget_asked=budget)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one delta a layer."""
        from adapters.changes.kronecker import Kronecker
        from adapters.edits.delta import Delta

        layers = self._layers(denoiser, text_encoder)
        a1, a2 = self._shape(layers, asked(self.budget, backbone_parameters(denoiser)))
        return [Delta(layer, Kronecker((layer.outputs, layer.inputs), a1, a2, self.init)) for layer in layers]

    def _layers(self, denoiser: nn.Module, text_encoder: nn.Module | None) -> list[Layer]:
        return find_layers(denoiser, self.targets, text_encoder if self.text_encoder else None)

    def _shape(self, layers: list[Layer], budget: int | None) -> tuple[int, int]:
        rows, columns = (_divisors(gcd(*sizes)) for sizes in zip(*[(x.outputs, x.inputs) for x in layers], strict=True))
        if budget is not None:
            shapes = [(a1, a2) for a1 in rows for a2 in columns]
            return min(shapes, key=lambda s: (abs(_parameters(layers, *s) - budget), abs(log(s[0] / ROWS))))
        assert self.a1 is not None and self.a2 is not None  # from_design: both or a budget
        for key, size, allowed in (("a1", self.a1, rows), ("a2", self.a2, columns)):
            if size not in allowed:
                side = "outputs" if key == "a1" else "inputs"
                told = ", ".join(map(str, allowed))
                raise InputFault(f"{key}={size} does not divide the {side} of every layer; on this backbone: {told}")
        return self.a1, self.a2


def _parameters(layers: list[Layer], a1: int, a2: int) -> int:
    return sum(a1 * a2 + layer.outputs // a1 * (layer.inputs // a2) for layer in layers)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
