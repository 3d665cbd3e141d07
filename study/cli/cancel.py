"""`adapter-study cancel`: end the jobs and tasks of a study that wait or run on a cluster."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from study.cli.shared import StudyFile
from study.executors import records, slurm_jobs
from study.executors.local import WorkerFault
from study.executors.records import Record
from study.executors.slurm import submitted
from study.process import Judge
from study.study import Study
from study.trial import Pack


def command(
    study: StudyFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
) -> None:
    """End the jobs and tasks of a study that wait or run on a cluster.

    Trials that have ended keep their results. A `run` that watches jobs of SLURM would submit what is missing again:
    end it first, with Ctrl-C. A `run` on Ray ends within seconds, wherever it is, and its tasks with it.
    """
    loaded = Study.load(study, store)
    try:
        packs = submitted(loaded.store, slurm_jobs.cluster())
    except WorkerFault as fault:
        print(f"adapter-study: {fault}", file=sys.stderr)
        raise typer.Exit(1) from None
    own = [(handle, job) for handle, pack, _, job in packs if pack.study == loaded.config.name]
    active = [job.id for _, job in own if job is not None and job.active]
    slurm_jobs.cancel(active)
    for handle, _ in own:
        records.delete(loaded.store, handle)
    print(f"{len(active)} job{'s' * (len(active) != 1)} ended")
    tasks = [(handle, record) for handle, pack, record in records.read(loaded.store) if _on_ray(pack, record, loaded)]
    judge = Judge()
    told = sum(judge.alive(record.owner) is not False for _, record in tasks)
    for handle, _ in tasks:
        records.delete(loaded.store, handle)  # which its driver heeds
    if told:
        print(f"{told} pack{'s' * (told != 1)} on Ray cancelled")


def _on_ray(pack: Pack, record: Record, study: Study) -> bool:
    return record.executor == "ray" and pack.study == study.config.name and record.owner.user == os.getuid()
