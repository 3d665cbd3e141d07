"""What SLURM says of jobs: `squeue` for those it remembers, `sacct` for older ones where accounting is on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States a job does not leave by itself; all others are of jobs that wait or run."""

_WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_PATIENCE = 60


@dataclass(frozen=True)
class Job:
    """A job, or one element of a job array.

    Attributes
    ----------
    id : str
        Such as "17", or "17_3" in an array.
    name : str
        Of the job, the same for a whole array.
    state : str
        SLURM's word.
    reason : str
        Why it waits, or how it ended.
    """

    id: str
    name: str
    state: str
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in ENDED

    @property
    def waits(self) -> bool:
        """Whether it waits for a node."""
        return self.state in _WAITING

    @property
    def index(self) -> int:
        """Its place in the array."""
        _, _, place = self.id.partition("_")
        return int(place) if place.isdigit() else 0


def own_job() -> str:
    """Return the id of the job that this process belongs to; empty outside of jobs."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID", "")


def cluster() -> str:
    """Return the name of the cluster that the commands here speak to; empty if there is none."""
    for line in (_ask(["scontrol", "show", "config"]) or "").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "ClusterName":
            return value.strip()
    return ""


def mine(names: Iterable[str] = ()) -> list[Job] | None:
    """Return this user's jobs, of some names or all, those that ended a few minutes ago included.

    Returns
    -------
    list of Job or None
        None if SLURM does not answer.
    """
    command = ["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%j|%T|%r"]
    wanted = sorted(set(names))
    told = _ask([*command, "-n", ",".join(wanted)] if wanted else command)
    if told is None:
        return None
    parts = [line.strip().split("|", 3) for line in told.splitlines() if line.count("|") >= 3]
    return [Job(id, name, state.split()[0], reason) for id, name, state, reason in parts]


def ended(ids: Sequence[str]) -> dict[str, str]:
    """Return the states of jobs that `squeue` has forgotten, as far as accounting knows them."""
    told = _ask(["sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", "JobID,State"]) or ""
    parts = [line.split("|", 1) for line in told.splitlines() if "|" in line]
    return {id: state.split()[0] for id, state in parts if state.strip() and id in ids}


def cancel(ids: Sequence[str]) -> None:
    """End jobs; those that have ended already are no fault."""
    if ids:
        _ask(["scancel", *ids])


def _ask(command: list[str]) -> str | None:
    """Return what a command of SLURM says; None if it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
