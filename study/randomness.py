"""Random streams keyed by what they are for.

A stream is a function of (seed, task, purpose) and of nothing else: not of a design, a trial, a slot or a pack. So all
designs of one task and seed see the same data order, noise, timesteps and start latents, and are compared in pairs.
Everything is drawn on the CPU in float32, so that every device sees the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, task: str, purpose: str) -> int:
    """Derive the stream's seed: the first 63 bits of SHA-256 of the JSON of the key.

    Parameters
    ----------
    seed : the trial's seed; 0 for what all seeds of a task share.
    task : the task's content hash, so that a task's name or folder does not matter.
    purpose : what is drawn, for instance "noise".
    """
    digest = hashlib.sha256(json.dumps([seed, task, purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, task: str, purpose: str) -> torch.Generator:
    """Open a stream: a CPU generator seeded with `stream_seed(seed, task, purpose)`."""
    import torch

    return torch.Generator("cpu").manual_seed(stream_seed(seed, task, purpose))
