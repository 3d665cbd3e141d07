"""The SLURM executor: packs as job arrays, one pack a job. Jobs outlive the driver; the next one takes them over.

Jobs are submitted by submitit. What they do is in `slurm_worker`, what SLURM says of them in `slurm_jobs`. Which
trials are done is asked of the store only.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.faults import InputFault
from study.executors import records, slurm_jobs
from study.executors.endings import end_of
from study.executors.events import read_on
from study.executors.local import WORKER, State, WorkerFault
from study.executors.records import Record
from study.executors.slurm_jobs import Job
from study.executors.slurm_worker import NOTICE, PackJob
from study.full_disk import FullDisk, is_full, message
from study.process import Judge, Process
from study.resources import Resources
from study.store import Store
from study.trial import Pack

INSTALL = "the SLURM executor needs submitit: pip install 'adapter-study[slurm]'"
ARRAY = 500
"""Packs of one job array at most; clusters allow 1000 by default."""


@dataclass
class _Given:
    """A pack that SLURM was given: its record, its job as last seen, and how far its events were read."""

    record: Record
    job: Job | None = None
    read: int = 0
    over: str = ""


@dataclass
class SlurmExecutor:
    """Jobs of a SLURM cluster.

    Parameters
    ----------
    store : Store
        In a folder that nodes and this machine share.
    resources : Resources
    command : sequence of str
        Starts a worker; the store and the pack's file are added.
    every : float
        Seconds between two questions to SLURM at most; they begin with one second.

    Raises
    ------
    InputFault
        If submitit is not installed, or SLURM's commands are not there.
    """

    store: Store
    resources: Resources = field(default_factory=Resources)
    command: Sequence[str] = WORKER
    every: float = 15.0
    listen: Callable[[dict[str, Any]], None] = lambda event: None
    _given: dict[str, _Given] = field(default_factory=dict, init=False)
    _asked: float = field(default=float("-inf"), init=False)
    _wait: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise InputFault(INSTALL) from None
        self._cluster = slurm_jobs.cluster()
        if not self._cluster:
            raise InputFault("SLURM does not answer here (`scontrol show config`); expected a machine of the cluster")

    def attach(self, listen: Callable[[dict[str, Any]], None]) -> None:
        """Have every event of a worker, as `study.worker` describes them, passed on from within `poll`."""
        self.listen = listen

    @property
    def slots(self) -> int:
        """How many packs may run at once."""
        return self.resources.parallel

    def running(self) -> dict[str, Pack]:
        """Take over the packs that wait or run, whoever submitted them; return them by handle."""
        taken, judge = {}, Judge()
        for handle, pack, record, job in submitted(self.store, self._cluster):
            if job is not None and job.active:
                log = self._log(job, "out")
                self._given[handle] = _Given(record, job, log.stat().st_size if log.exists() else 0)
                taken[handle] = pack
            # Another driver may be about to submit what SLURM does not know.
            elif job is not None or judge.alive(record.owner) is False or self._through(pack):
                records.delete(self.store, handle)
        return taken

    def _through(self, pack: Pack) -> bool:
        return all(self.store.has(trial.id, pack.attempts.get(trial.id, 1)) for trial in pack.trials)

    def submit(self, packs: Iterable[Pack]) -> list[str]:
        """Write packs as JSON files and submit them; return a handle for each.

        Raises
        ------
        WorkerFault
            If SLURM refuses them, with its reason.
        """
        left, handles = list(packs), []
        while left:
            handles += self._submit_array(left[:ARRAY])
            del left[:ARRAY]
        self._wait = 1.0
        return handles

    def _submit_array(self, packs: Sequence[Pack]) -> list[str]:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = records.job_name(packs[0].study)
        folder = self.store.folder.resolve()
        # A folder that is new: submitit unpickles what it finds there under a job's number.
        logs = logs_of(Store(folder), name)
        handles = [uuid.uuid4().hex for _ in packs]
        for index, (handle, pack) in enumerate(zip(handles, packs, strict=True)):
            record = Record("slurm", Process.of(os.getpid()), name, index, self._cluster)
            records.write(self.store, handle, pack, record)
            self._given[handle] = _Given(record)
        try:
            # Preempted jobs may start again any number of times; who reaches the time limit must have made progress.
            executor = submitit.SlurmExecutor(logs, max_num_timeout=1_000_000)
            executor.update_parameters(**parameters(self.resources, name))
            with executor.batch():
                for handle in handles:
                    path = str(records.file(Store(folder), handle))
                    given = str(logs.relative_to(folder))
                    executor.submit(PackJob(str(folder), path, given, self.resources.minutes, self.command))
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            for handle in handles:
                del self._given[handle]
                records.delete(self.store, handle)
            if is_full(error):
                raise
            raise WorkerFault(f"SLURM took no jobs: {' '.join(str(error).split())[-600:]}") from error
        return handles

    def poll(self) -> dict[str, State]:
        """Wait a second at most, and return the state of every pack if it was time to ask SLURM for it.

        A pack that is `done` or `lost` is named once and then forgotten.

        Raises
        ------
        FullDisk
            If a job found no room; the others go on as far as they can.
        """
        left = self._asked + self._wait - time.monotonic()
        if left > 0:
            time.sleep(min(1.0, left))
            return {}
        if not self._given:
            return {}
        self._wait = min(self.every, 1.1 * self._wait)
        found = slurm_jobs.mine({given.record.name for given in self._given.values()})
        self._asked = time.monotonic()
        if found is None:  # SLURM is down for a while; jobs go on without it
            return {}
        jobs = _by_place(found)
        states = {}
        for handle, given in list(self._given.items()):
            job = jobs.get((given.record.name, given.record.index))
            states[handle] = self._state(given, job)
            if states[handle].name in ("done", "lost"):
                del self._given[handle]
                records.delete(self.store, handle)
        return states

    def cancel(self, handles: Iterable[str]) -> None:
        """End the jobs of packs, and forget the packs."""
        doomed = {handle: self._given.pop(handle) for handle in handles if handle in self._given}
        jobs = _by_place(slurm_jobs.mine({given.record.name for given in doomed.values()}) or [] if doomed else [])
        places = {(given.record.name, given.record.index) for given in doomed.values()}
        slurm_jobs.cancel([job.id for place, job in jobs.items() if place in places and job.active])
        for handle in doomed:
            records.delete(self.store, handle)

    def close(self) -> None:
        """Leave; the jobs go on."""

    def _state(self, given: _Given, job: Job | None) -> State:
        given.job = job or given.job
        if job is not None and job.active:
            given.over = ""
            self._hear(given, job)
            return State("queued" if job.waits else "running", self._log(job, "err"), job.reason)
        if job is not None and job.state == "COMPLETED":
            self._hear(given, job)
            return State("done", self._log(job, "err"))
        over = job.state if job is not None else "forgotten"
        if over != given.over:  # a job that is being put back into the queue may look as if it had ended
            given.over, self._wait = over, 1.0
            return State("running")
        if given.job is not None:
            self._hear(given, given.job)
        return ended(self.store, given.job)

    def _hear(self, given: _Given, job: Job) -> None:
        """Pass on what the worker has told since the last time."""
        events, given.read = read_on(self._log(job, "out"), given.read)
        for event in events:
            if event["event"] in ("step", "result"):
                self.listen(event)
            elif event["event"] == "full":
                raise FullDisk(message(self.store.folder, event["error"], event["path"]))

    def _log(self, job: Job, kind: str) -> Path:
        return log_of(self.store, job, kind)


def logs_of(store: Store, name: str) -> Path:
    """Return the folder of an array's logs."""
    return store.logs / "slurm" / name


