"""Who runs something: enough to tell later, here or on another machine, whether that process still does."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters.faults import printable
from study.executors import ray_cluster, slurm_jobs

LOG = "ADAPTER_STUDY_LOG"
"""Environment variable of a worker: the file that its standard error goes to, from the store's folder."""


@dataclass(frozen=True)
class Process:
    """A process, among all of the machines that share a store.

    Attributes
    ----------
    host, machine, boot, namespace : str
        The machine's name and id; the id of its boot, and of the namespace that process numbers count in (a container
        has its own).
    pid, start : int
        Its number, and the tick since the boot at which it started, as the number may be used again.
    user : int
    cluster, job : str
        The SLURM job it belongs to, if any.
    restart : int
        How often that job had been started again.
    ray : str
        Where in a Ray cluster it runs, if it does; as `study.executors.ray_cluster.Place` says it.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    start: int
    user: int
    cluster: str = ""
    job: str = ""
    restart: int = 0
    ray: str = ""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return a process of this machine, started by this one or by the same job."""
        namespace = ""
        with contextlib.suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid")
        return cls(
            host=socket.gethostname(),
            machine=_read("/etc/machine-id"),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            namespace=namespace,
            pid=pid,
            start=_start(pid) or 0,
            user=os.getuid(),
            cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
            job=slurm_jobs.own_job(),
            restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            ray=os.environ.get(ray_cluster.VARIABLE, ""),
        )

    @classmethod
    def from_json(cls, data: Any) -> Process | None:
        """Return the process that `to_json` wrote; None if it is no such thing."""
        known = {each.name: each.type for each in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != set(known):
            return None
        wanted = {"str": str, "int": int}
        if not all(type(data[name]) is wanted[str(kind)] for name, kind in known.items()):
            return None
        numbers = [data[name] for name, kind in known.items() if kind == "int"]
        return cls(**data) if data["pid"] > 0 and all(0 <= number < 2**63 for number in numbers) else None

    def to_json(self) -> dict[str, Any]:
        """Return the process as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return printable(f"job {self.job} on {self.host}" if self.job else f"process {self.pid} on {self.host}")


class Judge:
    """Tells of processes whether they still run, as far as that can be told from here.

    That a job or a Ray node runs it remembers; that one does not is asked anew, as it may have begun since.
    """

    def __init__(self) -> None:
        self._here = Process.of(os.getpid())
        self._active: set[str] = set()
        self._view: ray_cluster.View | None = None

    def alive(self, process: Process) -> bool | None:
        """Say whether a process still runs; None if that cannot be told from here.

        It can of processes of this machine, of those in the Ray cluster that this one is connected to, of jobs of the
        same user on a cluster whose `squeue` answers here, of an earlier start of one's own job, and of what ran before
        this machine was started again.
        """
        here = self._here
        if here.boot and (process.boot, process.namespace) == (here.boot, here.namespace):
            return _runs(process.pid, process.start)
        if (place := ray_cluster.Place.parse(process.ray)) is not None:
            known = self._in_ray(place)
            if known is not None:
                return known
        if process.job:
            if (process.cluster, process.job) == (here.cluster, here.job) and process.restart < here.restart:
                return False
            if process.user == here.user and process.cluster and process.cluster == self._cluster:
                active = self._job_active(process.job)
                if not (active and process.ray):  # Ray may have ended it, within a job that goes on
                    return active
        if here.machine and (process.host, process.machine) == (here.host, here.machine) and process.boot != here.boot:
            return False
        return None

    def _in_ray(self, place: ray_cluster.Place) -> bool | None:
        if self._view is None or not self._view.alive(place):
            self._view = ray_cluster.view()
        return self._view.alive(place) if self._view is not None else None

    @cached_property
    def _cluster(self) -> str:
        return self._here.cluster or slurm_jobs.cluster()

    def _job_active(self, id: str) -> bool | None:
        if id not in self._active:
            found = slurm_jobs.mine()
            if found is None:
                return None
            self._active = {job.id for job in found if job.active}
        return id in self._active


def _runs(pid: int, start: int) -> bool:
    started = _start(pid)
    if started is not None:
        return started == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # no process has such a number
        return False
    except PermissionError:  # another user's, whose processes this one may not see
        return True
    return not Path(f"/proc/{pid}/stat").exists() and not Path("/proc/self/stat").exists()


def _start(pid: int) -> int | None:
    """Return the tick since the boot at which a process started; None if there is none, or it is dead."""
    told = _read(f"/proc/{pid}/stat")
    after = told[told.rfind(")") + 2 :].split()  # the program's name, in brackets, may hold anything
    if len(after) < 20 or after[0] in "ZX":
        return None
    return int(after[19])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
