"""The command `params`: count the trainable parameters of a design on a backbone, without loading weights."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.designs import count, normalise
from adapters.faults import InputFault
from study.backbones.kinds import DENOISERS
from study.backbones.names import Source, resolve

if TYPE_CHECKING:
    from torch import nn


def command(
    backbone: Annotated[str, typer.Option(help="arch:sd15, a built-in name, a folder, or a downloaded hub model.")],
    design: Annotated[
        str, typer.Option(help="For instance method=adapter,input=CA_out,output=FFN_in,width=256 (or budget=3%).")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Count the trainable parameters of a design on a backbone.

    Only configurations are read: nothing is downloaded, and no weights are loaded.
    """
    checked = normalise(parse_design(design))
    source = resolve(backbone)
    text_encoder = _text_encoder(source) if checked.get("text_encoder") else None
    result = count(_denoiser(source), checked, text_encoder)
    if json:
        document = {
            "trainable": result.trainable,
            "backbone": result.backbone,
            "ratio": result.ratio,
            "design": checked,
            "widths": list(result.widths),
            "resolved": dict(result.resolved),
            "budget_asked": result.budget_asked,
            "budget_met": result.budget_met,
        }
        print(json_format.dumps(document))
        return
    print(f"{result.trainable:,} of {result.backbone:,} parameters ({result.ratio:.3%})")
    if result.widths:
        low, high = min(result.widths), max(result.widths)
        print(f"{len(result.widths)} blocks, width {low}" + (f" to {high}" if high > low else ""))
    if result.resolved:
        print(", ".join(f"{key} {size}" for key, size in result.resolved.items()))
    if not result.budget_met:
        print(f"the budget of {result.budget_asked:,} is missed by more than 3 %, and no size comes closer")


def parse_design(text: str) -> dict[str, str]:
    """Read a design written as ``key=value,key=value``; values stay text, which `adapters.normalise` understands.

    Raises
    ------
    InputFault
        For a part without ``=`` or a key given twice.
    """
    design: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputFault(f"design part {part.strip()!r} is not key=value, as in method=adapter,input=CA_out,…")
        if key in design:
            raise InputFault(f"design key {key!r} is given twice, as {design[key]!r} and {value!r}; give it once")
        design[key] = value
    return design


def _denoiser(source: Source) -> nn.Module:
    from study.backbones.architectures import architecture, denoiser_of

    if source.kind == "arch":
        return architecture(source.id or "")
    return denoiser_of(source.path or _downloaded(source))


def _text_encoder(source: Source) -> nn.Module | None:
    from study.backbones.architectures import text_architecture, text_encoder_of

    if source.kind == "arch":
        found = text_architecture(source.id or "")
        if found is None:
            raise InputFault(f"{source.name} has no text encoder that can be tuned here; leave out text_encoder=true")
        return found
    return text_encoder_of(source.path or _downloaded(source))


def _downloaded(source: Source) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = [
            try_to_load_from_cache(source.id or "", f"{name}/config.json", revision=source.revision)
            for name in DENOISERS
        ]
    except HFValidationError as error:
        raise InputFault(f"backbone {source.name} is no valid hub id: {error}") from error
    found = next((path for path in cached if isinstance(path, str)), None)
    if found is None:
        raise InputFault(
            f"backbone {source.name}: no folder, and not downloaded to this machine; `params` never downloads. "
            "Give a folder, a built-in name or arch:…"
        )
    return Path(found).parent.parent
