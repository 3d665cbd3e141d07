"""Export an adapter folder to formats that other programs read; what a format cannot hold is refused.

- ``diffusers``: LoRA and DoRA of a U-Net as ``pipe.load_lora_weights`` reads them.
- ``peft``: LoRA, DoRA and the methods run by peft, as ``PeftModel.from_pretrained`` reads them.
- ``delta``: what a method adds to the denoiser's weights, for every method that is a change of weights.

Any other method, and any other program, is served by ``adapters.load(pipe, path)``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters.designs import method_of
from adapters.faults import InputFault
from adapters.files import load, parts, read_description, read_state
from adapters.insertion import named_weights
from adapters.layers import TEXT_ENCODER

FORMATS = ("diffusers", "peft", "delta")
DIFFUSERS_WEIGHTS, DELTA_WEIGHTS, DELTA_DESCRIPTION = (
    "pytorch_lora_weights.safetensors",
    "delta.safetensors",
    "delta.json",
)
_LOW_RANK = ("lora", "dora")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    files
        Their paths.
    error
        Relative reconstruction error of an approximation: the Frobenius norm of what it misses of the change, over the
        change's. None for an exact export.
    """

    files: tuple[Path, ...]
    error: float | None = None


def export(folder: str | Path, format: str, output: str | Path, pipe: Any, approximate: int | None = None) -> Exported:
    """Write an adapter in another format.

    Parameters
    ----------
    folder
        What `adapters.save` wrote.
    format
        One of ``diffusers``, ``peft``, ``delta``.
    output
        Folder to write to; made if missing.
    pipe
        The pipeline that the adapter was trained on, or its denoiser; it is left as it was.
    approximate
        For ``diffusers``: write the nearest LoRA of this rank of any change of weights, and label it with its error.

    Raises
    ------
    InputFault
        For a format that cannot hold the adapter, or a folder that does not fit the pipeline.
    """
    if format not in FORMATS:
        raise InputFault(f"format {format!r} is unknown; the formats are {', '.join(FORMATS)}")
    design = read_description(folder)["design"]
    if approximate is not None and format != "diffusers":
        raise InputFault(f"an approximation is a LoRA for format diffusers; format {format} was asked for")
    if format == "delta":
        tensors, labels, name = _delta(folder, pipe), {"design": design}, DELTA_WEIGHTS
        return Exported(_write(Path(output), tensors, name, {DELTA_DESCRIPTION: labels}, {}))
    if format == "peft":
        tensors, config = _peft(folder, design, pipe)
        return Exported(_write(Path(output), tensors, "adapter_model.safetensors", {"adapter_config.json": config}, {}))
    denoiser = parts(pipe)[0]
    if type(denoiser).__name__ != "UNet2DConditionModel":
        raise InputFault(
            f"the denoiser is a {type(denoiser).__name__}, and --format diffusers is written for U-Nets only; put the "
            "adapter on the pipeline with adapters.load(pipe, path), or export --format peft or delta"
        )
    if approximate is not None:
        tensors, error = _approximated(_delta(folder, pipe), approximate, design)
        told = {"approximation_of": json.dumps(design), "rank": str(approximate), "relative_error": f"{error:.6g}"}
        return Exported(_write(Path(output), tensors, DIFFUSERS_WEIGHTS, {}, told), error)
    if design["method"] not in _LOW_RANK:
        raise InputFault(
            f"method={design['method']} is no LoRA, which is all that load_lora_weights reads; put it on a pipeline "
            "with adapters.load(pipe, path), or, if it is a change of weights, export --format delta, or ask for the "
            "nearest LoRA with --approximate RANK"
        )
    return Exported(_write(Path(output), _diffusers(folder, design, pipe), DIFFUSERS_WEIGHTS, {}, {}))


def _diffusers(folder: str | Path, design: Mapping[str, Any], pipe: Any) -> dict[str, Tensor]:
    """LoRA with its factor in B, since the format takes a rank for alpha."""
    from adapters.methods.lora import Lora

    method = method_of(design)
    assert isinstance(method, Lora)
    tensors = {}
    for name, value in read_state(pipe, folder).items():
        if ".lora_B." in name:
            value = value * method.scale(value.shape[1])
        named = name if name.startswith(TEXT_ENCODER) else f"unet.{name}"
        tensors[named] = value
    return tensors


def _peft(folder: str | Path, design: Mapping[str, Any], pipe: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    method = method_of(design)
    state = read_state(pipe, folder)
    if not hasattr(method, "peft_config"):
        raise InputFault(
            f"method={design['method']} is none of peft's, so no peft folder can hold it; put it on a pipeline with "
            "adapters.load(pipe, path)"
        )
    if any(name.startswith(TEXT_ENCODER) for name in state):
        raise InputFault("a peft folder holds one model's adapter; this one tunes the text encoder too: use diffusers")
    return {f"base_model.model.{name}": value for name, value in state.items()}, method.peft_config(state)


def _delta(folder: str | Path, pipe: Any) -> dict[str, Tensor]:
    """What the adapter adds to each weight of the pipeline's denoiser."""
    insertion = load(pipe, folder)
    try:
        merged = insertion.merged()
    finally:
        insertion.remove()
    originals = dict(named_weights(*parts(pipe)))
    return {name: (value - originals[name]).cpu() for name, value in merged.items()}


def _approximated(delta: Mapping[str, Tensor], rank: int, design: Mapping[str, Any]) -> tuple[dict[str, Tensor], float]:
    """The nearest matrices of a rank, by their singular values (Eckart and Young)."""
    if rank < 1:
        raise InputFault(f"got rank {rank}; a LoRA has a rank of at least 1")
    vectors = [name for name, value in delta.items() if value.ndim < 2 and bool(value.any())]
    if vectors:
        raise InputFault(
            f"method={design['method']} changes {len(vectors)} vectors such as {vectors[0]}, which no LoRA holds; "
            "export --format delta, or put it on a pipeline with adapters.load(pipe, path)"
        )
    tensors, missed, whole = {}, 0.0, 0.0
    for name, value in delta.items():
        left, sizes, right = torch.linalg.svd(value.flatten(1).double(), full_matrices=False)
        kept = min(rank, len(sizes))
        missed += float(sizes[kept:].square().sum())
        whole += float(sizes.square().sum())
        root = sizes[:kept].sqrt()
        layer = name.removesuffix(".weight")
        layer = layer if layer.startswith(TEXT_ENCODER) else f"unet.{layer}"
        down, up = root[:, None] * right[:kept], left[:, :kept] * root
        tensors[f"{layer}.lora_A.weight"] = down.reshape(kept, *value.shape[1:]).to(value.dtype)
        tensors[f"{layer}.lora_B.weight"] = up.reshape(*up.shape, *[1] * (value.ndim - 2)).to(value.dtype)
    return tensors, (missed / whole) ** 0.5 if whole else 0.0


def _write(
    output: Path, tensors: Mapping[str, Tensor], name: str, texts: Mapping[str, Any], told: dict[str, str]
) -> tuple[Path, ...]:
    """Write weights and descriptions, each under a temporary name first."""
    output.mkdir(parents=True, exist_ok=True)
    part = output / f"{name}.part"
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, {"format": "pt", **told})
    os.replace(part, output / name)
    for file, content in texts.items():
        part = output / f"{file}.part"
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(part, output / file)
    return tuple(output / file for file in (name, *texts))
