"""The space a study runs over: factors, their levels, what is nested or forbidden, and the designs that remain.

Knows neither tasks nor seeds, and imports no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapters.designs import normalise
from adapters.faults import InputFault
from adapters.methods.adapter import ACTIVATIONS, INITS
from adapters.positions import PAIRS, READS, WRITES, check_pair
from study.canonical import canonical, canonical_json

Level = str | int | float | bool
Design = dict[str, Any]

REFERENCE: Design = {"method": "none"}
"""The design of the untuned backbone, with which a study is compared."""

ALL: dict[str, tuple[str, ...]] = {"input": READS, "output": WRITES, "activation": ACTIVATIONS, "init": INITS}
"""What `all` stands for; other factors have no finite list of levels."""


def text(value: Any) -> str:
    """Return a level as the store's columns have it: 1.0 is "1", a name is itself."""
    return value if isinstance(value, str) else canonical_json(value)


def factor_texts(design: Design) -> dict[str, str]:
    """Return every key of a design as text, as the columns of a row."""
    return {key: text(value) for key, value in design.items()}


@dataclass(frozen=True)
class Factor:
    """A column of the design and the levels it takes; `when` names a factor and those of its levels it exists under."""

    name: str
    levels: tuple[Level, ...]
    when: tuple[str, tuple[Level, ...]] | None = None

    def exists_in(self, cell: Design) -> bool:
        """Say whether the cell has this factor."""
        if self.when is None:
            return True
        above, levels = self.when
        return above in cell and text(cell[above]) in map(text, levels)


@dataclass(frozen=True)
class LevelFault:
    """A level that no method takes; `name` is None when no single key is to blame."""

    name: str | None
    level: Any
    message: str


@dataclass
class _Cells:
    designs: list[Design] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    faults: list[LevelFault] = field(default_factory=list)


@dataclass(frozen=True)
class Space:
    """The crossing of factors, less the forbidden cells.

    Attributes
    ----------
    factors : tuple of Factor
        Crossed and nested ones; a nested factor stands after the one it is nested in.
    fixed : dict
        Keys that every design has, with their one level.
    forbid : tuple of dict
        Cells that match every key of one of these (any of its levels) are left out.
    """

    factors: tuple[Factor, ...]
    fixed: dict[str, Level]
    forbid: tuple[dict[str, tuple[Level, ...]], ...] = ()

    @property
    def designs(self) -> list[Design]:
        """The valid designs in canonical form, each once, in the order of the factors' levels."""
        return self._cells.designs

    @property
    def left_out(self) -> dict[str, int]:
        """How many cells were left out, by reason."""
        return dict(self._cells.left_out)

    @property
    def faults(self) -> list[LevelFault]:
        """Levels and cells that are wrong, each once; cells left out on purpose are none."""
        return self._cells.faults

    @property
    def varying(self) -> list[str]:
        """Names of the factors that take at least two levels among the designs, in the order declared."""
        names = dict.fromkeys(factor.name for factor in self.factors)
        return [name for name in names if len({text(d[name]) for d in self.designs if name in d}) > 1]

    def cells(self) -> Iterator[Design]:
        """Yield every cell of the crossing, forbidden ones included, before defaults are filled."""

        def grow(cell: Design, rest: tuple[Factor, ...]) -> Iterator[Design]:
            if not rest:
                yield cell
            elif rest[0].exists_in(cell):
                for level in rest[0].levels:
                    yield from grow({**cell, rest[0].name: level}, rest[1:])
            else:
                yield from grow(cell, rest[1:])

        return grow(dict(self.fixed), self.factors)

    def levels(self, name: str) -> list[str]:
        """Return the levels, as text, that a key takes among the designs, in the order of the designs."""
        return list(dict.fromkeys(text(design[name]) for design in self.designs if name in design))

    def components(self, first: str, second: str) -> list[tuple[list[str], list[str]]]:
        """Return the sets of levels of two factors that valid designs connect.

        Levels of different components cannot be compared through these two factors.

        Returns
        -------
        list of (levels of `first`, levels of `second`)
            In the order of the designs.
        """
        links = dict.fromkeys(
            (text(design[first]), text(design[second]))
            for design in self.designs
            if first in design and second in design
        )
        found: list[tuple[dict[str, None], dict[str, None]]] = []
        for a, b in links:
            touched = [part for part in found if a in part[0] or b in part[1]]
            joined: tuple[dict[str, None], dict[str, None]] = ({}, {})
            for part in touched:
                joined[0].update(part[0])
                joined[1].update(part[1])
            joined[0][a] = joined[1][b] = None
            place = found.index(touched[0]) if touched else len(found)
            found = [part for part in found if part not in touched]
            found.insert(place, joined)
        return [(list(a), list(b)) for a, b in found]

    @cached_property
    def _cells(self) -> _Cells:
        cells = _Cells()
        seen: set[str] = set()
        blamed: set[tuple[str | None, str, str]] = set()
        for cell in self.cells():
            reason = self._forbidden(cell)
            if reason:
                cells.left_out[reason] += 1
                continue
            try:
                design = normalise(cell)
            except InputFault as first_fault:
                for fault in blame(cell, first_fault):
                    key = (fault.name, text(fault.level), fault.message if fault.name is None else "")
                    if key not in blamed:
                        blamed.add(key)
                        cells.faults.append(fault)
                continue
            key_text = canonical_json(design)
            if key_text not in seen:
                seen.add(key_text)
                cells.designs.append(canonical(design))
        return cells

    def _forbidden(self, cell: Design) -> str | None:
        reads, writes = cell.get("input"), cell.get("output")
        if reads in READS and writes in WRITES:
            try:
                check_pair(reads, writes)
            except InputFault:
                return "the method has no such pair of input and output"
        for rule in self.forbid:
            if all(key in cell and text(cell[key]) in map(text, levels) for key, levels in rule.items()):
                return "forbid: " + ", ".join(f"{key}={'|'.join(map(text, v))}" for key, v in rule.items())
        return None


def blame(cell: Design, fault: InputFault) -> Iterator[LevelFault]:
    """Find each key of a refused cell that is wrong: mend the one a message names and look again."""
    design = dict(cell)
    mended: set[str | None] = set()
    while True:
        message = str(fault)
        name = _named(message, design)
        lacking = name is None and any(re.search(rf"\b{re.escape(str(key))}\b", message) for key in mended)
        if name in mended or lacking:  # what it lacks is not a level of its own
            return
        mended.add(name)
        yield LevelFault(name, design[name] if name else None, message)
        if name is None or name == "method":
            return
        del design[name]
        if name == "input":
            design[name] = next((read for read, write in PAIRS if write == design.get("output")), PAIRS[0][0])
        elif name == "output":
            design[name] = next((write for read, write in PAIRS if read == design.get("input")), PAIRS[0][1])
        try:
            normalise(design)
            return
        except InputFault as next_fault:
            fault = next_fault


def _named(message: str, design: Design) -> str | None:
    """Return the key that a message of `normalise` is about: what stands before its first semicolon names it."""
    if message.startswith("unknown method"):
        return "method"
    clause = message.partition(";")[0]
    keys = [key for key in design if key != "method"]
    for pattern in (r"\b{}=", r"\b{}\b"):
        places = {key: found.start() for key in keys if (found := re.search(pattern.format(re.escape(key)), clause))}
        if places:
            return min(places, key=lambda key: places[key])
    return None
