"""Tuning: which designs share a tuned protocol, the trials that decide it, and what they decide.

The choice is a function of final rows alone, so it is the same whoever makes it, and whenever. Nothing is written here,
and torch is not imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from study.backbones.names import Source, content_hash
from study.canonical import canonical_json
from study.columns import higher_is_better
from study.config import ProtocolBy, by_hand
from study.space import REFERENCE, Design, text
from study.trial import FINAL, Trial

if TYPE_CHECKING:
    import pandas as pd

    from study.config import StudyConfig
    from study.tasks.specs import TaskSpec
    from study.tuning_search import Searched

ABSENT = "absent"
"""The level of a key that a design does not have."""


@dataclass(frozen=True)
class Tune:
    """The section `tune`, right in every part.

    Attributes
    ----------
    tasks : tuple of TaskSpec
        None of them is a task of the study.
    seeds : tuple of int
    grid : dict of str to tuple
        Values to try for keys of the protocol, in the order declared; several keys are crossed.
    by : tuple of str
        Keys of the designs; those with equal levels of all of them share what is tuned.
    searched : Searched or None
        How values are searched, where the grid is not gone through; it then holds the ends of the ranges.
    """

    tasks: tuple[TaskSpec, ...]
    seeds: tuple[int, ...]
    grid: dict[str, tuple[Any, ...]]
    by: tuple[str, ...]
    searched: Searched | None = None

    def groups(self, designs: Iterable[Design], protocol_by: ProtocolBy) -> list[Group]:
        """Return the groups in which something is tuned, in the order of their first designs.

        A key that is set by hand leaves the grid of the group. The untuned backbone, of which nothing is trained, is
        in no group.
        """
        found = []
        for levels, members in self.members(designs):
            hand = {key for design in members for key in by_hand(protocol_by, design)}
            grid = {key: values for key, values in self.grid.items() if key not in hand}
            if grid:
                found.append(Group(levels, tuple(members), grid))
        return found

    def members(self, designs: Iterable[Design]) -> list[tuple[dict[str, str], list[Design]]]:
        """Return the levels, as text, of every group's keys, and its designs."""
        found: dict[tuple[str, ...], list[Design]] = {}
        for design in designs:
            if design != REFERENCE:
                levels = tuple(text(design[key]) if key in design else ABSENT for key in self.by)
                found.setdefault(levels, []).append(design)
        return [(dict(zip(self.by, levels, strict=True)), members) for levels, members in found.items()]


@dataclass(frozen=True)
class Group:
    """Designs that share what is tuned; the first of them is trained to find it.

    Attributes
    ----------
    levels : dict of str to str
        The level of each key that makes the groups; `absent` where the designs do not have it.
    grid : dict of str to tuple
        What is tried, or the ends of the ranges that are searched, without the keys that are set by hand.
    """

    levels: dict[str, str]
    designs: tuple[Design, ...]
    grid: dict[str, tuple[Any, ...]]

    @property
    def name(self) -> str:
        """What the group is called: method=adapter, budget=0.05."""
        return ", ".join(f"{key}={level}" for key, level in self.levels.items())

    @property
    def points(self) -> list[dict[str, Any]]:
        """The points of the grid, in order of declaration; the key declared last varies fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def like(self, searched: Searched | None) -> dict[str, Any]:
        """Return a point that takes about as long as the others."""
        middles = {key: found.middle for key, found in searched.ranges.items()} if searched else {}
        return {key: middles.get(key, values[0]) for key, values in self.grid.items()}

    def at_edge(self, point: Mapping[str, Any]) -> bool:
        """Say whether a value of a point is the least or greatest of its key's several numbers."""
        numbers = {key: values for key, values in self.grid.items() if not isinstance(values[0], str) and values[1:]}
        return any(point[key] in (min(values), max(values)) for key, values in numbers.items())


@dataclass(frozen=True)
class Point:
    """What the trials of one grid point showed.

    Attributes
    ----------
    planned, done, diverged : int
        Numbers of trials.
    mean : float
        Mean primary score, over seeds within a task and then over tasks; NaN unless every trial has one.
    """

    values: dict[str, Any]
    planned: int
    done: int
    diverged: int
    mean: float


@dataclass(frozen=True)
class Choice:
    """What is known of one group on one backbone.

    Attributes
    ----------
    points : tuple of Point
        Those of the grid; of a search, those that are planned so far.
    ended : bool
        Whether no further point will be planned.
    """

    backbone: str
    group: Group
    points: tuple[Point, ...]
    higher_is_better: bool = True
    ended: bool = True

    @property
    def waits(self) -> bool:
        """Whether tune trials of the group are missing or failed, so that nothing is chosen yet."""
        return not self.ended or any(point.done + point.diverged < point.planned for point in self.points)

    @property
    def chosen(self) -> Point | None:
        """The point with the best mean, of equals the first; None while it waits, or if no point has a mean."""
        scored = [point for point in self.points if not math.isnan(point.mean)]
        if self.waits or not scored:
            return None
        best = max if self.higher_is_better else min
        return best(scored, key=lambda point: point.mean)  # the first of equals


