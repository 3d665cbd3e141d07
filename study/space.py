"""The space a study runs over: factors, their levels, what is nested or forbidden, and the designs that remain.

Knows neither tasks nor seeds, and imports no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapters.designs import normalise
from adapters.faults import InputFault
from adapters.methods.adapter import ACTIVATIONS, INITS
from adapters.positions import PAIRS, READS, WRITES, check_pair
from study.canonical import canonical, canonical_json
from study.strategies.factorial import Factorial
from study.strategies.strategy import Chosen, Strategy

Level = str | int | float | bool
Design = dict[str, Any]

REFERENCE: Design = {"method": "none"}
"""The design of the untuned backbone, with which a study is compared."""

PAIR = ("input", "output")
"""Two factors whose valid combinations are one factor, where both vary."""

ALL: dict[str, tuple[str, ...]] = {"input": READS, "output": WRITES, "activation": ACTIVATIONS, "init": INITS}
"""What `all` stands for; other factors have no finite list of levels."""


LIMIT = 200_000
"""Combinations of levels that are gone through one by one, which takes some seconds; of more, valid ones are drawn."""

DRAWN = 10_000
"""Valid designs that are drawn from a larger space, at most."""


def text(value: Any) -> str:
    """Return a level as the store's columns have it: 1.0 is "1", a name is itself."""
    return value if isinstance(value, str) else canonical_json(value)


def lacked(design: Design, lacking: Mapping[str, str]) -> str | None:
    """Return why a design cannot be where positions are lacking; None if it can."""
    return next((lacking[at] for at in (design.get("input"), design.get("output")) if at and at in lacking), None)


def factor_texts(design: Design) -> dict[str, str]:
    """Return every key of a design as text, as the columns of a row."""
    return {key: text(value) for key, value in design.items()}


def has_levels(design: Design, levels: Mapping[str, str]) -> bool:
    """Say whether a design has some levels, given as text."""
    return all(key in design and text(design[key]) == level for key, level in levels.items())


def check_levels(designs: Sequence[Design], levels: Mapping[str, str]) -> None:
    """Check that a design has some levels, given as text.

    Raises
    ------
    InputFault
        If none has; says which keys, or which levels of a key, there are.
    """
    for key, level in levels.items():
        known = list(dict.fromkeys(text(design[key]) for design in designs if key in design))
        if not known:
            keys = ", ".join(dict.fromkeys(key for design in designs for key in design))
            raise InputFault(f"no design of this study has the key {key!r}; expected one of {keys}")
        levels_told = ", ".join(known)
        if level not in known:
            raise InputFault(f"no design of this study has {key}={level}; the levels of {key} are {levels_told}")
    if not any(has_levels(design, levels) for design in designs):
        asked = ", ".join(f"{key}={level}" for key, level in levels.items())
        raise InputFault(f"no design of this study has all of {asked}; leave one of them out")


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
    looked_at: int = 0


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
    strategy : Strategy
        Chooses the designs that are run.
    lacking : dict of str to str
        Positions that no backbone of the study has, with the reason; cells that name one are left out.
    """

    factors: tuple[Factor, ...]
    fixed: dict[str, Level]
    forbid: tuple[dict[str, tuple[Level, ...]], ...] = ()
    strategy: Strategy = Factorial()
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def designs(self) -> list[Design]:
        """The designs that are run: of the valid ones, those that the strategy chooses."""
        return self.chosen.designs

    @cached_property
    def chosen(self) -> Chosen:
        """What the strategy chooses."""
        return self.strategy.choose(self)

    @property
    def valid(self) -> list[Design]:
        """The valid designs in canonical form, each once, in the order of the factors' levels.

        Raises
        ------
        InputFault
            If there are too many cells to go through, and the strategy has no use for valid ones drawn at random.
        """
        return self._cells.designs

    @cached_property
    def size(self) -> int:
        """How many cells the crossing has, forbidden ones included."""
        known = [{f.when[0] for f in self.factors[place:] if f.when} for place in range(len(self.factors) + 1)]
        counts = {frozenset((key, text(level)) for key, level in self.fixed.items() if key in known[0]): 1}
        for place, factor in enumerate(self.factors):
            grown: Counter[frozenset[tuple[str, str]]] = Counter()
            for cell, count in counts.items():
                kept = frozenset(pair for pair in cell if pair[0] in known[place + 1])
                if not factor.exists_in(dict(cell)):
                    grown[kept] += count
                elif factor.name not in known[place + 1]:
                    grown[kept] += count * len(factor.levels)
                else:
                    for level in factor.levels:
                        grown[kept | {(factor.name, text(level))}] += count
            counts = dict(grown)
        return sum(counts.values())

    @property
    def complete(self) -> bool:
        """Whether every cell is gone through; else `valid` holds designs drawn at random."""
        return self.size <= LIMIT

    @property
    def looked_at(self) -> int:
        """How many cells were gone through, or drawn at random."""
        return self._cells.looked_at

    @property
    def left_out(self) -> dict[str, int]:
        """How many of the cells that were looked at were left out, by reason."""
        return dict(self._cells.left_out)

    @property
    def faults(self) -> list[LevelFault]:
        """Levels and cells that are wrong, each once; cells left out on purpose are none."""
        return self._cells.faults

    @property
    def varying(self) -> list[str]:
        """Names of the factors that take at least two levels among the designs, in the order declared."""
        return self.varying_in(self.designs)

    def varying_in(self, designs: Iterable[Design]) -> list[str]:
        """Return the names of the factors that take at least two levels among some designs."""
        names = dict.fromkeys(factor.name for factor in self.factors)
        return [name for name in names if len({text(d[name]) for d in designs if name in d}) > 1]

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

    def _drawn(self, seed: int) -> Iterator[tuple[tuple[int, ...], Design]]:
        """Yield cells drawn at random, each level of a factor as likely as its others, with their levels' places.

        Which cells are drawn does not depend on the order of factors or levels.
        """
        levels = [sorted(enumerate(factor.levels), key=lambda entry: text(entry[1])) for factor in self.factors]
        for number in range(LIMIT):
            cell, places = dict(self.fixed), []
            for factor, known in zip(self.factors, levels, strict=True):
                place = -1
                if factor.exists_in(cell):
                    drawn = hashlib.sha256(f"{seed} {number} {factor.name}".encode()).digest()
                    place, cell[factor.name] = known[int.from_bytes(drawn[:8], "big") % len(known)]
                places.append(place)
            yield tuple(places), cell

    def _looked_at(self) -> Iterable[Design]:
        """Return the cells to look at: all, or so many drawn ones that enough of them are valid."""
        if self.complete:
            return self.cells()
        if self.strategy.seed is None:
            raise InputFault(
                f"{self.size} combinations of levels are more than can be gone through ({LIMIT}), which the factorial "
                "and the searches do; run some of them with `strategy: {kind: subset, size: 60}`, or declare fewer "
                "factors or levels"
            )
        found: dict[tuple[int, ...], Design] = {}
        valid = 0
        for places, cell in self._drawn(self.strategy.seed):
            if places not in found:
                found[places] = cell
                valid += self._forbidden(cell) is None
            if valid == DRAWN:
                break
        return [found[places] for places in sorted(found)]

    @cached_property
    def _cells(self) -> _Cells:
        cells = _Cells()
        seen: set[str] = set()
        blamed: set[tuple[str | None, str, str]] = set()
        for cell in self._looked_at():
            cells.looked_at += 1
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
            if reason := lacked(cell, self.lacking):
                return reason
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
