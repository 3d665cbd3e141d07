"""`adapter-study run`: train and score what a study has no result for, then print the ANOVA."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from adapters.faults import InputFault
from study.cli.dry_run import describe
from study.cli.shared import GradientCheckpointing, Offload, StudyFile
from study.executors.local import WorkerFault
from study.outcome import Executor
from study.resources import Resources
from study.saving import Saving
from study.space import REFERENCE, check_levels
from study.study import Study


def command(
    study: StudyFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    only: Annotated[
        list[str],
        typer.Option(
            help="missing (by default); failed: run the trials that failed once more, and no others; "
            "design=input=SA_in,scale=2: run designs with these levels only. May be given for both."
        ),
    ] = [],  # noqa: B006 (typer reads it and never changes it)
    limit: Annotated[int | None, typer.Option(min=1, help="Run at most so many trials.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes: on the CPU they share its cores; or so many a GPU.")
    ] = None,
    pack: Annotated[
        str, typer.Option(help="Trials that a worker trains together; auto: as many as fit into memory and still gain.")
    ] = "auto",
    gradient_checkpointing: GradientCheckpointing = False,
    offload: Offload = False,
    executor: Annotated[
        Literal["local", "slurm", "ray"],
        typer.Option(help="Where trials run: on this machine, as jobs of SLURM, or as tasks of Ray."),
    ] = "local",
    partition: Annotated[str | None, typer.Option(help="SLURM: instead of the study's `resources`.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM: instead of the study's `resources`.")] = None,
    time: Annotated[str | None, typer.Option(help="SLURM: time limit of a job, such as 90m, 8h, 1-12.")] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="SLURM, Ray: jobs or tasks that run at once at most.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray: auto, HOST:PORT or ray://HOST:PORT of a cluster; else RAY_ADDRESS, or one of its own."),
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Run trials too of which it is not known whether others still run them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
) -> None:
    """Train and score every trial of a study that has no result yet, then print the ANOVA.

    With --executor slurm this command may be left at any time (Ctrl-C): jobs go on, the same command takes them over,
    and `adapter-study cancel` ends them. Tasks of Ray end with this command. Several commands, also on several
    machines, may run one study at once.

    What the study's section `tune` asks for is tuned first. A run may be interrupted at any moment; the same command
    goes on. Exit code 1 if trials of the study failed, or cannot be run because tuning them has failed.
    """
    Saving(gradient_checkpointing, offload).to_environment()
    together = together_of(pack)
    states, levels = only_of(only)
    loaded = Study.load(study, store)
    check_levels([*loaded.config.space.designs, REFERENCE], levels)
    asked = {"partition": partition, "account": account, "time": time, "parallel": parallel}
    resources = with_flags(loaded.config.resources, asked, executor)
    if address is not None and executor != "ray":
        raise InputFault("got --address, which is for a cluster of Ray; expected --executor ray with it")
    if dry_run:
        print("\n".join(describe(loaded)))
        return
    runner = _runner(executor, loaded, resources, address)
    loaded.fetch()
    for warning in loaded.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its nodes
            outcome = loaded.run(
                states, limit, workers, pack=together, executor=runner, take_over=take_over, design=levels
            )
    except WorkerFault as fault:
        print(f"adapter-study: {fault}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interruption:
        stored = f"{str(interruption) or 'interrupted'}; what had finished is stored, the same command goes on"
        on = f"left; jobs go on. The same command takes them over, `adapter-study cancel {study}` ends them"
        print(f"adapter-study: {on if executor == 'slurm' else stored}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(outcome.summary(), file=sys.stderr)
    _print_anova(loaded)
    for trial, reason in outcome.failed:
        print(f"failed: {trial.label()} ({trial.id[:12]}): {reason}", file=sys.stderr)
    if outcome.failed:
        print(f"`adapter-study run {study} --only failed` tries these once more", file=sys.stderr)
    for reason in outcome.elsewhere:
        print(reason, file=sys.stderr)
    for reason in outcome.impossible:
        print(f"cannot be run: {reason}", file=sys.stderr)
    if outcome.failed or outcome.impossible:
        raise typer.Exit(1)


def _runner(name: str, study: Study, resources: Resources, address: str | None) -> Executor | None:
    if name == "slurm":
        from study.executors.slurm import SlurmExecutor

        return SlurmExecutor(study.store, resources)
    if name == "ray":
        from study.executors.ray import RayExecutor

        runner = RayExecutor(study.store, resources, address)
        if runner.lacking:
            print(f"warning: no node of the Ray cluster has {runner.lacking}; trials wait for one", file=sys.stderr)
        return runner
    return None


def with_flags(resources: Resources, flags: Mapping[str, object], executor: str) -> Resources:
    """Return what jobs ask for, with what the command says instead of the study.

    Raises
    ------
    InputFault
        For a value that is wrong, or that the executor does not take.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name != "parallel" and executor != "slurm":
            raise InputFault(f"got --{name}, which is for jobs of SLURM; expected --executor slurm with it")
        if executor == "local":
            raise InputFault(f"got --{name}, which is for a cluster; expected --executor slurm or ray with it")
    try:
        return Resources(**{**resources.model_dump(), **given})
    except ValidationError as error:
        found = error.errors()[0]
        raise InputFault(f"--{found['loc'][0]}: {found['msg'].removeprefix('Value error, ')}") from error


def together_of(pack: str) -> int | None:
    """Read `--pack`: a number of trials, or None for `auto`.

    Raises
    ------
    InputFault
        If it is neither.
    """
    if pack == "auto":
        return None
    if pack.isdecimal() and int(pack) > 0:
        return int(pack)
    raise InputFault(f"got --pack {pack}, expected auto or a number of trials of at least 1")


def only_of(words: Sequence[str]) -> tuple[Literal["missing", "failed"], dict[str, str]]:
    """Read what `--only` says: which trials by their state, and the levels of which designs.

    Raises
    ------
    InputFault
        If a word says neither, or something is said twice.
    """
    expected = "expected missing, failed, or levels such as design=input=SA_in,output=FFN_in"
    states: list[Literal["missing", "failed"]] = []
    levels: dict[str, str] = {}
    for word in words:
        if word in ("missing", "failed"):
            states.append("failed" if word == "failed" else "missing")
            continue
        name, _, told = word.partition("=")
        if name != "design":
            raise InputFault(f"got --only {word}, {expected}")
        for part in told.split(","):
            key, is_, level = (each.strip() for each in part.partition("="))
            if not (key and is_ and level) or key in levels:
                raise InputFault(f"got --only {word}, {expected}, each key once")
            levels[key] = level
    if len(states) > 1:
        raise InputFault(f"got --only {' --only '.join(words)}, {expected}; and only one of missing and failed")
    return states[0] if states else "missing", levels


def _print_anova(study: Study) -> None:
    from analysis.declared import AUTO, RESIDUAL
    from study.cli.anova import print_table
    from study.report import analyse
    from study.report_rows import balanced

    try:
        for line in balanced(study)[1]:
            print(line, file=sys.stderr)
        print_table(analyse(study))
        elsewhere = analyse(study, AUTO)
        if elsewhere.error != RESIDUAL:
            print(f"\n{elsewhere.explain()}")
    except InputFault as fault:
        print(f"no analysis of variance yet: {fault}", file=sys.stderr)


def interrupt(number: int, frame: FrameType | None) -> None:
    """End the command on a signal as on Ctrl-C."""
    raise KeyboardInterrupt
