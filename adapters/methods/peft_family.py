"""Methods run by peft itself, each a pack of one: ``loha``, ``lokr``, ``oft``, ``boft``, ``hra``, ``hira``, ``ia3``.

Any other kind of peft's is ``method=peft``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isqrt
from typing import TYPE_CHECKING, Any, ClassVar, Self

from adapters import levels
from adapters.budget import Count, nearest, nearest_rank
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.layers import Layer, feed_forward_layers, feed_forwards, find_layers, parse_targets
from adapters.methods.peft_kinds import Value, kind_of
from adapters.methods.peft_sized import Blocked, Scaled, Sized, configuration

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapters.edits.edit import Edit


@dataclass(frozen=True)
class Loha(Scaled):
    """Low-rank Hadamard products (2108.06098): ``ΔW = (A₁B₁) ∘ (A₂B₂)``."""

    name: ClassVar[str] = "loha"

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        return next(value.shape[0] for name, value in state.items() if name.endswith(".hada_w1_b"))


@dataclass(frozen=True)
class Lokr(Scaled):
    """Low-rank Kronecker products (2212.10650): ``ΔW = C ⊗ AB``, and ``C ⊗ D`` from the rank on where AB has full rank.

    Attributes
    ----------
    factor
        Rows and columns of C, where they divide the layer's; ``"auto"`` takes the divisors nearest to the square roots.
    """

    factor: int | str = "auto"

    name: ClassVar[str] = "lokr"
    own: ClassVar[tuple[str, ...]] = ("alpha", "factor")

    def settings(self, size: int) -> dict[str, Any]:
        """Give the fields of peft's configuration at a rank."""
        return {**super().settings(size), "decompose_factor": self._factor}

    @property
    def _factor(self) -> int:
        return -1 if isinstance(self.factor, str) else self.factor

    @classmethod
    def _parse_own(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        factor = given.get("factor", "auto")
        own = super()._parse_own(given)
        return {**own, "factor": factor if factor == "auto" else levels.positive_integer("factor", factor)}

    def _nearest(self, layers: Sequence[Layer], budget: int) -> int:
        # in closed form, since the parameters do not grow evenly with the rank, so that every rank is tried
        splits = Counter(map(self._split, layers))
        largest = max(max(out, read) for _, out, read, _ in splits)

        def parameters(rank: int) -> int:
            total = 0
            for (small, out, read, kernel), times in splits.items():
                full = rank >= max(out, read) / 2
                total += times * (small + (out * read * kernel if full else rank * (out + read * kernel)))
            return total

        return nearest(range(1, ceil(largest / 2) + 1), parameters, budget)

    def _split(self, layer: Layer) -> tuple[int, int, int, int]:
        """Give the entries of C, the rows and columns of what it is multiplied with, and the pixels of its kernel."""
        from peft.tuners.lokr.layer import factorization

        (rows, out), (columns, read) = (factorization(n, self._factor) for n in (layer.outputs, layer.inputs))
        return rows * columns, out, read, layer.kernel

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        ranks = [value.shape[0] for name, value in state.items() if name.endswith(".lokr_w2_b")]
        if ranks:
            return ranks[0]
        if self.alpha != "rank":
            raise InputFault(
                "the rank of this lokr cannot be told from its weights; give rank in the design, not budget"
            )
        return max(max(value.shape[:2]) for name, value in state.items() if name.endswith(".lokr_w2"))


@dataclass(frozen=True)
class Oft(Blocked):
    """Orthogonal fine-tuning (2306.07280): blocks of a layer's inputs are rotated."""

    name: ClassVar[str] = "oft"

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Self:
        """Validate a design; see `Sized.from_design`."""
        method = super().from_design(design)
        if "conv" in method.targets:
            raise InputFault(
                "method=oft on targets=conv: peft's rotated convolution is not the backbone's before training, nor the "
                "same merged as unmerged; give attention, ff or both, or method=boft"
            )
        return method

    def settings(self, size: int) -> dict[str, Any]:
        """Give the fields of peft's configuration at a block size."""
        return {"r": 0, "oft_block_size": size}

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        entries = next(iter(state.values())).shape[1]  # b (b - 1) / 2 above the diagonal
        return (1 + isqrt(1 + 8 * entries)) // 2


@dataclass(frozen=True)
class Boft(Blocked):
    """Orthogonal fine-tuning by butterflies (2311.06243): rotations of blocks, shuffled in between, and a scale.

    Attributes
    ----------
    butterfly_factor
        How many rotations.
    """

    butterfly_factor: int = 1

    name: ClassVar[str] = "boft"
    own: ClassVar[tuple[str, ...]] = ("butterfly_factor",)

    def settings(self, size: int) -> dict[str, Any]:
        """Give the fields of peft's configuration at a block size."""
        return {"boft_block_size": size, "boft_block_num": 0, "boft_n_butterfly_factor": self.butterfly_factor}

    @classmethod
    def _parse_own(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        factor = levels.positive_integer("butterfly_factor", given.get("butterfly_factor", 1))
        if factor > 32:
            raise InputFault(f"butterfly_factor={factor} is above 32, at which no layer has blocks to shuffle")
        return {"butterfly_factor": factor}

    def _fits(self, layers: Sequence[Layer], block: int) -> bool:
        """Say whether every layer's blocks can be halved as often as they are shuffled."""
        shuffled = block * 2 ** (self.butterfly_factor - 1)
        even = self.butterfly_factor == 1 or block % 2 == 0
        return even and all(layer.inputs * layer.kernel % shuffled == 0 for layer in layers)

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        return next(value.shape[-1] for name, value in state.items() if name.endswith(".boft_R"))


@dataclass(frozen=True)
class Hra(Sized):
    """Householder reflections (2405.17484) of a layer's inputs; of an even number, since pairs cancel at the start."""

    name: ClassVar[str] = "hra"

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Self:
        """Validate a design; see `Sized.from_design`."""
        method = super().from_design(design)
        if method.size is not None and method.size % 2:
            raise InputFault(
                f"rank={method.size}: reflections cancel in pairs at the start, so an odd number of them would disturb "
                f"the backbone before training; give rank={method.size + 1}"
            )
        return method

    def _nearest(self, layers: Sequence[Layer], budget: int) -> int:
        return 2 * nearest_rank(lambda pairs: self._parameters(layers, 2 * pairs), budget)

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        return next(iter(state.values())).shape[1]


@dataclass(frozen=True)
class Hira(Sized):
    """High-rank changes by Hadamard products: ``ΔW = W ∘ (BA)``."""

    name: ClassVar[str] = "hira"

    def _size_of(self, state: Mapping[str, Tensor]) -> int:
        return next(value.shape[0] for name, value in state.items() if name.endswith(".hira_A"))


@dataclass(frozen=True)
class Ia3:
    """(IA)³ (2205.05638): a factor on every output of a layer, and on every input of a feed-forward's last layer.

    Attributes
    ----------
    targets
        See `adapters.layers.TARGETS`.
    """

    targets: str = "attention"

    alone: ClassVar[bool] = True

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Ia3:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or target.
        """
        refuse_unknown_keys(design, ("targets",))
        return cls(parse_targets(_given(design, "targets", "attention")))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "ia3", "targets": self.targets}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the factors."""
        return _counted(denoiser, self.edits(denoiser))

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit a layer."""
        from adapters.edits.peft_layers import ALONE, PeftLayers

        last = {feed_forward_layers(name, module)[-1].name for name, module in feed_forwards(denoiser)}
        return [
            PeftLayers(denoiser, [layer], "ia3", {"feedforward_modules": (ALONE,) if layer.name in last else ()})
            for layer in find_layers(denoiser, self.targets)
        ]

    def peft_config(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Give the ``adapter_config.json`` with which peft does the same with a state of this method."""
        # of a linear layer's factors those of inputs are a row, those of outputs a column
        inputs = [name.removesuffix(".ia3_l") for name, value in state.items() if value.ndim == 2 and len(value) == 1]
        return configuration("ia3", {"feedforward_modules": sorted(inputs)}, state)


@dataclass(frozen=True)
class AnyPeft:
    """Any other kind of peft's, with fields of its configuration as keys; see `adapters.methods.peft_kinds.KINDS`.

    Attributes
    ----------
    kind
        Its name.
    targets
        ``attention``, ``ff`` or both.
    settings
        Fields of its configuration.
    """

    kind: str
    targets: str = "attention"
    settings: Mapping[str, Value] = field(default_factory=dict)

    alone: ClassVar[bool] = True

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> AnyPeft:
        """Validate a design.

        Raises
        ------
        InputFault
            For a kind that cannot be run, an unknown field, or a wrong value.
        """
        name, kind = kind_of(design.get("kind"))
        unknown = [str(key) for key in design if key not in ("method", "kind", "targets", *kind.fields)]
        if unknown:
            raise InputFault(
                f"method=peft, kind={name} does not know {', '.join(unknown)}; its keys are targets, "
                f"{', '.join(kind.fields)}"
            )
        targets = parse_targets(_given(design, "targets", "attention"))
        if "conv" in targets:
            raise InputFault(f"targets=conv: peft's {name} changes linear layers only; give attention, ff or both")
        settings = {key: known.default for key, known in kind.fields.items()}
        settings |= {key: kind.fields[key].parse(key, design[key]) for key in settings if design.get(key) is not None}
        given = {key: value for key, value in settings.items() if value is not None}
        chosen, vectors = given.get("topk"), given.get("num_vectors")
        if isinstance(chosen, int) and isinstance(vectors, int) and chosen > vectors:
            raise InputFault(f"topk={chosen} is more than num_vectors={vectors}, of which it chooses")
        return cls(name, targets, given)

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        return {"method": "peft", "kind": self.kind, "targets": self.targets, **self.settings}

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count what peft trains on layers of the same sizes."""
        return _counted(denoiser, self.edits(denoiser))

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one edit a layer, or to one in all where layers share tensors."""
        from adapters.edits.peft_layers import PeftLayers

        layers = find_layers(denoiser, self.targets)
        together = [layers] if kind_of(self.kind)[1].shared else [[layer] for layer in layers]
        return [PeftLayers(denoiser, some, self.kind, self.settings) for some in together]

    def peft_config(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Give the ``adapter_config.json`` with which peft does the same with a state of this method.

        Raises
        ------
        InputFault
            For a kind whose shared tensors peft keeps under names that a state does not have.
        """
        if self.kind in ("lily", "vblora"):
            raise InputFault(
                f"a peft folder of kind={self.kind} is not written: its layers share trained tensors; put it on a "
                "pipeline with adapters.load(pipe, path)"
            )
        projections = {"save_projection": False} if self.kind in ("vera", "randlora") else {}
        return configuration(self.kind, {**self.settings, **projections}, state)


def _given(design: Mapping[str, Any], key: str, default: str) -> Any:
    value = design.get(key)
    return default if value is None else value


def _counted(denoiser: nn.Module, edits: Iterable[Edit]) -> Count:
    from torch import Size

    backbone = backbone_parameters(denoiser)
    trainable = sum(Size(shape).numel() for edit in edits for shape in edit.shapes().values())
    return Count(trainable, backbone)
