"""Collects every fault of a file, each with its line, and tells them in one message."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

from adapters.faults import InputFault
from study.yaml_lines import Lines

Path_ = tuple[str | int, ...]

_LONG, _SHOWN = 1000, 50
"""Characters of a fault, and faults of a message, that are shown."""


class Faults:
    """The faults that were found in one file so far.

    Parameters
    ----------
    source : str
        What the message calls the file.
    lines : Lines
        Where each part stands.
    """

    keys: ClassVar[Mapping[str, Iterable[str]]] = {}
    """The keys that the mappings of a section, or of a part of it such as tune.strategy, may have."""

    def __init__(self, source: str, lines: Lines) -> None:
        self.source = source
        self.lines = lines
        self.faults: list[tuple[int, str]] = []

    def _raise(self) -> None:
        faults = sorted(dict.fromkeys(self.faults), key=lambda fault: fault[0])
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        told = [(line, message if len(message) <= _LONG else f"{message[:_LONG]} …") for line, message in faults]
        shown = [f"  line {line}: {message}" if line else f"  {message}" for line, message in told[:_SHOWN]]
        if len(told) > _SHOWN:
            shown.append(f"  and {len(told) - _SHOWN} more")
        raise InputFault("\n".join([f"{self.source} has {count}:", *shown]))

    def _fault(self, path: Sequence[str | int], message: str) -> None:
        parts = tuple(path)
        line = self.lines.at(parts) if parts[:1] in self.lines.of else None
        self.faults.append((line or 0, f"{spell(parts)}: {message}" if parts else message))

    def _repeated(self) -> None:
        """Note keys that stand in a mapping twice."""
        for path, line in self.lines.repeated:
            self.faults.append((line, f"{spell(path)}: stands here a second time; keep one"))

    def _pydantic(self, error: ValidationError, above: Path_, keys: Iterable[str] | None = None) -> None:
        """Note what pydantic found wrong with the part at `above`, which itself may have some keys."""
        for item in error.errors():
            path = (*above, *(part for part in item["loc"] if part != "[key]"))
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                own = keys if keys is not None and len(path) == len(above) + 1 else self._keys_of(path)
                message = "unknown key" + near(str(path[-1]), own)
            elif not item["msg"].startswith("Value error"):
                message = f"got {item['input']!r}: {message[0].lower()}{message[1:]}"
            self._fault(path, message)

    def _keys_of(self, path: Path_) -> Iterable[str]:
        """Return the keys of the mapping that holds a part: of the narrowest part above it that has keys of its own."""
        names = [part for part in path[:-1] if isinstance(part, str)]
        wholes = (".".join(names[:end]) for end in range(len(names), 0, -1))
        return self.keys[next(whole for whole in wholes if whole in self.keys)]

    def _item(self, path: Path_, index: int) -> Path_:
        """Return the path of an item of a list, or the list's own where one item stands without a list."""
        return (*path, index) if (*path, index) in self.lines.of else path

    def _each(self, specs: list[Any] | None, path: Path_, resolved: Callable[[Any], Any]) -> list[Any]:
        """Resolve every item of a list; the faulty ones are left out and reported, what is the same fault once."""
        found = []
        places: dict[str, list[int]] = {}
        for index, spec in enumerate(specs or []):
            try:
                found.append(resolved(spec))
            except InputFault as fault:
                places.setdefault(str(fault), []).append(index)
        for message, (first, *others) in places.items():
            more = f" (and so for {len(others)} more)" if others else ""
            self._fault(self._item(path, first), message + more)
        return found

    def _once(self, names: Iterable[str], path: Path_) -> None:
        seen = set()
        for name in names:
            if name in seen:
                self._fault(path, f"{name} is given twice")
            seen.add(name)


def spell(path: Sequence[str | int]) -> str:
    """Return a path as people write it: factors.input[2]."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def near(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the known one it is close to, or all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(names)}"
