"""From a study to its trials, in order; from trials to packs; how far a plan is and how long it will take."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from study import tuning
from study.backbones.names import BACKBONES, Source, commit_of, content_hash
from study.canonical import canonical_json, digest
from study.config import Protocol, StudyConfig
from study.executors.local import driver
from study.space import REFERENCE, text
from study.trial import PRUNED, STATUSES, Pack, Trial

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from study.tasks.specs import TaskSpec

# Seconds of a built-in model, which cost about the same, on two CPU cores, alone on the machine, before any trial of a
# store says better: one picture trained on, one step of one picture drawn and scored; measured on the quick study of
# micro-unet, 80 trials in 8.5 minutes.
_TRAINED, _DRAWN = 0.0105, 0.005

TIMED = ("task", "backbone_hash", "protocol_json", "device", "pack_seconds", "pack_size")
"""The columns of the rows that `seconds` looks at."""

# Trials that a worker of several gets at least, enough to train together, and that any gets at most: a worker that dies
# makes the driver hand out all of its pack anew.
_LEAST, _MOST = 4, 256

_REPLICATE = ("backbone", "task", "seed")
"""What a trial is besides its design."""


@dataclass(frozen=True)
class Waiting:
    """What is a trial as soon as its group is tuned; until then it has no protocol, and so no identity.

    Attributes
    ----------
    backbone, task : str
        Names.
    possible : bool
        False if all grid points of the group have a diverged trial: then it never becomes one.
    """

    backbone: str
    design: dict[str, Any]
    task: str = ""
    seed: int = 0
    possible: bool = True

    def on(self, task: str, task_hash: str, seed: int) -> Waiting:
        """Return the same on another task or seed."""
        return replace(self, task=task, seed=seed)


def trials(study: StudyConfig, choices: Sequence[tuning.Choice]) -> list[Trial]:
    """Return every trial of a study whose protocol is known, those of the tuning aside.

    In order of seed, then task, then design hash, so that a part of it is whole replicates. The untuned backbone stands
    in it once for each backbone, task and seed, with the role `reference`, unless it is a design of the study itself.

    Parameters
    ----------
    choices : sequence of Choice
        As `study.tuning.choices` returns them; none if the study tunes nothing.

    Raises
    ------
    InputFault
        If a backbone of the hub is not on this machine.
    """
    # Hundreds of thousands of objects, none of them garbage: to search them for it again and again takes time.
    searched = gc.isenabled()
    gc.disable()
    try:
        return [each for each in _planned(study, choices) if isinstance(each, Trial)]
    finally:
        if searched:
            gc.enable()


def waiting(study: StudyConfig, choices: Sequence[tuning.Choice]) -> list[Waiting]:
    """Return what else a study plans: the trials whose protocol is not known, in the same order."""
    return [each for each in _planned(study, choices) if isinstance(each, Waiting)] if study.tune else []


def _planned(study: StudyConfig, choices: Sequence[tuning.Choice]) -> Iterator[Trial | Waiting]:
    maker = Maker(study, choices)
    cells = [maker.make(source, role, design) for source in study.backbones for role, design in _designs(study, source)]
    for seed in study.seeds:
        for task in study.tasks:
            for cell in cells:
                yield cell.on(task.name, maker.tasks[task.name], seed)


def number(study: StudyConfig) -> int:
    """Return how many trials `trials` and `waiting` give together."""
    cells = sum(len(_designs(study, source)) for source in study.backbones)
    return cells * len(study.tasks) * len(study.seeds)


class Maker:
    """Makes the trials of a study, each under the protocol that its group's tuning has chosen.

    Attributes
    ----------
    tasks : dict of str to str
        The content hash of each task of the study.
    """

    def __init__(self, study: StudyConfig, choices: Sequence[tuning.Choice]) -> None:
        self._study = study
        self._tuned = {canonical_json(design): group.name for group in tuning.groups(study) for design in group.designs}
        self._found = {(choice.backbone, choice.group.name): choice for choice in choices}
        self._hashes = {source.name: content_hash(source) for source in study.backbones}
        self.tasks = {task.name: task.content_hash() for task in study.tasks}

    def make(self, source: Source, role: str, design: dict[str, Any]) -> Trial | Waiting:
        """Return a design's trial, or what will be one, to be put `on` a task and seed."""
        group = self._tuned.get(canonical_json(design))
        choice = self._found.get((source.name, group)) if group is not None else None
        point = choice.chosen if choice is not None else None
        if group is not None and point is None:
            return Waiting(source.name, design, possible=choice is None or choice.waits)
        protocol = self._study.protocol_of(design, point.values if point is not None else None)
        return Trial(source.name, design, "", 0, protocol, role, backbone_hash=self._hashes[source.name])

    def references(self, source: Source, replicates: Iterable[tuple[TaskSpec, int]]) -> list[Trial]:
        """Return the trials of the untuned backbone, unless it is a design of the study itself."""
        if REFERENCE in self._study.space.designs:
            return []
        made = self.make(source, "reference", dict(REFERENCE))
        assert isinstance(made, Trial)  # the untuned backbone is never tuned
        return [made.on(task.name, self.tasks[task.name], seed) for task, seed in replicates]


