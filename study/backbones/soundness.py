"""What is wrong with a model folder, as far as its files tell without being loaded. Never imports torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from adapters.faults import InputFault
from study.backbones.kinds import (
    AUTOENCODER,
    KINDS,
    TEXT_ENCODERS,
    TOKENIZERS,
    Kind,
    components,
    pipeline_of,
    read_json,
)

LIBRARIES = {"diffusers", "transformers", "stable_diffusion"}
ADAPTER = "adapter_config.json"
TWINS = ("fp16", "bf16", "non_ema")
"""Variants of weights, which stand before the last dot of a file's name; they are neither loaded nor hashed."""
TO_SAVE_ANEW = (
    "load it with diffusers' from_pretrained(…, variant=…), save it with save_pretrained and name that folder"
)


def is_twin(path: Path) -> bool:
    """Say whether a file belongs to a variant: model.fp16.safetensors, or a shard, model.fp16-00001-of-00002.…"""
    return path.stem.rpartition(".")[2].partition("-")[0] in TWINS


def pipeline_faults(folder: Path) -> list[str]:
    """List what is wrong with the folder of a diffusers pipeline."""
    try:
        kind = KINDS[pipeline_of(folder)]
    except InputFault as fault:
        return [str(fault)]
    index = read_json(folder / "model_index.json")
    # A library named here is imported by diffusers, so a stranger's folder may name only known ones.
    faults = [
        f"{key} is of the library {entry[0]!r}, expected one of {', '.join(sorted(LIBRARIES))}"
        for key, entry in index.items()
        if isinstance(entry, list) and entry and entry[0] not in [*LIBRARIES, None]
    ]
    for component, weights in components(folder).items():
        entry = index.get(component)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry)):
            faults.append(f"model_index.json names {entry!r} as {component}, expected [library, class]")
        elif entry[0] not in ("diffusers", "transformers"):
            faults.append(f"{component} is of the library {entry[0]}, expected diffusers or transformers")
        elif expected := _other_class(kind, component, entry[1]):
            faults.append(f"{component} is of the class {entry[1]}, expected {expected}")
        elif not (folder / component).is_dir():
            less = " (to do without it, name it [null, null] in model_index.json)" if component in kind.optional else ""
            faults.append(f"{component}/ is missing{less}")
        elif weights is not None:
            faults += weight_faults(folder / component, weights)
    return faults


def _other_class(kind: Kind, component: str, name: str) -> str:
    """Say of what class a component should be, if it is of another."""
    if component == "scheduler":
        return "" if re.fullmatch(r"[A-Z][A-Za-z0-9]*Scheduler", name) else "a scheduler of diffusers"
    classes = {kind.denoiser: kind.denoisers, "vae": (AUTOENCODER,)}.get(component)
    if classes is None:
        classes = TOKENIZERS if component.startswith("tokenizer") else TEXT_ENCODERS
    return "" if name in classes else " or ".join(classes)


def weight_faults(folder: Path, stem: str) -> list[str]:
    """List what is wrong with the weights of one model: a file ``<stem>.safetensors``, or its shards."""
    if (folder / ADAPTER).exists():
        return [f"{folder.name}/{ADAPTER}: transformers would put that adapter on the model; merge or remove it"]
    if (folder / f"{stem}.safetensors").is_file():
        return _damage(folder / f"{stem}.safetensors")
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        try:
            shards = _shards(read_json(index).get("weight_map"))
        except InputFault as fault:
            return [f"{folder.name}/{index.name}: {fault}"]
        missing = [f"{folder.name}/{shard} is missing" for shard in shards if not (folder / shard).is_file()]
        return missing or [fault for shard in shards for fault in _damage(folder / shard)]
    if twins := sorted(path.name for twin in TWINS for path in folder.glob(f"{stem}.{twin}*.safetensors")):
        return [f"{folder.name}/{stem}.safetensors is missing, there is only {twins[0]}: {TO_SAVE_ANEW}"]
    unsafe = [*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt")]
    why = " (pickled weights are not read: convert them to safetensors)" if unsafe else ""
    return [f"{folder.name}/{stem}.safetensors is missing{why}"]


def _shards(weight_map: Any) -> list[str]:
    """Give the files of a model's tensors, which are in the folder of their index."""
    files = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not files or not all(isinstance(file, str) and Path(file).name == file for file in files):
        raise InputFault("weight_map is to name a file of this folder for each tensor")
    return sorted(set(files))


def _damage(path: Path) -> list[str]:
    """Say whether a file is cut off or no safetensors file; its header is read, and no tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return []
    except (SafetensorError, OSError) as error:
        return [f"{path.parent.name}/{path.name} is damaged or was not copied to its end ({error})"]
