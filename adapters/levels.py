"""Values of design factors: parse them, check them, and give equal values one spelling. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from adapters.faults import InputFault


def level(key: str, value: Any, allowed: Sequence[str]) -> str:
    """Accept one of the listed names.

    Raises
    ------
    InputFault
        For any other value; lists the names.
    """
    if isinstance(value, str) and value in allowed:
        return value
    raise InputFault(f"{key}={value!r} is no level of {key}; allowed are {', '.join(allowed)}")


def _decimal(value: Any) -> Decimal | None:
    """Read a number exactly as it is written, or give None; a magnitude of 1e18 and more is no level of anything."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and number.adjusted() < 18 else None


def positive_number(key: str, value: Any) -> int | float:
    """Accept a number above zero; a whole one comes back as int, so that 1 and 1.0 are one level.

    Raises
    ------
    InputFault
        For anything else.
    """
    number = _decimal(value)
    if number is None or float(number) <= 0:
        raise InputFault(f"{key}={value!r} is no number above zero and below 1e18, such as 0.5 or 2")
    return int(number) if number == number.to_integral_value() else float(number)


def positive_integer(key: str, value: Any) -> int:
    """Accept a whole number of at least 1.

    Raises
    ------
    InputFault
        For anything else.
    """
    number = _decimal(value)
    if number is None or number < 1 or number != number.to_integral_value():
        raise InputFault(f"{key}={value!r} is no whole number of at least 1 and below 1e18")
    return int(number)


def boolean(key: str, value: Any) -> bool:
    """Accept true or false, as such or as text.

    Raises
    ------
    InputFault
        For anything else.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise InputFault(f"{key}={value!r} is neither true nor false")


def non_negative_number(key: str, value: Any) -> int | float:
    """Accept zero or a number above it; a whole one comes back as int.

    Raises
    ------
    InputFault
        For anything else.
    """
    number = _decimal(value)
    if number is not None and number == 0:
        return 0
    return positive_number(key, value)


def budget(value: Any) -> int | float:
    """Accept a budget: a share of the denoiser's parameters as float, or a number of parameters as int.

    ``"0.75%"`` and ``0.0075`` are the share 0.0075; 6406336 is a number of parameters.

    Raises
    ------
    InputFault
        For anything else.
    """
    text = value.strip() if isinstance(value, str) else value
    percent = isinstance(text, str) and text.endswith("%")
    number = _decimal(text[:-1] if percent else text)
    if number is not None and percent and 0 < number <= 100:
        return float(number / 100)
    if number is not None and not percent:
        if 0 < number < 1 and float(number) > 0:
            return float(number)
        if number >= 2 and number == number.to_integral_value():
            return int(number)
    raise InputFault(
        f"budget={value!r} is neither a share of the denoiser's parameters (such as '3%' or 0.03) "
        "nor a number of parameters of at least 2 (such as 1500000)"
    )
