"""From a study to its trials, in order; from trials to packs; how far a plan is and how long it will take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from study import tuning
from study.backbones.names import BACKBONES, Source, commit_of, content_hash
from study.canonical import canonical_json, digest
from study.config import Protocol, StudyConfig
from study.executors.local import driver
from study.space import REFERENCE, text
from study.trial import STATUSES, Pack, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.tasks.specs import TaskSpec

# Seconds of a built-in model, which cost about the same, on two CPU cores, alone on the machine, before any trial of a
# store says better: one picture trained on, one step of one picture drawn and scored; measured on the quick study of
# micro-unet, 80 trials in 8.5 minutes.
_TRAINED, _DRAWN = 0.0105, 0.005

# Trials that a worker of several gets at least, enough to train together, and that any gets at most: a worker that dies
# makes the driver hand out all of its pack anew.
_LEAST, _MOST = 4, 256


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
    task: str
    seed: int
    possible: bool


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
    return [each for each in _planned(study, choices) if isinstance(each, Trial)]


def waiting(study: StudyConfig, choices: Sequence[tuning.Choice]) -> list[Waiting]:
    """Return what else a study plans: the trials whose protocol is not known, in the same order."""
    return [each for each in _planned(study, choices) if isinstance(each, Waiting)]


def _planned(study: StudyConfig, choices: Sequence[tuning.Choice]) -> Iterator[Trial | Waiting]:
    designs = {source.name: _designs(study, source) for source in study.backbones}
    maker = Maker(study, choices)
    for seed in study.seeds:
        for task in study.tasks:
            for source in study.backbones:
                for role, design in designs[source.name]:
                    yield maker.make(source, role, design, task, seed)


class Maker:
    """Makes the trials of a study, each under the protocol that its group's tuning has chosen."""

    def __init__(self, study: StudyConfig, choices: Sequence[tuning.Choice]) -> None:
        self._study = study
        self._tuned = {canonical_json(design): group.name for group in tuning.groups(study) for design in group.designs}
        self._found = {(choice.backbone, choice.group.name): choice for choice in choices}
        self._hashes = {source.name: content_hash(source) for source in study.backbones}
        self._tasks = {task.name: task.content_hash() for task in study.tasks}

    def make(self, source: Source, role: str, design: dict[str, Any], task: TaskSpec, seed: int) -> Trial | Waiting:
        """Return the trial, or what will be one."""
        group = self._tuned.get(canonical_json(design))
        choice = self._found.get((source.name, group)) if group is not None else None
        point = choice.chosen if choice is not None else None
        if group is not None and point is None:
            return Waiting(source.name, design, task.name, seed, possible=choice is None or choice.waits)
        return Trial(
            source.name,
            design,
            task.name,
            seed,
            self._study.protocol_of(design, point.values if point is not None else None),
            role,
            backbone_hash=self._hashes[source.name],
            task_hash=self._tasks[task.name],
        )

    def references(self, source: Source, replicates: Iterable[tuple[TaskSpec, int]]) -> list[Trial]:
        """Return the trials of the untuned backbone, unless it is a design of the study itself."""
        if REFERENCE in self._study.space.designs:
            return []
        made = (self.make(source, "reference", dict(REFERENCE), task, seed) for task, seed in replicates)
        return [each for each in made if isinstance(each, Trial)]


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
    The weights of trials that decide the tuning are not kept: only their scores are wanted.

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
    rows: pd.DataFrame,
    factors: Mapping[str, Sequence[str]],
    tune: Sequence[Trial] = (),
    unknown: Sequence[Waiting] = (),
) -> dict[str, Any]:
    """Return how far a plan is.

    Parameters
    ----------
    factors : mapping of str to sequence of str
        The factors to count by, and their levels in the order to show.
    tune : sequence of Trial
        The trials that decide the tuning.
    unknown : sequence of Waiting
        The trials whose protocol is not known yet; they count as planned and missing.

    Returns
    -------
    dict
        study; planned, done, diverged, failed, out_of_memory, missing (trials of the study's designs); by_factor
        (the same for each level of each factor, and each task and seed); reference (the same for the untuned
        backbone); tune (the same for the tuning); waiting (trials of the study's designs that wait for tuning); next
        (the first missing trial, and what it tunes if it does; its id is None if it waits for tuning; or None).
    """
    found = dict(zip(rows["id"], rows["status"], strict=True)) if len(rows) else {}
    own: list[Trial | Waiting] = [*(trial for trial in planned if trial.role == "study"), *unknown]

    def count(some: Iterable[Trial | Waiting]) -> dict[str, int]:
        states = [found.get(trial.id, "missing") if isinstance(trial, Trial) else "missing" for trial in some]
        return {"planned": len(states), **{state: states.count(state) for state in (*STATUSES, "missing")}}

    def level(trial: Trial | Waiting, factor: str) -> str | None:
        if factor in ("backbone", "task", "seed"):
            return str(getattr(trial, factor))
        return text(trial.design[factor]) if factor in trial.design else None

    by_factor: dict[str, dict[str, dict[str, int]]] = {}
    for factor, levels in factors.items():
        members: dict[str, list[Trial | Waiting]] = {name: [] for name in levels}
        for trial in own:
            name = level(trial, factor)
            if name is not None:
                members[name].append(trial)
        by_factor[factor] = {name: count(some) for name, some in members.items()}
    wait = [trial for trial in unknown if trial.possible]
    missing = [trial for trial in (*tune, *planned) if trial.id not in found]
    coming: list[Trial | Waiting] = [*missing[:1], *wait]
    return {
        "study": study,
        **count(own),
        "by_factor": by_factor,
        "reference": count(trial for trial in planned if trial.role == "reference"),
        "tune": count(tune),
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
