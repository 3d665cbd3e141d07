"""`adapter-study confirm`: compare a recipe with other methods on tasks that nothing used."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from typing import Annotated, Any, Literal

import typer

from adapters.faults import InputFault
from study.cli.executing import Address, ExecutorName, check_address, left, runner_of
from study.cli.means import print_table
from study.cli.run import interrupt, together_of
from study.cli.shared import RecipeFile
from study.cli.told import warn
from study.confirm import COMPARED, Confirming
from study.executors.local import WorkerFault
from study.outcome import Outcome
from study.study import Study


def command(
    study: Annotated[str, typer.Argument(help="A study file with the section confirm, or a shipped study.")],
    recipe: RecipeFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    only: Annotated[
        Literal["missing", "failed"], typer.Option(help="failed: run the trials that failed once more, and no others.")
    ] = "missing",
    limit: Annotated[int | None, typer.Option(min=1, help="Run at most so many trials.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes: on the CPU they share its cores; or so many a GPU.")
    ] = None,
    pack: Annotated[
        str, typer.Option(help="Trials that a worker trains together; auto: as many as fit into memory and still gain.")
    ] = "auto",
    executor: ExecutorName = "local",
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare a recipe with other methods, each at its own learning rate, on tasks that nothing used.

    Trains what has no result yet, then prints the differences, paired by task, and whether the recipe is non-inferior
    to full tuning. It may be interrupted at any moment; the same command goes on. Nothing is compared before every
    trial has run. Exit code 1 if trials failed. What jobs of a cluster ask for stands in the study's `resources`.
    """
    together = together_of(pack)
    check_address(executor, address)
    loaded = Study.load(study, store)
    if not dry_run:
        loaded.fetch()
    confirming = Confirming(loaded, recipe)
    for warning in confirming.warnings():
        warn(warning)
    if dry_run:
        print(json.dumps(_document(confirming), indent=1) if as_json else "\n".join(confirming.describe()))
        return
    runner = runner_of(executor, loaded.store, loaded.config.resources, address)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its nodes
            outcome = confirming.run(only, limit, workers, together, runner)
    except WorkerFault as fault:
        print(f"adapter-study: {fault}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interruption:
        print(f"adapter-study: {left(executor, study, interruption)}", file=sys.stderr)
        raise typer.Exit(130) from None
    states = ", ".join(f"{count} {state}" for state, count in sorted(outcome.counts.items()))
    print(f"trials of the confirmation: {states}", file=sys.stderr)
    _show(confirming, as_json)
    _exit(study, recipe, outcome)


def _show(confirming: Confirming, as_json: bool) -> None:
    try:
        found = confirming.analyse()
    except InputFault as fault:
        print(f"no comparison yet: {fault}", file=sys.stderr)
        if as_json:
            print(json.dumps(_document(confirming), indent=1, allow_nan=False))
        return
    if as_json:
        print(json.dumps({**_document(confirming), "result": found.to_dict()}, indent=1, allow_nan=False))
        return
    frame = found.shown()
    frame.insert(1, "parameters", frame["against"].map(confirming.parameters()))
    primary = confirming.study.config.primary
    words = found.explain()
    if confirming.evidence:
        words += f"\n{_evidence(confirming)}"
    print_table(f"{primary}: {confirming.name} less each other method, paired by task", frame, words)


def _evidence(confirming: Confirming) -> str:
    """Return the line that shows what the recipe file says of itself."""
    from analysis.confirmation_result import SHRINKS

    told = ", ".join(f"{key} {json.dumps(value, default=str)}" for key, value in confirming.evidence.items())
    return f"The recipe file's own evidence ({SHRINKS}): {told}."


def _document(confirming: Confirming) -> dict[str, Any]:
    """Return what the JSON says of a confirmation besides its result."""
    section, rows = confirming.section, confirming.study.store.rows()
    parameters = confirming.parameters(rows)
    return {
        "study": confirming.study.config.name,
        "recipe": confirming.recipe.name,
        "backbone": confirming.backbone.name,
        "primary": confirming.study.config.primary,
        "tasks": [task.name for task in section.tasks],
        "seeds": list(section.seeds),
        "margin": section.margin,
        COMPARED: [
            {
                "name": entrant.name,
                "design": entrant.design,
                "learning_rate": entrant.protocol.learning_rate,
                "rate_from": entrant.rate_from,
                "parameters": parameters.get(entrant.name),
            }
            for entrant in confirming.entrants
        ],
        "trials": confirming.status(rows),
        "warnings": confirming.warnings(rows),
        "evidence": json.loads(json.dumps(confirming.evidence, default=str)),
        "result": None,
    }


def _exit(study: str, recipe: str, outcome: Outcome) -> None:
    for trial, reason in outcome.failed:
        print(f"failed: {trial.label()} ({trial.id[:12]}): {reason}", file=sys.stderr)
    if outcome.failed:
        print(f"`adapter-study confirm {study} {recipe} --only failed` tries these once more", file=sys.stderr)
        raise typer.Exit(1)
