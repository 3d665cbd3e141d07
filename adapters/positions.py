"""Positions: the named tensors of a block that an adapter reads or writes.

This is the only code that finds blocks in a backbone. The names need no torch.

A transformer block is ``x += SA(norm1 x); x += CA(norm2 x, text); x += FFN(norm3 x)``. Ten tensors can be read and
seven be written, because addition commutes: adding to a branch's output is adding to the trunk after it
("A Closer Look at Parameter-Efficient Tuning in Diffusion Models", arXiv 2303.18181). In a diffusion transformer that
gates its branches, SA_out and FFN_out are what is read before the gate. Where attention is joint over text and picture
(SD 3, Flux), it takes self-attention's place, positions are the picture's, and there is no cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING, Any, Literal

from adapters.faults import InputFault

if TYPE_CHECKING:
    from torch import nn

Component = Literal["transformer", "context", "resnet"]

READS = ("SA_in", "SA_out", "CA_in", "CA_c", "CA_out", "FFN_in", "FFN_out", "Trans_out", "Res_in", "Res_out")
WRITES = ("SA_in", "CA_in", "CA_c", "FFN_in", "Trans_out", "Res_in", "Res_out")
PAIRS: tuple[tuple[str, str], ...] = (
    ("SA_in", "SA_in"),
    ("SA_in", "CA_in"),
    ("SA_in", "FFN_in"),
    ("SA_in", "Trans_out"),
    ("SA_out", "CA_in"),
    ("SA_out", "FFN_in"),
    ("SA_out", "Trans_out"),
    ("CA_in", "CA_in"),
    ("CA_in", "FFN_in"),
    ("CA_in", "Trans_out"),
    ("CA_out", "FFN_in"),
    ("CA_out", "Trans_out"),
    ("FFN_in", "FFN_in"),
    ("FFN_in", "Trans_out"),
    ("FFN_out", "Trans_out"),
    ("Trans_out", "Trans_out"),
    ("CA_c", "CA_c"),
    ("Res_in", "Res_in"),
    ("Res_in", "Res_out"),
    ("Res_out", "Res_out"),
)
# A branch's output is added to the trunk, so writing it is writing the trunk after that addition.
SAME_POINT = {"SA_out": "CA_in", "CA_out": "FFN_in", "FFN_out": "Trans_out"}


@dataclass(frozen=True)
class Site:
    """Where a position's tensor passes: a submodule of the block ("" is the block) and which side of it.

    `place` says which of several tensors that come out of the module it is.
    """

    module: str
    kind: Literal["input", "output", "context"]
    place: int | None = None


@dataclass(frozen=True)
class Sites:
    """Where the positions of one kind of block are read and written.

    Attributes
    ----------
    reads
        Position to the site whose tensor it is.
    writes
        Position to the sites where the value is added. Where a branch reads the trunk through a site of its own, the
        value is added there and once more where the trunk goes on.
    before
        For a position that is written only where the trunk is not summed yet: the site of the trunk before that
        branch. What is read there is the trunk before the branch plus the branch's output.
    """

    reads: Mapping[str, Site]
    writes: Mapping[str, tuple[Site, ...]]
    before: Mapping[str, Site] = field(default_factory=dict)


_INPUT, _OUTPUT = Site("", "input"), Site("", "output")
_CONTEXT = Site("attn2", "context")
# x += SA(norm1 x); x += CA(norm2 x, text); x += FFN(norm3 x). The input of a norm is a copy of the trunk that only its
# branch sees; a write must reach the trunk itself, so it is added to the branch output that the trunk receives next.
PLAIN = Sites(
    reads={
        "SA_in": _INPUT,
        "SA_out": Site("attn1", "output"),
        "CA_in": Site("norm2", "input"),
        "CA_c": _CONTEXT,
        "CA_out": Site("attn2", "output"),
        "FFN_in": Site("norm3", "input"),
        "FFN_out": Site("ff", "output"),
        "Trans_out": _OUTPUT,
    },
    writes={
        "SA_in": (_INPUT,),
        "CA_in": (Site("attn1", "output"),),
        "CA_c": (_CONTEXT,),
        "FFN_in": (Site("attn2", "output"),),
        "Trans_out": (_OUTPUT,),
    },
    before={"CA_in": Site("norm1", "input"), "FFN_in": Site("norm2", "input")},
)
# PixArt: x += gate · SA(norm1 x); x += CA(x, text); x += gate · FFN(norm2 x). What is added to a gated branch's output
# would be gated too; cross-attention reads the trunk itself.
CROSS_UNNORMED = Sites(
    reads={**PLAIN.reads, "CA_in": Site("attn2", "input"), "FFN_in": Site("norm2", "input")},
    writes={**PLAIN.writes, "CA_in": (Site("attn2", "input"), Site("attn2", "output"))},
    before={"FFN_in": Site("attn2", "input")},
)
# DiT: x += gate · SA(norm1 x); x += gate · FFN(norm3 x).
NO_CROSS = Sites(
    reads={name: site for name, site in PLAIN.reads.items() if not name.startswith("CA_")},
    writes={"SA_in": (_INPUT,), "FFN_in": (Site("norm3", "input"), _OUTPUT), "Trans_out": (_OUTPUT,)},
)
# Joint attention (SD 3, the double blocks of Flux), the picture's part: x += gate · SA(norm1 x, text);
# x += gate · FFN(norm2 x). The text is a trunk of its own, with no position.
_PICTURE = Site("", "output", 1)
JOINT = Sites(
    reads={
        "SA_in": _INPUT,
        "SA_out": Site("attn", "output", 0),
        "FFN_in": Site("norm2", "input"),
        "FFN_out": Site("ff", "output"),
        "Trans_out": _PICTURE,
    },
    writes={"SA_in": (_INPUT,), "FFN_in": (Site("norm2", "input"), _PICTURE), "Trans_out": (_PICTURE,)},
)
# The single blocks of Flux: x += gate · W [SA(norm x), GELU(V norm x)], one branch from input to output.
PARALLEL = Sites(
    reads={"SA_in": _INPUT, "Trans_out": _PICTURE}, writes={"SA_in": (_INPUT,), "Trans_out": (_PICTURE,)}
)
RESNET = Sites(reads={"Res_in": _INPUT, "Res_out": _OUTPUT}, writes={"Res_in": (_INPUT,), "Res_out": (_OUTPUT,)})


@dataclass(frozen=True)
class Block:
    """A block that takes one adapter.

    Attributes
    ----------
    name
        Its dotted path in the denoiser.
    module
        The block.
    read, write
        Channels of the tensor read and of the tensor written.
    groups
        Groups of the normalisation over the tensor read (ResNet blocks; 1 elsewhere).
    sites
        Where its positions are.
    """

    name: str
    module: nn.Module
    read: int
    write: int
    groups: int = 1
    sites: Sites = PLAIN


def component(position: str) -> Component:
    """Say which component of the design space a position belongs to.

    Raises
    ------
    InputFault
        For a name that is no position.
    """
    if position not in READS:
        raise InputFault(f"unknown position {position!r}; the positions are {', '.join(READS)}")
    if position == "CA_c":
        return "context"
    return "resnet" if position.startswith("Res_") else "transformer"


def check_pair(input: str, output: str) -> None:
    """Accept one of the 20 valid (input, output) pairs.

    Raises
    ------
    InputFault
        For anything else; the message lists what is allowed, and names the equivalent output of SA_out, CA_out and
        FFN_out.
    """
    if input not in READS:
        raise InputFault(f"input={input!r} is no position that can be read; allowed are {', '.join(READS)}")
    allowed = [write for read, write in PAIRS if read == input]
    if output in allowed:
        return
    choice = f"with input={input} the output may be {', '.join(allowed)}"
    same = SAME_POINT.get(output) if isinstance(output, str) else None
    if same:
        raise InputFault(f"output={output} is the same point as output={same}, because addition commutes; {choice}")
    if output not in WRITES:
        raise InputFault(f"output={output!r} is no position that can be written; {choice}")
    raise InputFault(f"input={input}, output={output} is no valid pair; {choice}")


def blocks(denoiser: nn.Module, input: str, output: str) -> list[Block]:
    """Find the blocks of a denoiser that take an adapter of a pair, in the order of its modules.

    Parameters
    ----------
    denoiser
        A diffusers U-Net, or a transformer with the blocks of DiT, PixArt, SD 3 or Flux; may be on the meta device.
    input, output
        A valid pair.

    Raises
    ------
    InputFault
        For an invalid pair, or a denoiser without such blocks or with blocks that lack the position.
    """
    check_pair(input, output)
    find = _resnet_blocks if component(input) == "resnet" else _transformer_blocks
    found = find(denoiser, input, output)
    if not found:
        kind = "ResNet" if component(input) == "resnet" else "transformer"
        raise InputFault(
            f"{type(denoiser).__name__} has no {kind} blocks, so nothing can be read at {input}; "
            "choose another backbone or method"
        )
    return found


def _transformer_blocks(denoiser: nn.Module, input: str, output: str) -> list[Block]:
    from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock

    known: dict[type[Any], Callable[[Any], Sites | None]] = {
        BasicTransformerBlock: _sites,
        JointTransformerBlock: lambda _: JOINT,
        FluxTransformerBlock: lambda _: JOINT,
        FluxSingleTransformerBlock: lambda _: PARALLEL,
    }
    found: list[Block] = []
    lacking: list[Sites] = []
    for name, module in denoiser.named_modules():
        if type(module) not in known:
            continue
        sites = known[type(module)](module)
        if sites is None:
            raise InputFault(
                f"block {name} of {type(denoiser).__name__} has norm type {module.norm_type!r}; position adapters know "
                "the blocks of U-Nets, DiT, PixArt, SD 3 and Flux: choose another backbone or method"
            )
        if input not in sites.reads or output not in sites.writes:
            lacking.append(sites)
            continue
        if hasattr(module, "fuser"):
            raise InputFault(
                f"block {name} is gated (GLIGEN): a layer between self- and cross-attention changes the trunk, so "
                "CA_in has no single place; choose a backbone with attention_type='default'"
            )
        width = module.attn2.to_k.in_features if component(input) == "context" else _width(module)
        found.append(Block(name, module, width, width, sites=sites))
    if lacking and not (found and all(sites is PARALLEL for sites in lacking)):
        most = max(lacking, key=lambda sites: len(sites.reads))
        raise InputFault(
            f"input={input}, output={output}: the blocks of {type(denoiser).__name__} have no cross-attention; "
            f"they can be read at {', '.join(most.reads)} and written at {', '.join(most.writes)}"
        )
    return found


def _width(block: Any) -> int:
    """Say how many features a transformer block's trunk has."""
    return int(block.dim if hasattr(block, "dim") else block.attn.to_q.in_features)


def _sites(block: Any) -> Sites | None:
    """Say where a transformer block has its positions; None for a kind that is not known."""
    if block.attn2 is None:
        return NO_CROSS if block.norm_type in ("layer_norm", "ada_norm_zero") else None
    return {"layer_norm": PLAIN, "ada_norm_single": CROSS_UNNORMED}.get(block.norm_type)


def _resnet_blocks(denoiser: nn.Module, input: str, output: str) -> list[Block]:
    from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D

    found = []
    for name, module in denoiser.named_modules():
        if not isinstance(module, ResnetBlock2D | ResnetBlockCondNorm2D):
            continue
        if input != output and (module.upsample is not None or module.downsample is not None):
            raise InputFault(
                f"block {name} changes the resolution between {input} and {output}, so one cannot be added to the "
                "other; choose Res_in→Res_in or Res_out→Res_out on this backbone"
            )
        channels = {"Res_in": module.in_channels, "Res_out": module.conv2.out_channels}
        norm = module.norm1 if input == "Res_in" else module.norm2
        groups = gcd(getattr(norm, "num_groups", 32), channels[input])
        found.append(Block(name, module, channels[input], channels[output], groups, RESNET))
    return found
