"""What the methods share that peft runs and that have one size: a rank, or a block of inputs.

Parameters are counted on peft's own layers, made without memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, ClassVar, Self

from adapters import levels
from adapters.budget import Count, asked, nearest, nearest_rank
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import Layer, find_layers, parse_targets
from adapters.methods.sizes import size_or_budget

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapters.edits.edit import Edit


@dataclass(frozen=True)
class Sized(ABC):
    """A method of one size that peft runs.

    Attributes
    ----------
    size
        The value of `key`; or None, and then
    budget
        the share of the denoiser's parameters (float) or their number (int) that the size comes closest to.
    targets
        See `adapters.layers.TARGETS`.
    """

    size: int | None = None
    budget: int | float | None = None
    targets: str = "attention"

    name: ClassVar[str]
    key: ClassVar[str] = "rank"
    own: ClassVar[tuple[str, ...]] = ()
    """Keys of the method beyond those of all."""
    alone: ClassVar[bool] = True

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Self:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, not exactly one of size and budget, or targets that peft gets wrong.
        """
        refuse_unknown_keys(design, (cls.key, "budget", *cls.own, "targets"))
        given = {key: value for key, value in design.items() if value is not None}
        size, budget = size_or_budget(given, cls.key)
        targets = parse_targets(given.get("targets", "attention"))
        return cls(size=size, budget=budget, targets=targets, **cls._parse_own(given))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {self.key: self.size} if self.size is not None else {"budget": self.budget}
        own = {key: getattr(self, key) for key in self.own}
        return {"method": self.name, **size, **own, "targets": self.targets}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count what peft trains on layers of the same sizes."""
        layers, backbone = find_layers(denoiser, self.targets), backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        size = self._size(layers, budget)
        trainable = self._parameters(layers, size)
        return Count(trainable, backbone, resolved={self.key: size}, budget_asked=budget)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit a layer."""
        from adapters.edits.peft_layers import PeftLayers

        layers = find_layers(denoiser, self.targets)
        size = self._size(layers, asked(self.budget, backbone_parameters(denoiser)))
        return [PeftLayers(denoiser, [layer], self.name, self.settings(size)) for layer in layers]

    def settings(self, size: int) -> dict[str, Any]:
        """Give the fields of peft's configuration at a size."""
        return {"r": size}

    def peft_config(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Give the ``adapter_config.json`` with which peft does the same with a state of this method."""
        size = self.size if self.size is not None else self._size_of(state)
        return configuration(self.name, self.settings(size), state)

    @classmethod
    def _parse_own(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    @abstractmethod
    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        """Read the size off the shapes of a state."""

    def _size(self, layers: Sequence[Layer], budget: int | None) -> int:
        if budget is None:
            assert self.size is not None  # from_design: exactly one of the two
            return self.size
        return self._nearest(layers, budget)

    def _nearest(self, layers: Sequence[Layer], budget: int) -> int:
        return nearest_rank(lambda rank: self._parameters(layers, rank), budget)

    def _parameters(self, layers: Sequence[Layer], size: int) -> int:
        from adapters.edits.peft_layers import parameters_of

        settings = self.settings(size)
        return sum(parameters_of(layer, self.name, settings) for layer in layers)


@dataclass(frozen=True)
class Scaled(Sized):
    """A method whose change has a factor.

    Attributes
    ----------
    alpha
        The factor is alpha / rank; ``"rank"`` keeps it at 1.
    """

    alpha: int | float | str = "rank"

    own: ClassVar[tuple[str, ...]] = ("alpha",)

    def settings(self, size: int) -> dict[str, Any]:
        """Give the fields of peft's configuration at a rank."""
        return {"r": size, "alpha": size if self.alpha == "rank" else self.alpha}

    @classmethod
    def _parse_own(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        alpha = given.get("alpha", "rank")
        return {"alpha": alpha if alpha == "rank" else levels.positive_number("alpha", alpha)}


@dataclass(frozen=True)
class Blocked(Sized):
    """A method that rotates blocks of a layer's inputs."""

    key: ClassVar[str] = "block_size"

    def _size(self, layers: Sequence[Layer], budget: int | None) -> int:
        sizes = [block for block in _divisors(gcd(*(x.inputs * x.kernel for x in layers))) if self._fits(layers, block)]
        if not sizes:
            raise InputFault(f"method={self.name} has no block size that all layers of targets={self.targets} take")
        if budget is not None:
            return nearest(sizes, lambda block: self._parameters(layers, block), budget)
        if self.size not in sizes:
            raise InputFault(
                f"block_size={self.size} does not fit the inputs of all layers of targets={self.targets}; "
                f"those that do are {', '.join(map(str, sizes))}"
            )
        return self.size

    def _fits(self, layers: Sequence[Layer], block: int) -> bool:
        return True


def configuration(kind: str, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give the ``adapter_config.json`` with which peft does the same with a state."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING

    named = PeftType(kind.upper())
    layers = sorted({name.partition(f".{PEFT_TYPE_TO_PREFIX_MAPPING[named]}")[0] for name in state})
    config = PEFT_TYPE_TO_CONFIG_MAPPING[named](**{"target_modules": layers, **settings})
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {**fields, "inference_mode": True}


def _divisors(number: int) -> list[int]:
    """Give the divisors from 2 on: a block of one input has nothing to rotate."""
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]
