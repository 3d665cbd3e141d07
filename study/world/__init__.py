"""The picture world: captioned drawings from a seed, with the truth about what was drawn."""

from importlib import import_module
from typing import Any

_OFFERED = {
    "SUBJECTS": "study.world.subjects", "Subject": "study.world.subjects",
    "Scene": "study.world.scene", "Picture": "study.world.scene", "draw": "study.world.scene",
    "sample_scene": "study.world.scene", "caption": "study.world.captions",
}
__all__ = sorted(_OFFERED)


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_OFFERED[name]), name)
