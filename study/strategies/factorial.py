"""The strategy `factorial`: every valid design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.strategies.strategy import Chosen

if TYPE_CHECKING:
    from study.space import Space


@dataclass(frozen=True)
class Factorial:
    """Every valid design."""

    seed: None = None

    def faults(self, space: Space) -> Iterator[tuple[str, str]]:
        """Yield nothing: a space that has designs can always be run."""
        yield from ()

    def choose(self, space: Space) -> Chosen:
        """Choose all."""
        return Chosen(space.valid, [])
