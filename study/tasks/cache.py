"""Latents and features that workers and resumed runs share, kept on disk."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
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
        made = _sealed(make())

        def fill(part: Path) -> None:
            part.write_bytes(made)

        write_file(file, fill)
    latents = _read(file)
    assert latents is not None
    return latents


def _read(file: Path) -> Tensor | None:
    """Read a cached tensor; a file that is cut off, damaged or something else counts as not there.

    Read whole, not mapped into memory: on a network file system a mapped file that is replaced is lost.
    """
    try:
        if file.is_symlink():
            return None
        data = file.read_bytes()
        latents = load(data)["latents"]
    except (SafetensorError, KeyError, OSError, ValueError):
        return None
    return latents if data == _sealed(latents) else None


def _sealed(latents: Tensor) -> bytes:
    """Return the bytes of a file with a tensor and the digest of its numbers, so that any damage shows."""
    latents = latents.cpu().contiguous()
    digest = hashlib.sha256(save({"latents": latents})).hexdigest()
    return save({"latents": latents}, metadata={"sha256": digest})
