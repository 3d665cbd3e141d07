"""`adapter-study status`: how far a study is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from study.cli.shared import StudyFile
from study.study import Study


def command(
    study: StudyFile,
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say how far a study is."""
    found = Study.load(study, store).status()
    print(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


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
    finished = counts["done"] + counts["diverged"]
    others = [f"{counts[name]} {name}" for name in ("diverged", "failed", "out_of_memory", "missing") if counts[name]]
    return f"{finished} of {counts['planned']}" + (f" ({', '.join(others)})" if others else "")
