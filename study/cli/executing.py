"""Where a command has its trials run: the options that say so, and what becomes of trials when the command is left."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from adapters.faults import InputFault
from study.outcome import Executor
from study.resources import Resources
from study.store import Store

Name = Literal["local", "slurm", "ray"]
ExecutorName = Annotated[
    Name, typer.Option(help="Where trials run: on this machine, as jobs of SLURM, or as tasks of Ray.")
]
Address = Annotated[
    str | None,
    typer.Option(help="Ray: auto, HOST:PORT or ray://HOST:PORT of a cluster; else RAY_ADDRESS, or one of its own."),
]


def check_address(name: Name, address: str | None) -> None:
    """Raise InputFault if an address is given that the executor has no use for."""
    if address is not None and name != "ray":
        raise InputFault("got --address, which is for a cluster of Ray; expected --executor ray with it")


def runner_of(name: Name, store: Store, resources: Resources, address: str | None) -> Executor | None:
    """Return the executor; None of this machine, whose workers the study starts itself."""
    if name == "slurm":
        from study.executors.slurm import SlurmExecutor

        return SlurmExecutor(store, resources)
    if name == "ray":
        from study.executors.ray import RayExecutor

        runner = RayExecutor(store, resources, address)
        if runner.lacking:
            print(f"warning: no node of the Ray cluster has {runner.lacking}; trials wait for one", file=sys.stderr)
        return runner
    return None


def left(name: Name, study: str, interruption: KeyboardInterrupt) -> str:
    """Say what becomes of the trials of a command that was left."""
    if name == "slurm":
        return f"left; jobs go on. The same command takes them over, `adapter-study cancel {study}` ends them"
    return f"{str(interruption) or 'interrupted'}; what had finished is stored, the same command goes on"
