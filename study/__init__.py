"""Studies of adapter designs: declare, run, store, report. Names are looked up on first use."""

from importlib import import_module
from typing import Any

_NAMES = {"InputFault": "adapters.faults", "Protocol": "study.config", "Study": "study.study", "Store": "study.store"}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
