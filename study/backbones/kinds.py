"""The kinds of pipelines that serve as backbones, and what each is made of. Imports neither torch nor diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapters.faults import InputFault

PIPELINES = {
    "StableDiffusionPipeline": "unet",
    "PixArtAlphaPipeline": "transformer",
    "PixArtSigmaPipeline": "transformer",
}
"""Classes of diffusers' pipelines, and the component of each that is its denoiser."""
DENOISERS = tuple(dict.fromkeys(PIPELINES.values()))
LACKING = {"unet": {}, "transformer": dict.fromkeys(("Res_in", "Res_out"), "ResNet blocks")}
"""Positions that no denoiser of a kind has, and what it lacks."""

_SHARED = {"vae": "diffusion_pytorch_model", "text_encoder": "model", "tokenizer": None, "scheduler": None}


def components(pipeline: str) -> dict[str, str | None]:
    """Return the components of a class of pipelines that are loaded, and what the file of their weights begins with."""
    return {PIPELINES[pipeline]: "diffusion_pytorch_model", **_SHARED}


def pipeline_of(folder: Path) -> str:
    """Return the class of the pipeline in a folder.

    Raises
    ------
    InputFault
        When ``model_index.json`` is missing or broken, or names a class that is no key of `PIPELINES`.
    """
    if not (folder / "model_index.json").is_file():
        raise InputFault("model_index.json is missing")
    named = read_json(folder / "model_index.json").get("_class_name")
    if named not in PIPELINES:
        raise InputFault(f"its class is {named!r}, expected one of {', '.join(PIPELINES)}")
    return str(named)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    InputFault
        When it holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFault(f"{path.name} is no JSON text ({error})") from error
    if not isinstance(content, dict):
        raise InputFault(f"{path.name} holds {type(content).__name__}, expected an object")
    return content
