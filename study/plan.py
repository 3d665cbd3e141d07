"""From a study to its trials, in order; from trials to packs; how far a plan is and how long it will take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from study.backbones.names import Source, content_hash
from study.canonical import digest
from study.config import Protocol, StudyConfig
from study.space import text
from study.trial import STATUSES, Pack, Trial

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = {"method": "none"}
"""The design of the untuned backbone, one trial for each task and seed."""

# Seconds of the built-in model on two CPU cores, alone on the machine, before any trial of a store says better: one
# picture trained on, one step of one picture drawn and scored; measured on the quick study, 80 trials in 8.5 minutes.
_TRAINED, _DRAWN = 0.0105, 0.005


def trials(study: StudyConfig) -> list[Trial]:
    """Return every trial of a study: seed, then task, then design hash, so that a part of it is whole replicates.

    The untuned backbone stands in it once for each backbone, task and seed, with the role `reference`, unless it is a
    design of the study itself.

    Raises
    ------
    InputFault
        If a backbone of the hub is not on this machine.
    """
    hashes = [content_hash(source) for source in study.backbones]
    tasks = [task.content_hash() for task in study.tasks]
    designs = [("study", design) for design in study.space.designs]
    if REFERENCE not in study.space.designs:
        designs.append(("reference", dict(REFERENCE)))
    designs.sort(key=lambda entry: digest(entry[1]))
    return [
        Trial(
            source.name,
            design,
            task.name,
            seed,
            study.protocol_of(design),
            role,
            backbone_hash=backbone_hash,
            task_hash=task_hash,
        )
        for seed in study.seeds
        for task, task_hash in zip(study.tasks, tasks, strict=True)
        for source, backbone_hash in zip(study.backbones, hashes, strict=True)
        for role, design in designs
    ]


def packs(
    study: StudyConfig, wanted: Sequence[Trial], attempts: Mapping[str, int], store: str, size: int
) -> list[Pack]:
    """Return packs of up to `size` consecutive trials of one backbone, task, seed and protocol.

    Parameters
    ----------
    attempts : mapping of trial id to int
        Attempts there are in the store; each trial gets the next one.
    """
    sources = {source.name: source for source in study.backbones}
    specs = {task.name: task for task in study.tasks}
    scorers = {name: address(source) for name, source in study.scores.items()}
    found = []
    alike = groupby(wanted, key=lambda trial: (trial.backbone, trial.task, trial.seed, trial.protocol))
    for (backbone, task, _, _), group in alike:
        together = list(group)
        for start in range(0, len(together), size):
            part = tuple(together[start : start + size])
            found.append(
                Pack(
                    trials=part,
                    backbone=address(sources[backbone]),
                    tasks={task: specs[task]},
                    scores=scorers,
                    keep=study.keep,
                    store=store,
                    study=study.name,
                    attempts={trial.id: attempts.get(trial.id, 0) + 1 for trial in part},
                )
            )
    return found


def address(source: Source) -> str | dict[str, str]:
    """Return what another process, in any folder, resolves to the same model."""
    if source.kind == "folder":
        return str(source.path)
    if source.kind == "hub" and source.revision:
        return {"id": str(source.id), "revision": source.revision}
    return source.name


def status(
    study: str, planned: Sequence[Trial], rows: pd.DataFrame, factors: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return how far a plan is.

    Parameters
    ----------
    factors : mapping of str to sequence of str
        The factors to count by, and their levels in the order to show.

    Returns
    -------
    dict
        study; planned, done, diverged, failed, out_of_memory, missing (trials of the study's designs); by_factor
        (the same for each level of each factor, and each task and seed); reference (the same for the untuned
        backbone); next (the first missing trial, or None).
    """
    found = dict(zip(rows["id"], rows["status"], strict=True)) if len(rows) else {}
    own = [trial for trial in planned if trial.role == "study"]

    def count(some: Iterable[Trial]) -> dict[str, int]:
        states = [found.get(trial.id, "missing") for trial in some]
        return {"planned": len(states), **{state: states.count(state) for state in (*STATUSES, "missing")}}

    def level(trial: Trial, factor: str) -> str | None:
        if factor in ("backbone", "task", "seed"):
            return str(getattr(trial, factor))
        return text(trial.design[factor]) if factor in trial.design else None

    by_factor: dict[str, dict[str, dict[str, int]]] = {}
    for factor, levels in factors.items():
        members: dict[str, list[Trial]] = {name: [] for name in levels}
        for trial in own:
            name = level(trial, factor)
            if name is not None:
                members[name].append(trial)
        by_factor[factor] = {name: count(some) for name, some in members.items()}
    missing = next((trial for trial in planned if trial.id not in found), None)
    return {
        "study": study,
        **count(own),
        "by_factor": by_factor,
        "reference": count(trial for trial in planned if trial.role == "reference"),
        "next": missing and {"id": missing.id, "design": missing.design, "task": missing.task, "seed": missing.seed},
    }


def seconds(wanted: Sequence[Trial], rows: pd.DataFrame) -> float | None:
    """Estimate how long trials take one after another.

    From the mean time of rows with the same protocol if there are any; else, for the built-in model, from its measured
    speed on two CPU cores; None for another backbone that has no rows yet.
    """
    timed = rows[rows["status"].isin(["done"]) & rows["pack_seconds"].notna()] if len(rows) else rows
    means: dict[tuple[str, str], float] = {}
    if len(timed):
        from study.canonical import canonical_json

        by = timed.groupby(["backbone_hash", "protocol_json"])["pack_seconds"].mean()
        means = {(str(key[0]), str(key[1])): float(value) for key, value in by.items()}  # type: ignore[index]
    total = 0.0
    for trial in wanted:
        if means:
            key = trial.backbone_hash, canonical_json(trial.protocol.model_dump(mode="json"))
            if key in means:
                total += means[key]
                continue
        guess = _guess(trial.protocol, trial.design == REFERENCE) if trial.backbone == "micro-unet" else None
        if guess is None:
            return None
        total += guess
    return total


def _guess(protocol: Protocol, untuned: bool) -> float:
    rows = protocol.batch + (protocol.prior_batch if protocol.prior_weight > 0 else 0)
    training = 0 if untuned else protocol.steps * rows * _TRAINED
    return training + protocol.pictures * protocol.sampling_steps * 2 * _DRAWN
