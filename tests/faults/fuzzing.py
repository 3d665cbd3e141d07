"""Feeds many hostile files to what reads them, each under a limit of CPU seconds, and says what became of them."""

from __future__ import annotations

import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from adapters.faults import InputFault

THOUSANDS = [pytest.mark.slow, pytest.mark.timeout(7200)]
"""Marks of the many files that `make test-all` reads; a few of them are read in every run of the tests."""
SECONDS = 10.0
"""CPU seconds that one file may take at most, on a machine that others use too."""
GROWTH = 600 * 2**20
"""Bytes by which the process may grow at most over all files of one kind."""
LONGEST = 20_000
"""Characters of a message at most."""


class Hang(BaseException):
    """One file took too long; no Exception, so that nothing that is tested can catch it."""


@dataclass
class Tally:
    """What became of files."""

    kind: str
    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def ran(self) -> int:
        return self.accepted + self.refused + len(self.failures)

    def __str__(self) -> str:
        return f"{self.kind}: {self.ran} files, {self.accepted} accepted, {self.refused} refused"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hang after so many CPU seconds. (pytest-timeout has the timer of wall-clock time.)"""

    def late(signum: int, frame: object) -> None:
        raise Hang(f"more than {seconds} CPU seconds")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(kind: str, seeds: range, case: Callable[[random.Random], None]) -> Tally:
    """Run a case for each seed.

    Parameters
    ----------
    case : callable
        Makes a file, has it read and checks what was read. It may raise InputFault and nothing else; an AssertionError
        means that a file was taken that is not sound.
    """
    tally = Tally(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        try:
            with limited(SECONDS):
                case(random.Random(f"{kind} {seed}"))
            tally.accepted += 1
        except InputFault as fault:
            told = str(fault)
            if told.strip() and len(told) <= LONGEST and _can_be_printed(told):
                tally.refused += 1
            else:
                tally.failures.append(f"seed {seed}: the message is empty, too long or not printable: {told[:300]!r}")
        except (Exception, Hang) as error:
            last = traceback.format_exception(error)
            tally.failures.append(f"seed {seed}: {''.join(last)[-1500:]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > GROWTH:
        tally.failures.append(f"the process grew by {grown / 2**20:.0f} MiB")
    return tally


def _can_be_printed(told: str) -> bool:
    try:
        told.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\x1b" not in told and "\0" not in told
