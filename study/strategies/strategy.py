"""What a strategy is: a choice among the valid designs of a space, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from study.space import Space


@dataclass(frozen=True)
class Chosen:
    """The designs that a study runs.

    Attributes
    ----------
    designs : list of dict
        In the order in which the space has them.
    told : list of str
        What people should know of the choice, in sentences.
    """

    designs: list[dict[str, Any]]
    told: list[str]


class Strategy(Protocol):
    """Chooses the designs that a study runs."""

    @property
    def seed(self) -> int | None:
        """What decides the valid designs that are drawn from a space too large to go through; None: it needs all."""

    def faults(self, space: Space) -> Iterator[tuple[str, str]]:
        """Yield what keeps it from choosing: the key of the section `strategy` to blame, and a message."""

    def choose(self, space: Space) -> Chosen:
        """Choose among the valid designs of a space for which it has no fault."""
