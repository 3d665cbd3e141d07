"""What goes on in a store: trials that run, wait or were lost, and where failed ones tell why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.claims import Claims
from study.executors import records, slurm_jobs
from study.executors.endings import last_lines
from study.executors.local import WorkerFault
from study.process import Judge
from study.store import Store
from study.trial import FINAL, Trial

if TYPE_CHECKING:
    import pyarrow as pa

_LINES = 5
_TRACES = ("Traceback (most", "During handling of the above", "The above exception was")
"""How lines of a traceback begin, besides those that are indented and the exception itself."""


def activity(
    store: Store, trials: Sequence[Trial], rows: pa.Table, pruned: Collection[str] = ()
) -> dict[str, Any]:
    """Return what goes on with the trials of a plan, of which some were pruned by its own search.

    Parameters
    ----------
    rows : pyarrow.Table
        As `study.store.Store.table` returns them.

    Returns
    -------
    dict
        `running`, `queued`, `lost`: numbers of trials that have no result yet: those that a process is at, or whose job
        runs; those that wait for one; those whose job or process ended without their row, which the next `run` tries
        again. `jobs`: for each pack of a cluster its state, job (of Ray the pack's handle), trials without a result,
        log and reason. `failures`: for each failed trial its id, what it is, the error, the log's path and the last
        lines there that speak of it.
    """
    judge = Judge()
    noted: list[tuple[str, int, str]] = []
    for (id, attempt), holder in Claims(store.claims).all().items():
        if holder is not None:
            noted.append((id, attempt, "lost" if judge.alive(holder) is False else "running"))
    jobs = [*_jobs(store), *_tasks(store, judge)]
    for job in jobs:
        noted += [(id, attempt, job["state"]) for id, attempt in job["attempts"].items()]
    for _, pack, record in records.read(store):
        if record.executor == "local":
            state = "lost" if judge.alive(record.owner) is False else "queued"
            noted += [(id, attempt, state) for id, attempt in pack.attempts.items()]
    places = [place for place, status in enumerate(rows["status"].to_pylist()) if status not in FINAL]
    failed = rows.take(places).to_pylist() if places else []
    spoken_of = {*(id for id, _, _ in noted), *(row["id"] for row in failed)}.difference(pruned)  # few of many trials
    names = {trial.id: trial for trial in trials if trial.id in spoken_of}
    known = _known(rows, names)

    def unfinished(id: str, attempt: int) -> bool:
        final, last = known.get(id, (False, 0))
        return id in names and not final and attempt != last

    order = ("lost", "queued", "running")
    states: dict[str, str] = {}
    for id, attempt, state in noted:
        if unfinished(id, attempt):
            states[id] = max(state, states.get(id, "lost"), key=order.index)
    for job in jobs:
        job["trials"] = sum(unfinished(id, attempt) for id, attempt in job.pop("attempts").items())
    counts = list(states.values())
    return {
        **{state: counts.count(state) for state in ("running", "queued", "lost")},
        "jobs": [job for job in jobs if job["trials"]],
        "failures": _failures(store, names, failed),
    }


def _known(rows: pa.Table, some: Collection[str]) -> dict[str, tuple[bool, int]]:
    """Return of some trials that have a row whether it is final, and its attempt."""
    if not some:
        return {}
    lists = (rows[name].to_pylist() for name in ("id", "status", "attempt"))
    return {id: (status in FINAL, attempt) for id, status, attempt in zip(*lists, strict=True) if id in some}


def _jobs(store: Store) -> list[dict[str, Any]]:
    packs = list(records.read(store))
    if not any(record.executor == "slurm" for _, _, record in packs):
        return []
    from study.executors.slurm import ended, log_of, submitted

    try:
        found = submitted(store, slurm_jobs.cluster())
    except WorkerFault:
        return []
    told = []
    for _, pack, _, job in found:
        if job is not None and job.active:
            state = "queued" if job.waits else "running"
            log: Path | None = log_of(store, job)
            reason = job.reason if job.waits else ""
        else:
            lost = ended(store, job)
            state, log, reason = "lost", lost.log, lost.reason
        told.append(
            {
                "state": state,
                "job": job.id if job is not None else None,
                "log": str(log) if log is not None and log.exists() else None,
                "reason": reason,
                "attempts": dict(pack.attempts),
            }
        )
    return told


def _tasks(store: Store, judge: Judge) -> list[dict[str, Any]]:
    told = []
    for handle, pack, record in records.read(store):
        if record.executor != "ray":
            continue
        log = store.logs / "ray" / f"{handle}.err"
        state = "running" if log.exists() else "queued"
        gone = judge.alive(record.owner) is False
        told.append(
            {
                "state": "lost" if gone else state,
                "job": handle[:12],
                "log": str(log) if log.exists() else None,
                "reason": "its driver has ended" if gone else "",
                "attempts": dict(pack.attempts),
            }
        )
    return told


def _failures(store: Store, names: dict[str, Trial], failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told = []
    for row in failed:
        if row["id"] not in names:
            continue
        label, log = names[row["id"]].label(), row.get("log")
        path = _own_log(store, log) if isinstance(log, str) and log else None
        told.append(
            {
                "id": row["id"],
                "trial": label,
                "error": row["error"],
                "log": str(path) if path is not None else None,
                "lines": lines_about(path, label) if path is not None else [],
            }
        )
    return told


def _own_log(store: Store, log: str) -> Path | None:
    """Return the log that a row names, if it is one of the store's."""
    path = store.folder / log
    try:
        return path if path.resolve().is_relative_to(store.logs.resolve()) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # links in a circle; a name that no file can have
        return None


def lines_about(log: Path, label: str) -> list[str]:
    """Return the last lines of a log that tell how a trial failed; of all of it, if none names the trial."""
    lines = [line.rstrip() for line in last_lines(log) if line.strip()]
    begins = [index for index, line in enumerate(lines) if f"{label} failed" in line]
    if not begins:
        return lines[-_LINES:]
    own = lines[begins[-1] : begins[-1] + 1]
    raised = False
    for line in lines[begins[-1] + 1 :]:
        dated = line[:4].isdigit() and line[4:5] == "-"  # the next message begins with its date
        if dated or (raised and not line.startswith(_TRACES)):  # what trials print later has none
            break
        own.append(line)
        raised = not line.startswith((" ", *_TRACES))
    return own[-_LINES:]