def _designs(study: StudyConfig, source: Source) -> list[tuple[str, dict[str, Any]]]:
    """Return what is run on a backbone, with its role, in order of the designs' hashes."""
    designs = [("study", design) for design in study.designs_on(source)]
    if REFERENCE not in study.space.designs:
        designs.append(("reference", dict(REFERENCE)))
    return sorted(designs, key=lambda entry: digest(entry[1]))


def packs(
    study: StudyConfig,
    wanted: Sequence[Trial],
    attempts: Mapping[str, int],
    store: str,
    workers: int = 1,
    together: int | None = None,
) -> list[Pack]:
    """Part trials into packs for workers: of consecutive trials of one backbone, large ones first.

    One worker gets all trials at once. Several get ever smaller packs, so that they end at about the same time.
    The weights of trials that decide the tuning are not kept, nor their pictures unless all are: only their scores are
    wanted.

    Parameters
    ----------
    attempts : mapping of trial id to int
        Attempts there are in the store; each trial gets the next one.
    together : int, optional
        As `Pack.together`.
    """
    sources = {source.name: source for source in study.backbones}
    specs = {task.name: task for task in (*study.tasks, *(study.tune.tasks if study.tune else ()))}
    scorers = {name: address(source) for name, source in study.scores.items()}
    found = []
    for (backbone, role), group in groupby(wanted, key=lambda trial: (trial.backbone, trial.role == "tune")):
        left = list(group)
        while left:
            size = _share(len(left), workers, together)
            part, left = tuple(left[:size]), left[size:]
            found.append(
                Pack(
                    trials=part,
                    backbone=address(sources[backbone]),
                    tasks={task: specs[task] for task in dict.fromkeys(trial.task for trial in part)},
                    scores=scorers,
                    keep="none" if role else study.keep,
                    store=store,
                    study=study.name,
                    attempts={trial.id: attempts.get(trial.id, 0) + 1 for trial in part},
                    together=together,
                    checkpoint=study.resources.checkpoint_seconds,
                    tensorboard=study.resources.tensorboard,
                    keep_pictures="none" if role and study.keep_pictures != "all" else study.keep_pictures,
                )
            )
    return found


