"""What several commands tell on standard error: warnings, one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from adapters.faults import printable


def warn(message: object) -> None:
    """Print a warning."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print Python's warnings without the place in the code that they come from."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        warn(message)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
