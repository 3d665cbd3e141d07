"""What a Ray task does: runs a worker on one pack, on the node that Ray chose. It is handed text and numbers only.

The worker is a process of its own that ends as soon as the task does, as its standard input closes then: with the
driver, with the node, or because it was cancelled.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.atomic import look_anew, sync
from study.claims import Claims
from study.executors.endings import end_of, how_ended, hung
from study.executors.events import read_on
from study.executors.local import NAP, SILENCE, WORKER, environment, kill
from study.executors.ray_cluster import VARIABLE, Place
from study.store import Store

RETRIES = 3
"""How often Ray starts a task again whose node, or whose own process, was lost."""

_END = 30
"""Seconds that a worker which has closed its output may take to end."""


def run_pack(
    folder: str,
    handle: str,
    threads: int,
    device: str | None,
    settings: Mapping[str, str],
    command: Sequence[str],
    silence: float = SILENCE,
) -> str:
    """Run a worker on a pack to its end.

    Parameters
    ----------
    folder : str
        The absolute path of the store's.
    handle : str
        The pack's.
    threads : int
        Cores it computes with.
    device : str, optional
        As `study.worker` takes it.
    settings : mapping of str to str
        Variables for the worker's environment.
    command : sequence of str
        Starts a worker.
    silence : float
        Seconds after which a worker that told nothing, no step of training or drawing, is taken to hang and is killed.

    Returns
    -------
    str
        What ended the worker before the pack was through; empty if nothing did.

    Raises
    ------
    RuntimeError
        If no worker can be started here: it is not the trials' fault.
    """
    store = Store(Path(folder))
    with contextlib.suppress(OSError):
        look_anew(store.packs)
    pack = store.packs / f"{handle}.json"
    if not pack.is_file():
        raise RuntimeError(f"{os.uname().nodename} does not see {pack}: nodes must share the store's folder")
    free(store, handle)  # what an earlier start of this task held, which Ray has found dead
    log, told = log_of(store, handle), events_of(store, handle)
    log.parent.mkdir(parents=True, exist_ok=True)
    if _starts(told) > RETRIES:  # Ray itself sets no bound for those whose nodes run out of memory
        return f"its node or its memory was lost {RETRIES + 1} times"
    environ = environment(threads, str(log.relative_to(store.folder)))
    environ |= {**settings, VARIABLE: str(Place.here(handle))}
    # The interpreter of this node.
    words = [sys.executable if word == WORKER[0] else word for word in command]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*words, folder, *(("--device", device) if device else ())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=environ,
            start_new_session=True,  # what Ray does to its own processes is not for the worker, which may tidy up
        )
    through, patience = False, _Patience(process, silence)
    try:
        through = _feed(process, pack, told, patience)
        process.wait(_END)
    finally:
        patience.end()
        kill(process)
        code = process.wait()
        if not through:
            free(store, handle)
    if through:
        return ""
    how = hung(silence) if patience.ran_out else how_ended(code)
    reason = f"the worker on {os.uname().nodename} {how}; {end_of(log)}"
    if not patience.ready:
        raise RuntimeError(reason)
    return reason


def free(store: Store, handle: str) -> None:
    """Free what dead workers of a pack held, for those who cannot tell that they are dead."""
    claims = Claims(store.claims)
    with contextlib.suppress(OSError):
        for holder in set(claims.all().values()):
            place = Place.parse(holder.ray) if holder is not None else None
            if holder is not None and place is not None and place.pack == handle:
                claims.free(holder)


def log_of(store: Store, handle: str) -> Path:
    """Return the log of a pack's worker."""
    return store.logs / "ray" / f"{handle}.err"


def events_of(store: Store, handle: str) -> Path:
    """Return the file of the events of a pack's worker."""
    return log_of(store, handle).with_suffix(".out")


class _Patience:
    """Kills a worker that tells nothing for too long; until it is ready it has longer.

    Attributes
    ----------
    heard : float
        When it told something last.
    ready : bool
    ran_out : bool
        Whether it was killed.
    """

    def __init__(self, process: subprocess.Popen[str], silence: float) -> None:
        self.heard, self.ready, self.ran_out = time.monotonic(), False, False
        self._process, self._silence, self._over = process, silence, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Watch it no longer."""
        self._over.set()

    def _watch(self) -> None:
        looked = time.monotonic()
        while (left := self.heard + (self._silence if self.ready else max(self._silence, SILENCE)) - looked) > 0:
            if self._over.wait(min(left, NAP)):
                return
            now = time.monotonic()
            if now - looked > 2 * NAP:  # the machine slept, and what the worker told is still to be heard
                self.heard = now
            looked = now
        self.ran_out = True
        kill(self._process)


def _feed(process: subprocess.Popen[str], pack: Path, told: Path, patience: _Patience) -> bool:
    """Give a worker its pack and write down its events; return whether it was through with it before it ended."""
    assert process.stdin is not None and process.stdout is not None
    through = False
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{pack}\n")
        process.stdin.flush()
    with told.open("a", encoding="utf-8") as events, process.stdout as lines:
        for line in lines:
            patience.heard = time.monotonic()
            events.write(line)
            events.flush()
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill
                name = json.loads(line)["event"]
                patience.ready = patience.ready or name == "ready"
                if name == "pack":
                    through = True
                    process.stdin.close()  # it ends, having nothing to do
    return through


def _starts(told: Path) -> int:
    """Return how often a pack was started before, and write down that it is once more."""
    count = sum(event["event"] == "start" for event in read_on(told, 0)[0])
    with told.open("a", encoding="utf-8") as events:
        events.write(json.dumps({"event": "start"}) + "\n")
    sync(told)
    return count