def _share(left: int, workers: int, together: int | None) -> int:
    """Return how many of the trials that are left the next worker gets: whole packs, if their size is asked for."""
    if workers == 1:
        return min(left, _MOST)
    least = together or _LEAST
    size = max(least, min(-(-left // (2 * workers)), _MOST))
    return size // least * least if together else size


def address(source: Source) -> str | dict[str, str]:
    """Return what another process, in any folder, resolves to the same model: of the hub's, the commit that is here."""
    if source.kind == "folder":
        return str(source.path)
    if source.kind == "hub" and (revision := commit_of(source) or source.revision):
        return {"id": str(source.id), "revision": revision}
    return source.name


def status(
    study: str,
    planned: Sequence[Trial],
    rows: pa.Table,
    factors: Mapping[str, Sequence[str]],
    tune: Sequence[Trial] = (),
    unknown: Sequence[Waiting] = (),
    pruned: Collection[str] = (),
) -> dict[str, Any]:
    """Return how far a plan is.

    Parameters
    ----------
    rows : pyarrow.Table
        As `study.store.Store.table` returns them.
    factors : mapping of str to sequence of str
        The factors to count by, and their levels in the order to show.
    tune : sequence of Trial
        The trials that decide the tuning.
    unknown : sequence of Waiting
        The trials whose protocol is not known yet; they count as planned and missing.
    pruned : collection of str
        The ids of the trials that the plan's own search has pruned.

    Returns
    -------
    dict
        study; planned, done, diverged, pruned, failed, out_of_memory, missing (trials of the study's designs);
        by_factor (the same for each level of each factor, and each task and seed); reference (the same for the untuned
        backbone); tune (the same for the tuning); waiting (trials of the study's designs that wait for tuning); next
        (the first missing trial, and what it tunes if it does; its id is None if it waits for tuning; or None).
    """
    found = dict(zip(rows["id"].to_pylist(), rows["status"].to_pylist(), strict=True))
    found |= dict.fromkeys(pruned, PRUNED)
    own: list[Trial | Waiting] = [*(trial for trial in planned if trial.role == "study"), *unknown]

    def states(some: Iterable[Trial | Waiting]) -> list[str]:
        return [found.get(trial.id, "missing") if isinstance(trial, Trial) else "missing" for trial in some]

    def counts(states: Mapping[str, int]) -> dict[str, int]:
        told = {state: states.get(state, 0) for state in (*STATUSES, "missing")}
        return {"planned": sum(states.values()), **told}

    own_states = states(own)
    designs = {id(trial.design): trial.design for trial in own}  # of thousands of trials few designs
    of_designs = Counter(zip((id(trial.design) for trial in own), own_states, strict=True))
    replicate = attrgetter(*_REPLICATE)
    of_replicates = Counter(zip(map(replicate, own), own_states, strict=True))
    by_factor: dict[str, dict[str, dict[str, int]]] = {}
    for factor, levels in factors.items():
        members: dict[str, Counter[str]] = {name: Counter() for name in levels}
        if factor in _REPLICATE:
            for (own_levels, state), number in of_replicates.items():
                members[str(own_levels[_REPLICATE.index(factor)])][state] += number
        else:
            for (place, state), number in of_designs.items():
                if factor in designs[place]:
                    members[text(designs[place][factor])][state] += number
        by_factor[factor] = {name: counts(some) for name, some in members.items()}
    wait = [trial for trial in unknown if trial.possible]
    missing = (trial for trial in (*tune, *planned) if trial.id not in found)
    coming: list[Trial | Waiting] = [*islice(missing, 1), *wait]
    return {
        "study": study,
        **counts(Counter(own_states)),
        "by_factor": by_factor,
        "reference": counts(Counter(states(trial for trial in planned if trial.role == "reference"))),
        "tune": counts(Counter(states(tune))),
        "waiting": len(wait),
        "next": _named(coming[0]) if coming else None,
    }


def _named(trial: Trial | Waiting) -> dict[str, Any]:
    named: dict[str, Any] = {"id": None, "design": trial.design, "task": trial.task, "seed": trial.seed, "tunes": {}}
    if isinstance(trial, Trial):
        named |= {"id": trial.id, "tunes": {key: getattr(trial.protocol, key) for key in trial.tunes}}
    return named


def stand_ins(study: StudyConfig, cells: Iterable[Waiting]) -> list[Trial]:
    """Return trials that take as long as those that wait for tuning: under a point that its group tries."""
    searched = study.tune.searched if study.tune else None
    groups = tuning.groups(study)
    points = {canonical_json(design): group.like(searched) for group in groups for design in group.designs}
    hashes = {source.name: content_hash(source) for source in study.backbones}
    return [
        Trial(
            cell.backbone,
            cell.design,
            cell.task,
            cell.seed,
            study.protocol_of(cell.design, points.get(canonical_json(cell.design))),
            backbone_hash=hashes[cell.backbone],
        )
        for cell in cells
    ]


def seconds(study: StudyConfig, wanted: Sequence[Trial], rows: pd.DataFrame) -> float | None:
    """Estimate how long trials of a study take one after another.

    From the mean time of rows of its tasks with the same protocol, learning rate aside, that were made on a device like
    this machine's, CPU or GPU, if there are any; else, for the built-in models, from their measured speed on two CPU
    cores; None for another backbone that has no such rows yet.
    """
    parts = (study.tasks, study.tune.tasks if study.tune else (), study.confirm.tasks if study.confirm else ())
    areas = {task.name: _area(task) for tasks in parts for task in tasks}
    timed = rows
    if len(rows):
        alike = rows["device"].fillna("").str.startswith("cpu") == (driver() is None)
        timed = rows[(rows["status"] == "done") & rows["pack_seconds"].notna() & alike & rows["task"].isin(list(areas))]
    means: dict[tuple[str, str, float], float] = {}
    if len(timed):
        costs = {told: _cost(json.loads(told)) for told in timed["protocol_json"].unique()}
        each = timed["pack_seconds"] / timed["pack_size"].fillna(1)
        by = each.groupby([timed["backbone_hash"], timed["protocol_json"].map(costs), timed["task"].map(areas)]).mean()
        means = {tuple(key): float(value) for key, value in by.items()}  # type: ignore[arg-type, misc]
    total = 0.0
    for trial in wanted:
        area = areas[trial.task]
        if means:
            key = trial.backbone_hash, _cost(trial.protocol.model_dump(mode="json")), area
            if key in means:
                total += means[key]
                continue
        if trial.backbone not in BACKBONES:
            return None
        total += area * _guess(trial.protocol, trial.design == REFERENCE)
    return total


def _cost(protocol: Mapping[str, Any]) -> str:
    """Return what decides how long a protocol takes."""
    return canonical_json({key: value for key, value in protocol.items() if key != "learning_rate"})


def _area(task: TaskSpec) -> float:
    """Return how large pictures of a task are against a built-in model's own of 64 pixels."""
    return 1.0 if task.size is None else (task.size / 64) ** 2


def _guess(protocol: Protocol, untuned: bool) -> float:
    rows = protocol.batch + (protocol.prior_batch if protocol.prior_weight > 0 else 0)
    training = 0 if untuned else protocol.steps * rows * _TRAINED
    return training + protocol.pictures * protocol.sampling_steps * 2 * _DRAWN
