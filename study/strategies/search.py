"""What strategies that plan as they go have in common: what they are asked, and what they have planned so far.

The rows of the store decide what comes next, a generation at a time: a generation is planned from the rows of all
earlier ones once these are final, in an order of its own. So the plan is a function of the study file and the rows,
whoever made the rows, however many at once, and however often the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from study.pruning import Past, Pruning
from study.strategies.strategy import Chosen

if TYPE_CHECKING:
    from study.space import Space

FIXED, ADAPTIVE = "fixed", "adaptive"
"""How a trial came into its plan: before any score was known, or because of scores. What lacks the second kind lacks it
by outcome, and no analysis of variance may take such rows as if it did not."""

Cell = tuple[int, int]
"""The places of a design and a replicate; a trial of the study."""


@dataclass(frozen=True)
class Problem:
    """What is to be searched, and what is known.

    Attributes
    ----------
    designs : sequence of dict
        The valid designs, in an order that the study file alone decides.
    replicates : sequence of (str, int)
        Task and seed, in the order in which they are run.
    varying : sequence of str
        The keys that vary among the designs.
    factors, pair
        What tells the designs apart in an analysis, as `study.report_rows.terms` has it.
    primary : str
        The score that decides.
    better : mapping of str to bool
        Score → whether higher is better.
    outcome : callable
        The scores of a cell whose row is final, all NaN if it diverged; None if there is no final row.
    past : callable
        What became of a cell that may be pruned so; None as long as there is neither a final row nor one of a trial
        that was pruned by the same evidence.
    memory : dict
        What a strategy keeps so that it need not find it anew when there are more rows; nothing is lost without it.
    """

    designs: Sequence[dict[str, Any]]
    replicates: Sequence[tuple[str, int]]
    varying: Sequence[str]
    factors: Sequence[str]
    pair: tuple[str, str] | None
    primary: str
    better: Mapping[str, bool]
    outcome: Callable[[Cell], Mapping[str, float] | None]
    past: Callable[[Cell, Pruning], Past | None] = lambda cell, pruning: None
    memory: dict[str, Any] = field(default_factory=dict)

    def finished(self, cells: Sequence[Cell]) -> bool:
        """Say whether every one of some cells has a final row."""
        return all(self.outcome(cell) is not None for cell in cells)


@dataclass(frozen=True)
class Growth:
    """What a strategy has planned so far.

    Attributes
    ----------
    generations : sequence of sequence of (int, int)
        The cells of each, none of them twice. Where it has not ended, the last one has cells without a final row.
    fixed : int
        How many of the generations were planned before any score was known.
    ended : bool
        Nothing follows, whatever the rows of the last generation say.
    told : str
        What was found, or what it waits for; a sentence.
    pruning : mapping of cell to Pruning
        How cells may be pruned, those that may be.
    pruned : collection of cells
        Those that were.
    skipped : int
        How many cells are not planned because another of their design was pruned.
    """

    generations: Sequence[Sequence[Cell]]
    fixed: int
    ended: bool
    told: str
    pruning: Mapping[Cell, Pruning] = field(default_factory=dict)
    pruned: Collection[Cell] = ()
    skipped: int = 0

    @property
    def cells(self) -> int:
        """How many cells are planned."""
        return sum(map(len, self.generations))


class AmongAll:
    """What a strategy is to a space, if it may run every valid design."""

    @property
    def seed(self) -> None:
        """None: it needs all valid designs."""
        return None

    def faults(self, space: Space) -> Iterator[tuple[str, str]]:
        """Yield nothing: what may be wrong depends on the replicates, see `unfit`."""
        yield from ()

    def choose(self, space: Space) -> Chosen:
        """Return all valid designs."""
        return Chosen(space.valid, [])


class Searching(Protocol):
    """A strategy that plans as it goes."""

    @property
    def trials(self) -> int:
        """Its budget: trials of the study's designs, at most."""

    def unfit(self, designs: int, tasks: int, seeds: int) -> tuple[str, str] | None:
        """Return what keeps it from running so many designs on tasks with seeds: the key to blame, and a message."""

    def describe(self, designs: int, replicates: int) -> str:
        """Return what it will do, in a sentence."""

    def grow(self, problem: Problem) -> Growth:
        """Return all that is planned, as the outcomes that there are say."""


def searches(strategy: object) -> TypeGuard[Searching]:
    """Say whether a strategy plans as it goes."""
    return hasattr(strategy, "grow")
