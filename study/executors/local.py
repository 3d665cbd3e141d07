"""The local executor: worker processes on this machine, one a device, kept alive and fed one pack at a time.

It says what became of a pack; what to do about a lost one is decided by who submitted it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from study.claims import Claims
from study.executors import records
from study.executors.endings import end_of, how_ended, hung, killed_for_memory
from study.executors.interrupts import held_back
from study.executors.records import Record
from study.full_disk import FullDisk, message
from study.process import LOG, Process
from study.store import Store
from study.trial import Pack

WORKER = (sys.executable, "-m", "study.worker")
STARTS = 3
"""Workers that may die one after another before any was ready; then it is the installation, not chance."""

MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296"
"""Settings of glibc's memory for workers: what one step has freed is kept for the next. Given back to the system and
asked for anew it costs a page fault every 4 KB, a tenth to a sixth of the time on the CPU. Other systems ignore it."""

SILENCE = 3600.0
"""Seconds without an event after which a worker counts as hanging, unless a study says otherwise."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAP = 30
"""Seconds between two looks at workers beyond which the machine, or this process, must have slept."""


class WorkerFault(RuntimeError):
    """Workers cannot be started; the message has the end of the log and its path."""


@dataclass(frozen=True)
class State:
    """What became of a pack: `queued`, `running`, `done`, or `lost` with its worker, for the reason given.

    `memory` says that the worker was killed because the machine's memory ran out.
    """

    name: Literal["queued", "running", "done", "lost"]
    log: Path | None = None
    reason: str = ""
    memory: bool = False


@dataclass
class _Hand:
    """A worker process.

    Attributes
    ----------
    pack : str, optional
        The handle of the pack it runs.
    heard : float
        When it told something last.
    killed_for_memory : int, optional
        How many processes had been killed for want of memory when it began.
    hangs : float, optional
        The seconds for which it told nothing, if it was ended for that.
    """

    device: str
    process: subprocess.Popen[str]
    who: Process
    log: Path
    ready: bool = False
    pack: str | None = None
    heard: float = field(default_factory=time.monotonic)
    killed_for_memory: int | None = field(default_factory=killed_for_memory)
    hangs: float | None = None


def driver() -> str | None:
    """Return the path of the program that comes with a GPU's driver, which says that there may be a GPU; or None."""
    return shutil.which("nvidia-smi")


def devices() -> list[str]:
    """Return the devices of this machine that torch can use: every GPU, else the CPU.

    torch is asked in a process of its own, and only where there is a driver, so that this one stays light.
    """
    if driver() is None:
        return ["cpu"]
    ask = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False).stdout.split()
    count = int(answer[-1]) if answer and answer[-1].isdigit() else 0
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]


def cores() -> int:
    """Return the CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int, log: str) -> dict[str, str]:
    """Return the environment of a worker.

    Parameters
    ----------
    threads : int
        Cores it computes with.
    log : str
        The file that its standard error goes to, from the store's folder.
    """
    told = {**os.environ, LOG: log}
    told.setdefault("OMP_NUM_THREADS", str(threads))
    told.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS's sums vary from run to run
    told.setdefault("TOKENIZERS_PARALLELISM", "false")
    told.setdefault("GLIBC_TUNABLES", MEMORY)
    return told


def only_visible(device: str) -> tuple[str, dict[str, str]]:
    """Return what a worker is to call its device, and the environment in which it sees no other GPU.

    What the user lets this process see of the GPUs, by numbers or names, is what they are counted in.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device, {}
    visible = os.environ.get(VISIBLE)
    return kind, {VISIBLE: index if visible is None else visible.split(",")[int(index)].strip()}


