"""Connected components of two crossed factors: which levels can be compared through the cells that exist.

Levels a and b of one factor are connected when a chain of filled cells leads from one to the other. Only differences
within a component are estimable in an additive model of the two factors (Searle 1987, Linear Models for Unbalanced
Data, §5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analysis.sample import Sample, pairs_with_empty_cells

_POSITIONS = {
    "transformer": "the transformer positions",
    "context": "the text context",
    "resnet": "the ResNet positions",
}


@dataclass(frozen=True)
class Component:
    """Levels of two factors that filled cells connect."""

    name: str
    levels: dict[str, tuple[str, ...]]
    cells: int


@dataclass(frozen=True)
class Connection:
    """How the filled cells of two factors hang together.

    Attributes
    ----------
    factors : (str, str)
    components : tuple of Component
        One when every level can be reached from every other.
    of_row : int array (n,)
        Component of each row of the sample.
    """

    factors: tuple[str, str]
    components: tuple[Component, ...]
    of_row: np.ndarray

    @property
    def split(self) -> bool:
        """Whether the cells fall into several components."""
        return len(self.components) > 1

    def sentence(self) -> str:
        """The components in words."""
        a, b = self.factors
        if not self.split:
            return (
                f"Some combinations of {a} and {b} do not occur, but all their levels are connected by those that do."
            )
        parts = "; ".join(_describe(c, a, b) for c in self.components)
        return (
            f"{a} and {b} fall into {len(self.components)} components that share no level: {parts}. "
            f"Levels of different components cannot be compared through {a} and {b}, only as whole combinations."
        )

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {"factors": list(self.factors), "count": len(self.components),
                "components": [asdict(c) for c in self.components], "words": self.sentence()}  # fmt: skip


def _describe(c: Component, a: str, b: str) -> str:
    one = "combination" if c.cells == 1 else "combinations"
    return f"{c.name} ({a} {', '.join(c.levels[a])}; {b} {', '.join(c.levels[b])}; {c.cells} {one})"


def _name(levels: dict[str, tuple[str, ...]], number: int) -> str:
    """The family of adapter positions when all levels are positions of one, else a number."""
    from adapters.positions import READS, WRITES, component

    names = {level for group in levels.values() for level in group}
    if names <= {*READS, *WRITES}:
        families = {component(level) for level in names}
        if len(families) == 1:
            return _POSITIONS[families.pop()]
    return f"group {number}"


def connect(sample: Sample, a: str, b: str) -> Connection:
    """Components of the filled cells of columns ``a`` and ``b``."""
    cells = sample.cells((a, b))
    n_a, n_b = len(sample.levels[a]), len(sample.levels[b])
    left, right = cells.levels[:, 0], cells.levels[:, 1]
    graph = coo_array((np.ones(cells.count), (left, right + n_a)), shape=(n_a + n_b, n_a + n_b))
    count, of_level = connected_components(graph, directed=False)
    of_cell = of_level[left]
    order = sorted(range(count), key=lambda k: (-int((of_cell == k).sum()), int(left[of_cell == k].min())))
    rank = np.empty(count, dtype=int)
    rank[order] = np.arange(count)
    found = []
    for number, k in enumerate(order, start=1):
        levels = {
            a: tuple(sample.levels[a][i] for i in range(n_a) if of_level[i] == k),
            b: tuple(sample.levels[b][j] for j in range(n_b) if of_level[n_a + j] == k),
        }
        found.append(Component(_name(levels, number), levels, int((of_cell == k).sum())))
    return Connection((a, b), tuple(found), rank[of_cell][cells.codes])


def connections(sample: Sample, columns: Sequence[str]) -> list[Connection]:
    """The connection of every pair of columns that has an empty cell; pairs without one are fully crossed."""
    return [connect(sample, a, b) for a, b in pairs_with_empty_cells(sample, columns)]
