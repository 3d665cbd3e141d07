"""One JSON text for one value, and its hash: what identities are made of."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from adapters.faults import InputFault


def canonical(value: Any) -> Any:
    """Return `value` with every number that is whole written as an integer, so that 1 and 1.0 are one level.

    Raises
    ------
    InputFault
        If a number is not finite: JSON has no word for it.
    """
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputFault(f"got the number {value}, expected a finite one")
        return int(value) if value.is_integer() else value
    return value


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: keys sorted, no spaces, numbers as `canonical` writes them."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