@dataclass
class LocalExecutor:
    """Worker processes on this machine.

    Parameters
    ----------
    store : Store
    devices : sequence of str
        One worker each; the same name may stand there more than once.
    listen : callable, optional
        Called with every event of a worker, as `study.worker` describes them, from within `poll`.
    command : sequence of str
        Starts a worker; the store and `--device` are added.
    silence : float
        Seconds after which a worker that told nothing, no step of training or drawing, is taken to hang and is killed.
    """

    store: Store
    devices: Sequence[str]
    listen: Callable[[dict[str, Any]], None] = lambda event: None
    command: Sequence[str] = WORKER
    silence: float = SILENCE
    _states: dict[str, State] = field(default_factory=dict, init=False)
    _queue: deque[tuple[str, Pack]] = field(default_factory=deque, init=False)
    _hands: list[_Hand] = field(default_factory=list, init=False)
    _heard: queue.Queue[tuple[_Hand, dict[str, Any] | None]] = field(default_factory=queue.Queue, init=False)
    _stillborn: int = field(default=0, init=False)
    _started: int = field(default=0, init=False)
    _polled: float = field(default_factory=time.monotonic, init=False)

    def attach(self, listen: Callable[[dict[str, Any]], None]) -> None:
        """Have every event of a worker, as `study.worker` describes them, passed on from within `poll`."""
        self.listen = listen

    @property
    def slots(self) -> int:
        """How many packs run at once."""
        return len(self.devices)

    def running(self) -> dict[str, Pack]:
        """Return nothing: workers end with the driver that started them."""
        return {}

    def begin(self) -> None:
        """Start a worker before there is a pack for it: to load what trains takes it seconds."""
        self._start(self.devices[0])

    def submit(self, packs: Iterable[Pack]) -> list[str]:
        """Queue packs, which become JSON files when a worker is given them; return a handle for each."""
        queued = [(uuid.uuid4().hex, pack) for pack in packs]
        self._states.update((handle, State("queued")) for handle, _ in queued)
        self._queue.extend(queued)
        return [handle for handle, _ in queued]

    def poll(self, seconds: float = 0.5) -> dict[str, State]:
        """Feed idle workers, wait up to `seconds` for news, and return the state of every pack.

        A pack that is `done` or `lost` is named once and then forgotten.

        Raises
        ------
        WorkerFault
            If workers keep dying before they are ready.
        FullDisk
            If a worker found no room.
        """
        self._feed()
        with contextlib.suppress(queue.Empty):
            self._hear(*self._heard.get(timeout=seconds))
            while True:
                self._hear(*self._heard.get_nowait())
        self._end_silent()
        states = dict(self._states)
        for handle, state in states.items():
            if state.name in ("done", "lost"):
                del self._states[handle]
                records.delete(self.store, handle)
        return states

    def cancel(self, handles: Iterable[str]) -> None:
        """Forget packs; a worker that runs one of them is ended, and what it had not committed is not run."""
        doomed = set(handles)
        self._queue = deque((handle, pack) for handle, pack in self._queue if handle not in doomed)
        for hand in [hand for hand in self._hands if hand.pack in doomed]:
            self._end(hand)
        for handle in doomed:
            self._states.pop(handle, None)
            records.delete(self.store, handle)

    def close(self) -> None:
        """End every worker and forget every pack."""
        self.cancel(list(self._states))
        for hand in list(self._hands):
            self._end(hand)

    def _feed(self) -> None:
        idle = [hand for hand in self._hands if hand.ready and hand.pack is None]
        for hand in idle:
            if self._queue:
                self._give(hand, *self._queue.popleft())
        # A worker is started for a device only while there is a pack left for it.
        coming = sum(not hand.ready for hand in self._hands)
        for device in self._idle():
            if len(self._queue) <= coming:
                break
            self._start(device)
            coming += 1

    def _end_silent(self) -> None:
        """Kill workers that hang; the end of their output is heard like that of any other."""
        now = time.monotonic()
        slept, self._polled = now - self._polled > NAP, now
        for hand in self._hands:
            if slept:  # then so did the threads that listen, and what workers told meanwhile is still to be heard
                hand.heard = now
            patience = self.silence if hand.ready else max(self.silence, SILENCE)
            busy = hand.pack is not None or not hand.ready
            if busy and now - hand.heard > patience and hand.hangs is None:
                hand.hangs = patience
                kill(hand.process)

    def _idle(self) -> list[str]:
        free = list(self.devices)
        for hand in self._hands:
            free.remove(hand.device)
        return free

    def _start(self, device: str) -> None:
        self._started += 1
        self.store.logs.mkdir(parents=True, exist_ok=True)
        # A name that no link in a stranger's store can have been given before.
        log = self.store.logs / f"worker-{os.getpid()}-{self._started}-{uuid.uuid4().hex[:8]}.log"
        name, visible = only_visible(device)
        told_to = environment(max(1, cores() // len(self.devices)), str(log.relative_to(self.store.folder)))
        # An interrupt in between would leave a worker that nobody knows, and that outlives this process by seconds.
        with log.open("x") as told, held_back():
            process = subprocess.Popen(
                [*self.command, str(self.store.folder), "--device", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                encoding="utf-8",
                env={**told_to, **visible},
                start_new_session=True,  # Ctrl-C is for the driver, which ends its workers itself
            )
            hand = _Hand(device, process, Process.of(process.pid), log)
            self._hands.append(hand)
        threading.Thread(target=self._read, args=(hand,), daemon=True).start()

    def _read(self, hand: _Hand) -> None:
        assert hand.process.stdout is not None
        with hand.process.stdout as events:
            for line in events:
                with contextlib.suppress(json.JSONDecodeError):  # a line cut off by a kill
                    self._heard.put((hand, json.loads(line)))
        self._heard.put((hand, None))

    def _give(self, hand: _Hand, handle: str, pack: Pack) -> None:
        assert hand.process.stdin is not None
        records.write(self.store, handle, pack, Record("local", Process.of(os.getpid())))
        hand.pack, hand.heard = handle, time.monotonic()
        self._states[handle] = State("running", hand.log)
        with contextlib.suppress(BrokenPipeError):  # it died idle; its end of file is about to be heard
            hand.process.stdin.write(f"{records.file(self.store, handle)}\n")
            hand.process.stdin.flush()

    def _hear(self, hand: _Hand, event: dict[str, Any] | None) -> None:
        if hand not in self._hands:
            return
        hand.heard = time.monotonic()
        if event is None:
            self._bury(hand)
        elif event["event"] == "ready":
            hand.ready = True
            self._stillborn = 0
            self._feed()
        elif event["event"] == "pack":
            self._states[event["pack"]] = State("done", hand.log)
            hand.pack = None
            self._feed()
        elif event["event"] == "full":
            raise FullDisk(message(self.store.folder, event["error"], event["path"]))
        else:
            self.listen(event)

    def _bury(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        code = _reap(hand.process)
        before, now = hand.killed_for_memory, killed_for_memory()
        by_another = code == -signal.SIGKILL and hand.hangs is None
        memory = by_another and before is not None and now is not None and now > before
        how = how_ended(code)
        if hand.hangs is not None:
            how = hung(hand.hangs)
        elif memory:
            how += ", as Linux does when the machine's memory runs out, and it says that it did"
        reason = f"the worker {how}; {end_of(hand.log)}"
        if hand.pack is not None:
            self._free(hand)
            self._states[hand.pack] = State("lost", hand.log, reason, memory)
        elif not hand.ready:
            self._stillborn += 1
            if self._stillborn == STARTS:
                raise WorkerFault(f"{STARTS} workers in a row ended before they were ready; of the last, {reason}")

    def _end(self, hand: _Hand) -> None:
        kill(hand.process)
        self._hands.remove(hand)
        _reap(hand.process)
        if hand.pack is not None:
            self._free(hand)

    def _free(self, hand: _Hand) -> None:
        """Free what a dead worker held, for drivers on other machines, which cannot tell that it is dead."""
        with contextlib.suppress(OSError):
            Claims(self.store.claims).free(hand.who)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a worker and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[str]) -> int:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    return process.wait()

