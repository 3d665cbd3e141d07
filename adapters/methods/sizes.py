"""What methods that have either a size or a budget share: exactly one of them is given, and the design says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters import levels
from adapters.faults import InputFault


def size_or_budget(design: Mapping[str, Any], key: str) -> tuple[int | None, int | float | None]:
    """Read a size such as ``rank``, or a budget, whichever is given.

    Returns
    -------
    (size or None, budget or None)

    Raises
    ------
    InputFault
        When both or neither are given, or the one given is wrong.
    """
    size, budget = design.get(key), design.get("budget")
    if (size is None) == (budget is None):
        problem = f"neither {key} nor budget" if size is None else f"both {key} and budget"
        raise InputFault(
            f"method={design['method']} has {problem}; give one: {key}=4, or budget=3% of the denoiser's parameters"
        )
    if size is None:
        return None, levels.budget(budget)
    return levels.positive_integer(key, size), None
