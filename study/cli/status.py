"""`adapter-study status`: how far a study is."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Annotated, Any

import typer

from adapters.faults import InputFault, printable
from study.cli.shared import StudyFile
from study.study import Study

EVERY = 5
"""Seconds between two looks of `--watch`."""


def command(
    study: StudyFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Say it anew every few seconds, until Ctrl-C.")] = False,
) -> None:
    """Say how far a study is."""
    if watch and as_json:
        raise InputFault("got --json and --watch, expected one of them: --json prints one document")
    loaded = Study.load(study, store)
    if not watch:
        found = loaded.status()
        print(json.dumps(found, ensure_ascii=False) if as_json else _text(found))
        return
    from rich.console import Console  # not above: only `--watch` needs it

    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = _text(loaded.status())
            console.clear()
            console.print(text, markup=False, soft_wrap=True)
            time.sleep(EVERY)


def _text(found: dict[str, Any]) -> str:
    """Return what is printed; errors and logs may say anything."""
    return printable("\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['study']}: {_counts(found)}", f"untuned backbone: {_counts(found['reference'])}"]
    if found["tune"]["planned"]:
        lines.insert(0, f"tuning: {_counts(found['tune'])}")
    if found["waiting"]:
        lines.append(f"{found['waiting']} missing trials of {found['study']} wait for tuning")
    if "search" in found:
        search = found["search"]
        generations = f"{search['generations']} generation{'s' * (search['generations'] != 1)}"
        planned = f"{search['planned']} of {search['budget']} trials planned"
        lines.append(f"search: {planned}, in {generations}. {search['told']}")
    now = [f"{found[name]} {name}" for name in ("running", "queued", "lost") if found[name]]
    if now:
        lines.append(f"now: {', '.join(now)}{' (the next run tries these again)' * (found['lost'] > 0)}")
    for job in found["jobs"]:
        log = f", log {job['log']}" if job["log"] else ""
        reason = f", {job['reason']}" if job["reason"] not in ("", "None") else ""
        lines.append(f"  job {job['job'] or '?'}: {job['state']}, trials without a result {job['trials']}{log}{reason}")
    for failure in found["failures"]:
        lines.append(f"failed: {failure['trial']} ({failure['id'][:12]}): {failure['error']}")
        if failure["log"]:
            lines += [f"  log {failure['log']}:", *(f"    {line}" for line in failure["lines"])]
    lines += [f"cannot be run: {reason}" for reason in found["impossible"]]
    for factor, levels in found["by_factor"].items():
        lines.append(f"{factor}:")
        width = max((len(level) for level in levels), default=0)
        lines += [f"  {level:<{width}}  {_counts(counts)}" for level, counts in levels.items()]
    if found["next"]:
        coming = found["next"]
        words = [f"{name}={value}" for name, value in (*coming["design"].items(), *coming["tunes"].items())]
        wait = "" if coming["id"] else ", waits for tuning"
        lines.append(f"next: {' '.join(words)} on {coming['task']}, seed {coming['seed']}{wait}")
    return lines


def _counts(counts: dict[str, Any]) -> str:
    finished = counts["done"] + counts["diverged"] + counts["pruned"]
    states = ("diverged", "pruned", "failed", "out_of_memory", "missing")
    others = [f"{counts[name]} {name}" for name in states if counts[name]]
    return f"{finished} of {counts['planned']}" + (f" ({', '.join(others)})" if others else "")
