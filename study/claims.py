"""Claims keep several drivers and workers on one store from doing a trial twice. A lost one costs time, never a row.

A trial's claims are numbered files, each made in one step that fails where the number is taken: a hard link to a file
that is whole, which the server of a network file system decides too. The last one holds. Whoever can tell that its
process is dead makes the next; nobody changes or deletes a claim of a trial that has no row. No clock is read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from adapters.reading import read_json
from study.atomic import is_number, put_new, temporary
from study.process import Judge, Process

_MOST = 10_000
"""Bytes of a claim."""


@dataclass
class Claims:
    """The claims of one store.

    Parameters
    ----------
    folder : Path
    take_over : bool
        Whether to take what is held by a process of which it cannot be told from here whether it still runs.
    """

    folder: Path
    take_over: bool = False
    _me: Process = field(default_factory=lambda: Process.of(os.getpid()), init=False)

    def take(self, id: str, attempt: int, judge: Judge | None = None) -> Process | None:
        """Claim an attempt for this process.

        Returns
        -------
        Process or None
            Who holds it instead; None if it is ours.
        """
        judge = judge or Judge()
        while True:
            number, last = self._last(id, attempt)
            if last == self._me:
                return None
            if last is not None and not self._may_take(last, judge):
                return last
            if self._put(id, attempt, number + 1, self._me):
                return None

    def holder(self, id: str, attempt: int) -> Process | None:
        """Return whose the last claim is, dead or alive; None if there is none."""
        return self._last(id, attempt)[1]

    def release(self, id: str, attempt: int) -> None:
        """Delete the claims of an attempt that has its row."""
        number, _ = self._last(id, attempt)
        for each in range(number + 1):
            self._file(id, attempt, each).unlink(missing_ok=True)

    def free(self, process: Process) -> None:
        """Say of a process that is dead that it holds nothing any more, to those who could not tell."""
        for id, attempt in self.held_by(process):
            number, last = self._last(id, attempt)
            if last == process:
                self._put(id, attempt, number + 1, None)

    def held_by(self, process: Process) -> list[tuple[str, int]]:
        """Return the attempts that a process holds."""
        return [key for key, holder in self.all().items() if holder == process]

    def all(self) -> dict[tuple[str, int], Process | None]:
        """Return who holds each attempt that was ever claimed and has not been released."""
        keys = set()
        for file in self.folder.glob("*.json") if self.folder.is_dir() else ():
            id, _, rest = file.stem.partition(".")
            attempt, _, number = rest.partition(".")
            if is_number(attempt) and is_number(number):
                keys.add((id, int(attempt)))
        return {key: self._last(*key)[1] for key in sorted(keys)}

    def _may_take(self, last: Process, judge: Judge) -> bool:
        alive = judge.alive(last)
        return alive is False or (alive is None and self.take_over)

    def _last(self, id: str, attempt: int) -> tuple[int, Process | None]:
        """Return the number of the last claim, from 0 and -1 without one, and whose it is."""
        number, holder = -1, None
        while True:
            file, found = self._file(id, attempt, number + 1), None
            try:
                found = Process.from_json(read_json(file, _MOST))
            except FileNotFoundError:
                if not file.is_symlink():  # a link to nothing has taken the number
                    return number, holder
            except (OSError, ValueError):  # garbage holds nothing
                pass
            number, holder = number + 1, found

    def _put(self, id: str, attempt: int, number: int, process: Process | None) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(id, attempt, number)
        part = temporary(file)
        try:
            part.write_text(json.dumps(process.to_json() if process else None), encoding="utf-8")
            return put_new(part, file)
        finally:
            part.unlink(missing_ok=True)

    def _file(self, id: str, attempt: int, number: int) -> Path:
        return self.folder / f"{id}.{attempt}.{number}.json"
