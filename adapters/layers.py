"""Layers: the linear and convolutional layers of a denoiser that methods change, found by the module around them.

Names need no torch. Nothing is chosen by a substring of its name: diffusers keeps embedders under names with "norm".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault

if TYPE_CHECKING:
    from torch import nn

    AnyLayer = nn.Linear | nn.Conv2d

TARGETS = ("attention", "ff", "conv")
"""Query, key, value and output projections of attentions; linear layers of feed-forwards; convolutions of ResNets."""

TEXT_ENCODER = "text_encoder."
"""What the names of a text encoder's parameters begin with."""


@dataclass(frozen=True)
class Layer:
    """A layer that a method changes.

    Attributes
    ----------
    name
        Its dotted path in the denoiser, or in the text encoder after ``text_encoder.``.
    module
        An ``nn.Linear`` or ``nn.Conv2d``.
    """

    name: str
    module: AnyLayer

    @property
    def inputs(self) -> int:
        """Features, or channels, that it reads."""
        return self.module.weight.shape[1]

    @property
    def outputs(self) -> int:
        """Features, or channels, that it writes."""
        return self.module.weight.shape[0]

    @property
    def kernel(self) -> int:
        """Pixels that one output pixel reads: 1 of a linear layer, 9 of a 3×3 convolution."""
        return self.module.weight[0, 0].numel()


def parse_targets(value: Any) -> str:
    """Accept targets joined by ``+`` and give them in their one order: ``"ff+attention"`` is ``"attention+ff"``.

    Raises
    ------
    InputFault
        For anything else; lists the targets.
    """
    asked = value.split("+") if isinstance(value, str) else []
    unknown = [name for name in asked if name.strip() not in TARGETS]
    if not asked or unknown:
        raise InputFault(f"targets={value!r} is no level of targets; allowed are {', '.join(TARGETS)}, joined by +")
    wanted = {name.strip() for name in asked}
    return "+".join(name for name in TARGETS if name in wanted)


def find_layers(denoiser: nn.Module, targets: str, text_encoder: nn.Module | None = None) -> list[Layer]:
    """Find the layers that targets name, in the order of the modules, those of a text encoder last.

    Parameters
    ----------
    denoiser
        A diffusers denoiser; may be on the meta device.
    targets
        As `parse_targets` gives them.
    text_encoder
        A CLIP text model whose query, key, value and output projections are wanted too.

    Raises
    ------
    InputFault
        When the denoiser has no layer of a target, or the text encoder is of an unknown kind.
    """
    found: dict[str, Layer] = {}
    for target in targets.split("+"):
        layers = list(_FINDERS[target](denoiser))
        if not layers:
            raise InputFault(
                f"{type(denoiser).__name__} has no layers for targets={target}; choose others of {', '.join(TARGETS)}"
            )
        found |= {layer.name: layer for layer in layers}
    order = {name: index for index, (name, _) in enumerate(denoiser.named_modules())}
    layers = sorted(found.values(), key=lambda layer: order[layer.name])
    return layers if text_encoder is None else [*layers, *_text_layers(text_encoder)]


def attentions(denoiser: nn.Module) -> list[tuple[str, Any]]:
    """List the attentions of a denoiser with their names."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.transformers.transformer_flux import FluxAttention

    known = Attention, FluxAttention
    return [(name, module) for name, module in denoiser.named_modules() if isinstance(module, known)]


def cross_attentions(denoiser: nn.Module) -> list[tuple[str, Any]]:
    """List the attentions whose keys and values are made of the text only, with their names."""
    return [
        (name, module)
        for name, module in attentions(denoiser)
        if getattr(module, "is_cross_attention", False) and module.added_kv_proj_dim is None
    ]


def transformer_blocks(denoiser: nn.Module) -> list[tuple[str, Any]]:
    """List the transformer blocks of a denoiser with their names, in the order of its modules."""
    from diffusers.models.attention import BasicTransformerBlock

    return [(name, module) for name, module in denoiser.named_modules() if isinstance(module, BasicTransformerBlock)]


def projections(name: str, attention: Any) -> list[Layer]:
    """List an attention's query, key, value and output projections; of a joint attention the text's too.

    The single blocks of Flux have no output projection of attention alone.

    Raises
    ------
    InputFault
        When the projections were fused: the separate ones are not run then.
    """
    if getattr(attention, "fused_projections", False):
        raise InputFault(f"the projections of {name} are fused; call unfuse_qkv_projections() on the model first")
    found = [Layer(f"{name}.{part}", getattr(attention, part)) for part in ("to_q", "to_k", "to_v")]
    if getattr(attention, "to_out", None) is not None:
        found.append(Layer(f"{name}.to_out.0", attention.to_out[0]))
    for part in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        if getattr(attention, part, None) is not None:
            found.append(Layer(f"{name}.{part}", getattr(attention, part)))
    return found


def feed_forwards(denoiser: nn.Module) -> list[tuple[str, Any]]:
    """List the feed-forwards of a denoiser with their names."""
    from diffusers.models.attention import FeedForward

    return [(name, module) for name, module in denoiser.named_modules() if isinstance(module, FeedForward)]


def feed_forward_layers(name: str, module: Any) -> list[Layer]:
    """List a feed-forward's linear layers, the last of which writes its output."""
    from torch import nn

    return [Layer(f"{name}.{inner}", part) for inner, part in module.named_modules() if isinstance(part, nn.Linear)]


def _attention_layers(denoiser: nn.Module) -> Iterable[Layer]:
    return (layer for name, module in attentions(denoiser) for layer in projections(name, module))


def _feed_forward_layers(denoiser: nn.Module) -> Iterable[Layer]:
    return (layer for name, module in feed_forwards(denoiser) for layer in feed_forward_layers(name, module))


def _convolutions(denoiser: nn.Module) -> Iterable[Layer]:
    from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D

    for name, module in denoiser.named_modules():
        if isinstance(module, ResnetBlock2D | ResnetBlockCondNorm2D):
            yield Layer(f"{name}.conv1", module.conv1)
            yield Layer(f"{name}.conv2", module.conv2)


def _text_layers(text_encoder: nn.Module) -> list[Layer]:
    from transformers.models.clip.modeling_clip import CLIPAttention

    found = [
        Layer(f"{TEXT_ENCODER}{name}.{part}", getattr(module, part))
        for name, module in text_encoder.named_modules()
        if isinstance(module, CLIPAttention)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]
    if not found:
        raise InputFault(
            f"text_encoder=true needs a CLIP text encoder; {type(text_encoder).__name__} has no CLIP attentions"
        )
    return found


_FINDERS = {"attention": _attention_layers, "ff": _feed_forward_layers, "conv": _convolutions}