def log_of(store: Store, job: Job, kind: str = "err") -> Path:
    """Return the log of a job: `err` holds what it logs, `out` the worker's events."""
    return logs_of(store, job.name) / f"{job.id}_0_log.{kind}"


def submitted(store: Store, cluster: str) -> list[tuple[str, Pack, Record, Job | None]]:
    """Return the packs of a store that this user gave to a cluster, each with its job, if SLURM remembers it.

    Raises
    ------
    WorkerFault
        If SLURM does not answer.
    """
    packs = [
        (handle, pack, record)
        for handle, pack, record in records.read(store)
        if record.executor == "slurm" and record.cluster == cluster and record.owner.user == os.getuid()
    ]
    found = slurm_jobs.mine({record.name for _, _, record in packs}) if packs else []
    if found is None:
        raise WorkerFault("SLURM does not answer (`squeue`), so it is not known which packs wait or run; try again")
    jobs = _by_place(found)
    return [(handle, pack, record, jobs.get((record.name, record.index))) for handle, pack, record in packs]


def ended(store: Store, job: Job | None) -> State:
    """Return the state of a pack whose job ended, or is not known any more, without having completed."""
    if job is None:
        return State("lost", reason="SLURM does not know its job any more")
    state = job.state if not job.active else slurm_jobs.ended([job.id]).get(job.id, "")
    how = f"ended as {state}" if state else "is not known to SLURM any more"
    log = log_of(store, job)
    return State("lost", log if log.exists() else None, f"the SLURM job {job.id} {how}; {end_of(log)}")


def parameters(resources: Resources, name: str) -> dict[str, Any]:
    """Return what submitit is told: the words of `sbatch`, and its own."""
    asked = {key: getattr(resources, key) for key in ("partition", "account", "qos", "constraint", "gres", "exclude")}
    if resources.gpus:
        asked["gpus_per_node"] = resources.gpus
    if resources.cpus:
        # srun does not take the number over from sbatch since SLURM 22.05.
        asked |= {"cpus_per_task": resources.cpus, "srun_args": [f"--cpus-per-task={resources.cpus}"]}
    further: dict[str, Any] = {"requeue": True}
    if resources.memory:
        further["mem"] = resources.memory
    return {
        **{key: value for key, value in asked.items() if value is not None},
        "job_name": name,
        "time": resources.minutes,
        "signal_delay_s": NOTICE,
        "array_parallelism": resources.parallel,
        "wckey": None,
        "additional_parameters": further,
    }


def _by_place(jobs: Iterable[Job]) -> dict[tuple[str, int], Job]:
    """Return jobs by name and place in their array; of two, one that is not over."""
    return {(job.name, job.index): job for job in sorted(jobs, key=lambda job: job.active)}