def groups(study: StudyConfig) -> list[Group]:
    """Return the groups of designs in which something is tuned; none without the section `tune`."""
    return study.tune.groups(study.space.designs, study.protocol_by) if study.tune else []


def groups_on(study: StudyConfig, source: Source) -> list[Group]:
    """Return the groups on a backbone: each of those of its designs whose positions the backbone has, if there are."""
    there = {canonical_json(design) for design in study.designs_on(source)}
    found = []
    for group in groups(study):
        designs = tuple(design for design in group.designs if canonical_json(design) in there)
        found += [replace(group, designs=designs)] if designs else []
    return found


def trials(study: StudyConfig, found: Sequence[Choice]) -> list[Trial]:
    """Return every trial that decides the tuning: seed, then task, so that a part of it is whole replicates.

    Parameters
    ----------
    found : sequence of Choice
        As `choices` returns them.

    Raises
    ------
    InputFault
        If a backbone of the hub is not on this machine.
    """
    sources = {source.name: source for source in study.backbones}
    points = [
        _trials(study, sources[choice.backbone], choice.group, point.values)
        for choice in found
        for point in choice.points
    ]
    return [trial for together in zip(*points, strict=True) for trial in together]


def choices(study: StudyConfig, rows: pd.DataFrame) -> list[Choice]:
    """Return what the rows of a store decide for each backbone and group, in the order of the designs.

    Parameters
    ----------
    rows : DataFrame
        As `study.store.Store.rows` returns them; those that are not final count as missing.

    Raises
    ------
    InputFault
        If a backbone of the hub is not on this machine.
    """
    status = dict(zip(rows["id"], rows["status"], strict=True))
    scores = dict(zip(rows["id"], rows[study.primary], strict=True))
    higher = higher_is_better(study.primary)

    def by_task(found: Sequence[Trial]) -> list[list[float]]:
        by: dict[str, list[float]] = {}
        for trial in found:
            by.setdefault(trial.task, []).append(scores[trial.id] if status.get(trial.id) == "done" else math.nan)
        return list(by.values())

    def point(source: Source, group: Group, values: dict[str, Any]) -> Point:
        found = _trials(study, source, group, values)
        states = [status.get(trial.id) for trial in found]
        mean = fmean(map(fmean, by_task(found)))
        return Point(values, len(found), states.count("done"), states.count("diverged"), mean)

    def choice(source: Source, group: Group) -> Choice:
        def known(values: dict[str, Any]) -> list[list[float]] | None:
            found = _trials(study, source, group, values)
            return by_task(found) if all(status.get(trial.id) in FINAL for trial in found) else None

        tune, points, ended = study.tune, group.points, True
        if tune is not None and tune.searched is not None:
            points, ended = tune.searched.points(group.grid, len(tune.tasks) * len(tune.seeds), higher, known)
        told = tuple(point(source, group, values) for values in points)
        return Choice(source.name, group, told, higher, ended)

    return [choice(source, group) for source in study.backbones for group in groups_on(study, source)]


def impossible(study: StudyConfig, found: Sequence[Choice]) -> list[str]:
    """Return a sentence for each group whose trials cannot be run, because nothing can be chosen for it."""
    told = []
    for choice in found:
        if not choice.waits and choice.chosen is None:
            where = f" on {choice.backbone}" if len(study.backbones) > 1 else ""
            diverged, planned = (sum(getattr(p, name) for p in choice.points) for name in ("diverged", "planned"))
            lost = len(choice.group.designs) * len(study.tasks) * len(study.seeds)
            told.append(
                f"{lost} trials of {choice.group.name}{where}: at no point that was tried has every tune trial a score "
                f"({diverged} of {planned} diverged), so nothing can be chosen; let `tune` try other values, such as a "
                "smaller learning rate"
            )
    return told


def table(study: StudyConfig, found: Sequence[Choice]) -> pd.DataFrame:
    """Return a row a group and grid point; see `study.Study.tuned`."""
    import pandas as pd

    tune = study.tune
    by, grid = (tune.by, tuple(tune.grid)) if tune else ((), ())
    backbone = ["backbone"] if len(study.backbones) > 1 else []
    columns = [*backbone, *by, *grid, study.primary, "planned", "done", "diverged", "chosen", "at_edge"]
    rows = [
        {
            "backbone": choice.backbone,
            **choice.group.levels,
            **point.values,
            study.primary: point.mean,
            "planned": point.planned,
            "done": point.done,
            "diverged": point.diverged,
            "chosen": point is choice.chosen,
            "at_edge": point is choice.chosen and choice.group.at_edge(point.values),
        }
        for choice in found
        for point in choice.points
    ]
    return pd.DataFrame(rows, columns=columns)


def _trials(study: StudyConfig, source: Source, group: Group, values: dict[str, Any]) -> list[Trial]:
    """Return the trials of one grid point: seed, then task."""
    assert study.tune is not None  # or there would be no group
    design, backbone_hash = group.designs[0], content_hash(source)
    return [
        Trial(
            source.name,
            design,
            task.name,
            seed,
            study.protocol_of(design, values),
            "tune",
            tunes=tuple(values),
            backbone_hash=backbone_hash,
            task_hash=task.content_hash(),
        )
        for seed in study.tune.seeds
        for task in study.tune.tasks
    ]
