"""Latents and features that workers and resumed runs share, kept on disk."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from study.atomic import write_file


def cached(folder: Path, name: str, key: list[Any], make: Callable[[], Tensor]) -> Tensor:
    """Read a tensor from a file that is named by what it depends on; make and write it if it is not there.

    Parameters
    ----------
    name : what it is.
    key : all that it depends on, as JSON values.
    """
    file = folder / f"{name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"
    if not file.is_file() or _read(file) is None:
        made = make().cpu().contiguous()
        write_file(file, lambda part: save_file({"latents": made}, part))
    latents = _read(file)
    assert latents is not None
    return latents


def _read(file: Path) -> Tensor | None:
    """Read a cached tensor; a file that is cut off or is something else counts as not there.

    Read whole, not mapped into memory: on a network file system a mapped file that is replaced is lost.
    """
    try:
        return load(file.read_bytes())["latents"]
    except (SafetensorError, KeyError):
        return None
