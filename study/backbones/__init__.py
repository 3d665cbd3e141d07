"""Backbones: frozen pretrained pipelines, by name. Names are offered lazily, so that importing this costs nothing."""

from importlib import import_module
from typing import Any

_WHERE = {
    "Backbone": "study.backbones.loading",
    "load": "study.backbones.loading",
    "Source": "study.backbones.names",
    "resolve": "study.backbones.names",
    "resolve_scorer": "study.backbones.names",
    "content_hash": "study.backbones.names",
    "lacking": "study.backbones.names",
    "fetch": "study.backbones.names",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
