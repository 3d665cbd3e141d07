"""With what results were made: versions, commit, device."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from study.backbones.names import Source, commit_of

PACKAGES = ("adapter-study", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")


@cache
def provenance(device: torch.device, models: tuple[Source, ...] = ()) -> dict[str, Any]:
    """Return the columns of a row that say with what it was made: versions, and of the hub's models their commits."""
    commits = {source.id: commit for source in models if (commit := commit_of(source))}
    return {
        "versions_json": json.dumps({**_versions(), **commits}, sort_keys=True),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
    }


def made_by(device: torch.device) -> dict[str, str]:
    """Return what of `provenance` all of a row's training must have in common: versions and commit."""
    found = provenance(device)
    return {name: found[name] for name in ("versions_json", "commit")}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str:
    """The commit of the checkout this runs from; empty when it is installed without one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()
