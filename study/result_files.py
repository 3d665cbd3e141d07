"""What of a result goes into which file of a store: its row, its pictures, its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from study.canonical import canonical_json
from study.columns import MEASURED, SCORES
from study.space import factor_texts
from study.trial import STATUSES, TrialResult


def row_of(result: TrialResult, study: str, attempt: int) -> dict[str, Any]:
    """Return the row of a result.

    Raises
    ------
    ValueError
        If the result has a status, score or column that a store does not know.
    """
    trial = result.trial
    unknown = [*set(result.scores) - set(SCORES), *set(result.columns) - set(MEASURED)]
    if unknown or result.status not in STATUSES:
        raise ValueError(
            f"the result of {trial.label()} has the status {result.status!r} (known: {', '.join(STATUSES)}) "
            f"and unknown columns {sorted(unknown)} (known: {', '.join([*SCORES, *MEASURED])})"
        )
    return {
        **factor_texts(trial.design),
        **{name: float(result.scores.get(name, math.nan)) for name in SCORES},
        **result.columns,
        "id": trial.id,
        "attempt": attempt,
        "study": study,
        "role": trial.role,
        "plan": trial.plan,
        "status": result.status,
        "error": result.error,
        "design_json": canonical_json(trial.design),
        "task": trial.task,
        "task_hash": trial.task_hash,
        "seed": trial.seed,
        "backbone": trial.backbone,
        "backbone_hash": trial.backbone_hash,
        "protocol_json": canonical_json(trial.protocol.model_dump(mode="json")),
    }


def save_pictures(folder: Path, files: list[str], pictures: Iterable[Any]) -> None:
    """Write pictures under their files' names."""
    from PIL import Image

    for file, picture in zip(files, pictures, strict=True):
        # Lossless, so that a score computed later from the kept pictures is the score of what was drawn.
        Image.fromarray(picture).save(folder / file, lossless=True)


def save_weights(folder: Path, result: TrialResult, row: Mapping[str, Any]) -> None:
    """Write the trained weights, with what the row says of where they come from."""
    from study.control_encoder import save_adapter

    assert result.adapter is not None
    told = ("id", "study", "backbone", "backbone_hash", "task", "seed")
    metadata = {
        **{name: row[name] for name in told},
        "protocol": json.loads(row["protocol_json"]),
        "scores": {name: value for name, value in result.scores.items() if math.isfinite(value)},
    }
    if result.pictures:
        metadata["size"] = len(result.pictures[0])
    save_adapter(folder, result.trial.design, result.adapter, metadata, result.encoder)
