"""Tasks: what is learned and how it is scored. Names are offered lazily, so that importing this costs nothing."""

from importlib import import_module
from typing import Any

_WHERE = {
    "TaskSpec": "study.tasks.specs",
    "resolve_task": "study.tasks.specs",
    "Task": "study.tasks.task",
    "prepare": "study.tasks.task",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
