"""Adapter folders: ``adapter.json`` (format, design, metadata) and ``adapter.safetensors`` (weights).

A folder may come from anywhere, so nothing in it is trusted: the design is validated as any other, and names, shapes
and types of the weights are compared with what the design needs before anything is allocated or changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.designs import edits_of, method_of, normalise
from adapters.faults import InputFault
from adapters.insertion import Insertion, check_shapes, insert
from adapters.reading import read_json

FORMAT = 1
DESCRIPTION, WEIGHTS = "adapter.json", "adapter.safetensors"
_KEYS = {"format", "design", "metadata"}
_MAX_BYTES = 1_000_000  # of adapter.json: a design and a few lines of metadata
_FLOATS = {"F64", "F32", "F16", "BF16"}


def save(
    folder: str | Path, design: Mapping[str, Any], state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write an adapter folder; the description last, so that a folder with one is whole.

    Parameters
    ----------
    folder
        Made if missing.
    design
        The design that was trained.
    state
        ``insertion.state(slot)``.
    metadata
        Anything JSON can hold: backbone, task, scores.

    Raises
    ------
    InputFault
        For a wrong design, or metadata that JSON cannot hold.
    """
    try:
        text = json.dumps(
            {"format": FORMAT, "design": normalise(design), "metadata": dict(metadata)}, indent=2, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, InputFault):
            raise
        raise InputFault(f"the metadata of an adapter must be JSON: {error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, part)
    os.replace(part, folder / WEIGHTS)
    part = folder / f"{DESCRIPTION}.part"
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, folder / DESCRIPTION)


def load(pipe: Any, folder: str | Path) -> Insertion:
    """Put a saved adapter on a pipeline's denoiser.

    Parameters
    ----------
    pipe
        A diffusers pipeline with a ``unet`` or ``transformer``, or the denoiser itself.
    folder
        What `save` wrote.

    Returns
    -------
    Insertion
        Of one slot; ``remove()`` takes the adapter off again.

    Raises
    ------
    InputFault
        When the folder is missing, malformed, or of another backbone; the denoiser is as before then.
    """
    denoiser, text_encoder = parts(pipe)
    state = read_state(pipe, folder)
    insertion = insert(denoiser, read_description(folder)["design"], text_encoder=text_encoder)
    insertion.load(0, state)
    return insertion


def read_state(pipe: Any, folder: str | Path) -> dict[str, Tensor]:
    """Read the weights of an adapter folder and check them against what its design needs on a pipeline.

    Raises
    ------
    InputFault
        As `load`; the pipeline is not changed.
    """
    denoiser, text_encoder = parts(pipe)
    edits = edits_of(method_of(read_description(folder)["design"]), denoiser, text_encoder)
    expected = {name: shape for edit in edits for name, shape in edit.shapes().items()}
    return read_weights(Path(folder) / WEIGHTS, expected)


def read_description(folder: str | Path) -> dict[str, Any]:
    """Read and validate ``adapter.json``.

    Returns
    -------
    dict
        ``format``, ``design`` (canonical) and ``metadata``.

    Raises
    ------
    InputFault
        When it is missing or malformed.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise InputFault(f"{path} is missing; an adapter folder has {DESCRIPTION} and {WEIGHTS}")
    try:
        content = read_json(path, _MAX_BYTES)
    except InputFault:
        raise
    except (ValueError, OSError) as error:
        raise InputFault(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.keys() != _KEYS:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise InputFault(f"{path} must be an object of {sorted(_KEYS)}; got {got}")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise InputFault(f"{path} has format {content['format']!r}; this version reads format {FORMAT}")
    if not isinstance(content["metadata"], dict):
        raise InputFault(f"{path}: metadata must be an object; got {type(content['metadata']).__name__}")
    try:
        content["design"] = normalise(content["design"])
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}") from fault
    return content


def read_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the weights in a safetensors file, of the names and shapes that are expected.

    Raises
    ------
    InputFault
        For anything else, weights that are not floating-point numbers, or numbers that are not finite.
    """
    if not path.is_file():
        raise InputFault(f"{path} is missing; an adapter folder has {DESCRIPTION} and {WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (no mapping)
            check_shapes(expected, {name: tuple(part.get_shape()) for name, part in slices.items()})
            for name, part in slices.items():
                if part.get_dtype() not in _FLOATS:
                    raise InputFault(f"{path}: {name} has type {part.get_dtype()}; weights are {sorted(_FLOATS)}")
            state = {name: weights.get_tensor(name) for name in expected}
    except (SafetensorError, OSError) as error:
        raise InputFault(f"{path} is no safetensors file: {error}") from error
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputFault(f"{path}: {broken[0]} holds numbers that are not finite; this adapter diverged or is damaged")
    return state


def parts(pipe: Any) -> tuple[nn.Module, nn.Module | None]:
    """Give the denoiser, and the text encoder where there is one and no more."""
    if isinstance(pipe, nn.Module):
        return pipe, None
    several = getattr(pipe, "text_encoder_2", None) is not None
    text_encoder = None if several else getattr(pipe, "text_encoder", None)
    for name in ("unet", "transformer"):
        part = getattr(pipe, name, None)
        if isinstance(part, nn.Module):
            return part, text_encoder if isinstance(text_encoder, nn.Module) else None
    raise InputFault(f"{type(pipe).__name__} has no unet or transformer; give a diffusers pipeline or its denoiser")
