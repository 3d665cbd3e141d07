"""`adapter-study status`: how far a study is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from study.study import Study


def command(
    study: Annotated[str, typer.Argument(help="A study file, or a shipped study: quick, paper, paper-micro.")],
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say how far a study is."""
    found = Study.load(study, store).status()
    print(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['study']}: {_counts(found)}", f"untuned backbone: {_counts(found['reference'])}"]
    for factor, levels in found["by_factor"].items():
        lines.append(f"{factor}:")
        width = max((len(level) for level in levels), default=0)
        lines += [f"  {level:<{width}}  {_counts(counts)}" for level, counts in levels.items()]
    if found["next"]:
        design = " ".join(f"{name}={value}" for name, value in found["next"]["design"].items())
        lines.append(f"next: {design} on {found['next']['task']}, seed {found['next']['seed']}")
    return lines


def _counts(counts: dict[str, Any]) -> str:
    finished = counts["done"] + counts["diverged"]
    others = [f"{counts[name]} {name}" for name in ("diverged", "failed", "out_of_memory", "missing") if counts[name]]
    return f"{finished} of {counts['planned']}" + (f" ({', '.join(others)})" if others else "")
