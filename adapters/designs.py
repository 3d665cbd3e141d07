"""Designs: plain dictionaries, checked and filled by the method they name. No torch.

A method is a frozen dataclass in ``adapters/methods/`` with the four members of `Method`; adding one is a file there
and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from adapters.budget import Count
from adapters.faults import InputFault

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

METHODS = {
    "adapter": ("adapters.methods.adapter", "Adapter"),
    "adaptformer": ("adapters.methods.presets", "AdaptFormer"),
    "sequential": ("adapters.methods.presets", "Sequential"),
    "lora": ("adapters.methods.lora", "Lora"),
    "dora": ("adapters.methods.lora", "Dora"),
    "krona": ("adapters.methods.krona", "Krona"),
    "tlora": ("adapters.methods.tlora", "Tlora"),
    "tlora_star": ("adapters.methods.tlora", "TloraStar"),
    "difffit": ("adapters.methods.difffit", "DiffFit"),
    "bitfit": ("adapters.methods.bitfit", "BitFit"),
    "vpt": ("adapters.methods.vpt", "Vpt"),
    "full": ("adapters.methods.full", "Full"),
    "loha": ("adapters.methods.peft_family", "Loha"),
    "lokr": ("adapters.methods.peft_family", "Lokr"),
    "oft": ("adapters.methods.peft_family", "Oft"),
    "boft": ("adapters.methods.peft_family", "Boft"),
    "hra": ("adapters.methods.peft_family", "Hra"),
    "hira": ("adapters.methods.peft_family", "Hira"),
    "ia3": ("adapters.methods.peft_family", "Ia3"),
    "peft": ("adapters.methods.peft_family", "AnyPeft"),
    "none": ("adapters.methods.none", "Untuned"),
}


class Method(Protocol):
    """A validated design that knows what it changes in a denoiser."""

    @property
    def alone(self) -> bool:
        """Whether it must be a pack of one."""

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Method:
        """Validate a design; raise InputFault."""

    def to_design(self) -> dict[str, Any]:
        """Give the design with defaults filled and values in canonical form."""

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count what is trained, in closed form; works on the meta device."""

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to edits; allocates nothing."""


def method_of(design: Mapping[str, Any]) -> Method:
    """Turn a design into its validated method.

    Raises
    ------
    InputFault
        For an unknown method, key or level; the message lists what is allowed.
    """
    if not isinstance(design, Mapping):
        raise InputFault(f"a design is a mapping such as {{'method': 'adapter', …}}; got {design!r}")
    name = design.get("method")
    if not isinstance(name, str) or name not in METHODS:
        raise InputFault(f"unknown method {name!r}; the methods are {', '.join(METHODS)}")
    module, method = METHODS[name]
    return getattr(import_module(module), method).from_design(design)


def normalise(design: Mapping[str, Any]) -> dict[str, Any]:
    """Check a design and give its canonical form.

    Defaults are filled, and equal values get equal spelling: ``"0.75%"`` becomes 0.0075, ``1.0`` becomes 1. Numbers
    may be given as text, as a command line does.

    Raises
    ------
    InputFault
        See `method_of`.
    """
    return method_of(design).to_design()


def count(denoiser: nn.Module, design: Mapping[str, Any], text_encoder: nn.Module | None = None) -> Count:
    """Count what a design trains on a denoiser, in closed form.

    Parameters
    ----------
    denoiser
        A diffusers denoiser; may be on the meta device.
    design
        A design; see `normalise`.
    text_encoder
        The pipeline's text encoder, for designs that tune it too.

    Raises
    ------
    InputFault
        For a design that is wrong or does not fit the denoiser.
    """
    method = method_of(design)
    _check_text_encoder(method, text_encoder)
    return method.count(denoiser, text_encoder)


def edits_of(method: Method, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
    """Compile a method to edits; allocates nothing.

    Raises
    ------
    InputFault
        For a method that does not fit the denoiser, or that tunes a text encoder where none is given.
    """
    _check_text_encoder(method, text_encoder)
    return method.edits(denoiser, text_encoder)


def tunes_text(method: Method) -> bool:
    """Say whether a method changes the text encoder too."""
    return getattr(method, "text_encoder", False)


def _check_text_encoder(method: Method, text_encoder: nn.Module | None) -> None:
    if tunes_text(method) and text_encoder is None:
        raise InputFault(
            "the design has text_encoder=true, but no text encoder was given; "
            "give insert(…, text_encoder=pipe.text_encoder), or load the adapter on a whole pipeline; where a pipeline "
            "has several text encoders (SDXL, SD 3, Flux) or none (DiT), leave text_encoder out"
        )


def backbone_parameters(denoiser: nn.Module) -> int:
    """Count the parameters of a denoiser, each once."""
    return sum(parameter.numel() for parameter in denoiser.parameters())


def refuse_unknown_keys(design: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise InputFault for keys that a method does not have."""
    unknown = [str(key) for key in design if key not in ("method", *allowed)]
    if unknown:
        keys = f"its keys are {', '.join(allowed)}" if allowed else "it has no further keys"
        fixed = "; it has a fixed size, so no budget" if "budget" in unknown else ""
        raise InputFault(f"method={design['method']} does not know {', '.join(unknown)}; {keys}{fixed}")
