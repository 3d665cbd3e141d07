"""Parameter-efficient adapters for diffusion models: what is trained.

Names are looked up on first use, so that designs can be checked without importing torch.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "Count": "budget",
    "InputFault": "faults",
    "Insertion": "insertion",
    "PAIRS": "positions",
    "READS": "positions",
    "WRITES": "positions",
    "check_pair": "positions",
    "component": "positions",
    "count": "designs",
    "insert": "insertion",
    "load": "files",
    "normalise": "designs",
    "save": "files",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
