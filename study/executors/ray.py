"""The Ray executor: packs as tasks of a Ray cluster, or of one on this machine. Tasks end with the driver.

What a task does is in `ray_task`, what Ray says of its cluster in `ray_cluster`. Ray starts a task again whose node was
lost; a worker that died in another way is told to the driver, as by every executor. Which trials are done is asked of
the store only.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.faults import InputFault
from study.atomic import look_anew
from study.executors import ray_cluster, records
from study.executors.events import read_on
from study.executors.local import STARTS, WORKER, State, WorkerFault, cores
from study.executors.ray_task import RETRIES, events_of, free, log_of, run_pack
from study.executors.records import Record
from study.full_disk import FullDisk, message
from study.process import Judge, Process
from study.resources import Resources, minutes
from study.saving import VARIABLE as SAVING
from study.store import Store
from study.trial import Pack

SETTINGS = (SAVING, "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
"""Variables of the driver's environment that its workers get. Ray's nodes have one of their own."""

_LOOKS = 2.0
"""Seconds between two looks whether packs were cancelled."""


@dataclass
class RayExecutor:
    """Tasks of a Ray cluster.

    Parameters
    ----------
    store : Store
        In a folder that nodes and this machine share.
    resources : Resources
    address : str, optional
        Of the cluster, as `ray_cluster.connect` takes it; by default one is started on this machine.
    command : sequence of str
        Starts a worker; the store and `--device` are added.

    Raises
    ------
    InputFault
        If Ray is not installed, the cluster cannot be reached, or one of its own has not what is asked for.
    """

    store: Store
    resources: Resources = field(default_factory=Resources)
    address: str | None = None
    command: Sequence[str] = WORKER
    listen: Callable[[dict[str, Any]], None] = lambda event: None
    _queue: deque[str] = field(default_factory=deque, init=False)
    _tasks: dict[str, Any] = field(default_factory=dict, init=False)
    _read: dict[str, int] = field(default_factory=dict, init=False)
    _looked: float = field(default=0.0, init=False)
    _stillborn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._connected = ray_cluster.connect(self.address, cores())
        import ray

        self._ray = ray
        nodes = ray_cluster.resources()
        gpus = self.resources.gpus
        if gpus is None:
            gpus = int(any(node.get("GPU") for node in nodes))
        self._asked = {"CPU": self.resources.cpus or 1, "GPU": gpus, "memory": self.resources.bytes}
        self._task: Any = ray.remote(run_pack).options(
            num_cpus=self._asked["CPU"],
            num_gpus=gpus,
            memory=self.resources.bytes or None,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        if self.lacking and self._own:
            self.close()
            raise InputFault(f"got resources that this machine has not for one worker: {self.lacking}")

    @property
    def _own(self) -> bool:
        return self._connected and (self.address or os.environ.get("RAY_ADDRESS") or "local") == "local"

    @property
    def lacking(self) -> str:
        """What a task asks for, in words, if no node of the cluster has that much; else nothing."""
        if ray_cluster.room(ray_cluster.resources(), self._asked):
            return ""
        return ", ".join(f"{amount} {name}" for name, amount in self._asked.items() if amount)

    @property
    def slots(self) -> int:
        """How many packs may run at once: as many as the cluster has room for now, if it has for any."""
        return min(self.resources.parallel, ray_cluster.room(ray_cluster.resources(), self._asked) or 1)

    def attach(self, listen: Callable[[dict[str, Any]], None]) -> None:
        """Have every event of a worker, as `study.worker` describes them, passed on from within `poll`."""
        self.listen = listen

    def running(self) -> dict[str, Pack]:
        """Return nothing, as tasks end with the driver that submitted them; tidy up after drivers that are dead."""
        self._tidy()
        return {}

    def submit(self, packs: Iterable[Pack]) -> list[str]:
        """Write packs as JSON files and queue them; return a handle for each."""
        handles = []
        for pack in packs:
            handle = uuid.uuid4().hex
            records.write(self.store, handle, pack, Record("ray", Process.of(os.getpid())))
            self._read[handle] = 0
            self._queue.append(handle)
            handles.append(handle)
        return handles

    def poll(self, seconds: float = 0.5) -> dict[str, State]:
        """Give tasks to Ray, wait up to `seconds` for one to end, and return the state of every pack.

        A pack that is `done` or `lost` is named once and then forgotten.

        Raises
        ------
        WorkerFault
            If workers keep ending before they are ready.
        KeyboardInterrupt
            If the packs were cancelled by another command.
        """
        self._heed_cancel()
        while self._queue and len(self._tasks) < self.resources.parallel:
            handle = self._queue.popleft()
            self._tasks[handle] = self._start(handle)
        over: set[Any] = set()
        if self._tasks:
            some, rest = self._ray.wait(list(self._tasks.values()), timeout=seconds)
            over = {*some, *(self._ray.wait(rest, num_returns=len(rest), timeout=0)[0] if some and rest else ())}
        states = {handle: State("queued") for handle in self._queue}
        for handle, task in list(self._tasks.items()):
            begun = self._hear(handle)
            states[handle] = State("running", log_of(self.store, handle)) if begun else State("queued")
            if task in over:
                del self._tasks[handle]
                states[handle] = self._ended(handle, task)
        return states

    def cancel(self, handles: Iterable[str]) -> None:
        """Forget packs; a task that runs one of them is ended, and what it had not committed is not run."""
        doomed = set(handles)
        self._queue = deque(handle for handle in self._queue if handle not in doomed)
        for handle in doomed:
            task = self._tasks.pop(handle, None)
            if task is not None:
                with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
                    self._ray.cancel(task, force=True)
        for handle in doomed:
            free(self.store, handle)  # Ray leaves workers no time to do so
            self._forget(handle)

    def close(self) -> None:
        """End every task and forget every pack; leave the cluster, or end it if it is this process's own."""
        self.cancel(list(self._read))
        self._tidy()
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _tidy(self) -> None:
        judge = Judge()
        for handle, _, record in records.read(self.store):
            if record.executor == "ray" and judge.alive(record.owner) is False:
                free(self.store, handle)
                records.delete(self.store, handle)

    def _start(self, handle: str) -> Any:
        settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
        device = None if self._asked["GPU"] else "cpu"
        folder = str(self.store.folder.resolve())
        silence = 60.0 * minutes(self.resources.silence)
        cpus = int(self._asked["CPU"])
        return self._task.remote(folder, handle, cpus, device, settings, list(self.command), silence)

    def _hear(self, handle: str) -> bool:
        """Pass on what a worker has told since the last time; return whether it has told anything yet."""
        events, self._read[handle] = read_on(events_of(self.store, handle), self._read[handle])
        for event in events:
            if event["event"] == "ready":
                self._stillborn = 0
            elif event["event"] in ("step", "result"):
                self.listen(event)
            elif event["event"] == "full":
                raise FullDisk(message(self.store.folder, event["error"], event["path"]))
        return self._read[handle] > 0

    def _ended(self, handle: str, task: Any) -> State:
        try:
            reason = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            return self._once_more(handle, " ".join(str(error.cause).split()))
        except self._ray.exceptions.RayError as error:
            told = " ".join(str(error).split())[:300]
            reason = f"Ray gave its task up ({type(error).__name__}: {told})"
        log = log_of(self.store, handle)
        if reason:
            free(self.store, handle)
        self._forget(handle)
        if not reason:
            return State("done", log)
        return State("lost", log if log.exists() else None, reason)

    def _once_more(self, handle: str, reason: str) -> State:
        self._stillborn += 1
        if self._stillborn == STARTS:
            raise WorkerFault(f"{STARTS} Ray tasks in a row ended before their worker was ready; of the last, {reason}")
        self._queue.append(handle)
        return State("queued")

    def _heed_cancel(self) -> None:
        if time.monotonic() < self._looked + _LOOKS:
            return
        with contextlib.suppress(OSError):
            look_anew(self.store.packs)
        self._looked = time.monotonic()
        if not all(records.file(self.store, handle).with_suffix(".job").exists() for handle in self._read):
            raise KeyboardInterrupt("ended by `adapter-study cancel`")

    def _forget(self, handle: str) -> None:
        self._read.pop(handle, None)
        records.delete(self.store, handle)
