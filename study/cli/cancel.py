"""`adapter-study cancel`: end the jobs of a study that wait or run on a cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from study.cli.shared import StudyFile
from study.executors import records, slurm_jobs
from study.executors.local import WorkerFault
from study.executors.slurm import submitted
from study.study import Study


def command(
    study: StudyFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
) -> None:
    """End the jobs of a study that wait or run on a cluster.

    Trials that have ended keep their results. A `run` that watches the jobs would submit what is missing again: end it
    first, with Ctrl-C.
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
