"""Checks what a study file means, section by section, and collects every fault with its line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from adapters.faults import InputFault
from study.backbones.names import OWN, SEGMENTER, WORLD, Source, lacking, resolve, resolve_scorer, wrong_size
from study.config import DEFAULTS, REQUIRED, SECTIONS, Protocol, ProtocolBy, StudyConfig
from study.confirm_checks import Confirm, ConfirmCheck
from study.faults import Faults, Path_, near
from study.keep import Keep
from study.paths import place
from study.pruning import WHOLE, Rule
from study.resources import Resources
from study.sections import ConfirmSection, NestedSection, TuneSection
from study.space import Space, lacked, text
from study.space_checks import SpaceCheck
from study.strategies.ask_tell import Settings
from study.strategies.factorial import Factorial
from study.strategies.optuna import Optuna
from study.strategies.refine import Refine
from study.strategies.search import searches
from study.strategies.strategy import Strategy
from study.strategies.subset import Subset
from study.strategy_sections import OptunaSection, PrunerSection, RefineSection, SearchSection, SubsetSection
from study.tasks.control_spec import CONTROL
from study.tasks.pictures import listed
from study.tasks.specs import TaskSpec, resolve_task
from study.tuning import Tune
from study.tuning_checks import TuneCheck
from study.yaml_lines import Lines

KINDS: dict[str, tuple[Any, Callable[[Any], Strategy]]] = {
    "subset": (SubsetSection, lambda asked: Subset(asked.size, asked.interactions, asked.seed)),
    "optuna": (
        SearchSection,
        lambda asked: Optuna(
            asked.trials, Settings(asked.sampler, asked.seed, asked.batch), tuple(asked.scores),
            asked.pruner.rule if asked.pruner else None,
        ),  # fmt: skip
    ),
    "refine": (RefineSection, lambda asked: Refine(asked.start, asked.trials, asked.error, asked.level)),
}
"""Strategies besides the factorial: the form of the section, and what it makes."""


class Check(Faults):
    """One pass over the sections of one study.

    Parameters
    ----------
    root : Path
        The folder that relative folders start from.
    source : str
        What the message calls the study.
    lines : Lines
        Where each part stands.
    """

    keys: ClassVar = {
        "protocol": Protocol.model_fields,
        "protocol_by": Protocol.model_fields,
        "nested": NestedSection.model_fields,
        "strategy.pruner": PrunerSection.model_fields,
        "tune": TuneSection.model_fields,
        "tune.strategy": OptunaSection.model_fields,
        "confirm": ConfirmSection.model_fields,
        "resources": Resources.model_fields,
        "keep": Keep.model_fields,
    }

    def __init__(self, root: Path, source: str, lines: Lines) -> None:
        super().__init__(source, lines)
        self.root = root

    def run(self, data: Any) -> StudyConfig:
        """Return the checked study, or raise InputFault with every fault."""
        if not isinstance(data, dict):
            raise InputFault(f"{self.source}: got {type(data).__name__}, expected sections such as name and factors")
        self._repeated()
        given = self._sections(data)
        backbones = self._each(given.get("backbone"), ("backbone",), lambda spec: resolve(spec, self.root))
        self._once([source.name for source in backbones], ("backbone",))
        tasks = self._each(given.get("tasks"), ("tasks",), self._task)
        self._once([task.name for task in tasks], ("tasks",))
        self._judged(given, data, tasks)
        scores = self._scores(given)
        space = self._space(given, backbones)
        self._protocols(given, space)
        self._search(given, space, backbones, tasks, scores)
        protocol_by = {
            factor: {text(level): changes for level, changes in levels.items()}
            for factor, levels in given.get("protocol_by", {}).items()
        }
        tune = self._tune(given.get("tune"), tasks, space, protocol_by)
        confirm = self._confirm(given.get("confirm"), tasks, tune)
        try:
            place(Path.cwd(), given.get("store", "."))
        except InputFault as fault:
            self._fault(("store",), str(fault))
        every = [*tasks, *(tune.tasks if tune else ()), *(confirm.tasks if confirm else ())]
        self._unfit(every, scores, given)
        for task, source in itertools.product(every, backbones):
            if task.size is not None and (wrong := wrong_size(source, task.size)):
                self._fault(("tasks",), f"task {task.name}: {wrong}")
        if self.faults:
            self._raise()
        assert space is not None  # a space that could not be built is a fault
        return StudyConfig(
            name=given["name"],
            backbones=tuple(backbones),
            space=space,
            tasks=tuple(tasks),
            seeds=tuple(given["seeds"]),
            protocol=given["protocol"],
            protocol_by=protocol_by,
            scores=scores,
            primary=given["primary"],
            keep=given["keep"].adapters,
            keep_pictures=given["keep"].pictures,
            store=given.get("store", f"runs/{given['name']}"),
            tune=tune,
            confirm=confirm,
            resources=given["resources"],
        )

    def _sections(self, data: dict[Any, Any]) -> dict[str, Any]:
        """Return the sections whose form is right, defaults filled."""
        given = dict(DEFAULTS)
        for name in REQUIRED:
            if name not in data:
                self._fault((name,), "is missing")
        for name, value in data.items():
            if name not in SECTIONS:
                self._fault((str(name),), "unknown section" + near(str(name), SECTIONS))
            elif name == "strategy":
                given.pop(name)
                for strategy in self._strategy(value):
                    given[name] = strategy
            else:
                given.pop(name, None)
                try:
                    given[name] = TypeAdapter(SECTIONS[name]).validate_python(value)
                except ValidationError as error:
                    self._pydantic(error, (name,))
        return given

    def _strategy(self, value: Any) -> Iterator[Strategy]:
        """Yield the strategy that is asked for, if it is right in form."""
        if value in ("factorial", {"kind": "factorial"}):
            yield Factorial()
        elif isinstance(value, dict) and isinstance(kind := value.get("kind"), str) and kind in KINDS:
            section, make = KINDS[kind]
            try:
                yield make(section.model_validate(value))
            except ValidationError as error:
                self._pydantic(error, ("strategy",), section.model_fields)
        else:
            path = ("strategy", "kind") if isinstance(value, dict) and "kind" in value else ("strategy",)
            self._fault(
                path,
                f"got {value!r}, expected `factorial` or a subset such as {{kind: subset, size: 60}}, or a search: "
                "{kind: optuna, trials: 200} or {kind: refine, start: 3, trials: 200}",
            )

    def _task(self, spec: Any) -> TaskSpec:
        if not isinstance(spec, str | dict):
            raise InputFault(f"got {spec!r}, expected a name such as subject/robot, or {{name: …, pictures: …}}")
        return resolve_task(spec, self.root)

    def _tune(
        self, section: TuneSection | None, tasks: list[TaskSpec], space: Space | None, protocol_by: ProtocolBy
    ) -> Tune | None:
        if section is None:
            return None
        check = TuneCheck(self.source, self.lines)
        sound = space if space is not None and not space.faults else None
        tune = check.run(section, tasks, self._task, sound, protocol_by)
        self.faults += check.faults
        return tune

    def _confirm(self, section: ConfirmSection | None, tasks: list[TaskSpec], tune: Tune | None) -> Confirm | None:
        if section is None:
            return None
        check = ConfirmCheck(self.source, self.lines)
        used = {"of the study": tasks, "of the tuning": tune.tasks if tune else ()}
        confirm = check.run(section, used, self._task)
        self.faults += check.faults
        return confirm

    def _scores(self, given: dict[str, Any]) -> dict[str, Source]:
        found = {}
        for name, spec in given.get("scores", {}).items():
            resolved = _NO_MODEL.get(name, lambda spec: resolve_scorer(spec, self.root))
            for source in self._each([spec], ("scores", name), resolved):
                found[name] = source
        if "scores" in given and "primary" in given and given["primary"] not in given["scores"]:
            known = ", ".join(given["scores"])
            self._fault(("primary",), f"got {given['primary']!r}, expected one of the study's scores: {known}")
        return found

    def _judged(self, given: dict[str, Any], data: Mapping[Any, Any], tasks: Sequence[TaskSpec]) -> None:
        """Fill in the scores and the primary score, where they are left out, from the kinds of the tasks."""
        if "scores" not in data and tasks:
            given["scores"] = {
                name: scorer for task in tasks for name, scorer in task.scores.items() if scorer is not None
            }
        if "primary" not in data and tasks:
            given["primary"] = tasks[0].primary

    def _unfit(self, tasks: Sequence[TaskSpec], scores: Mapping[str, Source], given: Mapping[str, Any]) -> None:
        """Check that every score belongs to a task, the primary one to all of them, and what each task has to say."""
        for name in scores if tasks else ():
            if not any(name in task.scores for task in tasks):
                known = ", ".join(dict.fromkeys(score for task in tasks for score in task.scores))
                names = listed([task.name for task in tasks])
                self._fault(("scores", name), f"is no score of {names}; leave it out, or take of {known}")
        primary = given.get("primary")
        for task in tasks:
            if primary in scores and primary not in task.scores:
                both = [name for name in scores if all(name in each.scores for each in tasks)]
                known = f"{', '.join(both)}, which" if both else "a score of the study that"
                self._fault(("primary",), f"{primary} is no score of {task.name}; expected {known} all tasks have")
            for path, message in task.unfit(scores, given.get("protocol", Protocol())):
                self._fault(path, message)

    def _space(self, given: dict[str, Any], backbones: Sequence[Source]) -> Space | None:
        check = SpaceCheck(self.source, self.lines)
        space = check.run(given, backbones)
        self.faults += check.faults
        return space

    def _search(
        self,
        given: dict[str, Any],
        space: Space | None,
        backbones: Sequence[Source],
        tasks: Sequence[TaskSpec],
        scores: Mapping[str, Source],
    ) -> None:
        """Check that a strategy that plans as it goes can do so, where everything that it needs to know is right."""
        if space is None or space.faults or not (searches(space.strategy) and "seeds" in given and tasks and backbones):
            return
        from study.search import faults

        there = [design for design in space.designs if lacked(design, lacking(backbones[0])) is None]
        of = len(there), len(tasks), len(given["seeds"]), len(backbones)
        for path, message in faults(space.strategy, *of, list(scores)):
            self._fault(path, message)
        if isinstance(space.strategy, Optuna) and space.strategy.pruner is not None and "protocol" in given:
            self._pruner(space.strategy.pruner, given["protocol"], tasks, scores)

    def _pruner(
        self, rule: Rule, protocol: Protocol, tasks: Sequence[TaskSpec], scores: Mapping[str, Source]
    ) -> None:
        """Check that trials under a protocol can be scored on their way."""
        if rule.at[0] * protocol.steps < WHOLE:
            told = f"{rule.at[0] / WHOLE:g} of {protocol.steps} steps is not one; give a greater share, or more steps"
            self._fault(("strategy", "pruner", "at"), told)
        path = ("strategy", "pruner", "pictures")
        if rule.pictures is not None and rule.pictures > protocol.pictures:
            told = f"got {rule.pictures}, expected no more than the {protocol.pictures} that are drawn at the end"
            self._fault(path, told)
        elif rule.pictures is not None:
            fewer = protocol.model_copy(update={"pictures": rule.pictures})
            for task in tasks:
                known = list(task.unfit(scores, protocol))
                for fault in task.unfit(scores, fewer):
                    if fault not in known:
                        self._fault(path, fault[1])

    def _protocols(self, given: dict[str, Any], space: Space | None) -> None:
        base = given.get("protocol", Protocol()).model_dump()
        for name, levels in given.get("protocol_by", {}).items():
            for level, changes in levels.items():
                path: Path_ = ("protocol_by", name, level)
                if space is not None and not space.faults and level not in space.levels(name):
                    known = ", ".join(space.levels(name)) or f"none: {name} is no factor of this study"
                    self._fault(path, f"no design has this level; the levels of {name} are {known}")
                try:
                    Protocol(**{**base, **changes})
                except ValidationError as error:
                    self._pydantic(error, path)


def _world(spec: Any) -> Source:
    """Resolve the scorer of `colour`, which is no model."""
    if spec != WORLD:
        raise InputFault(f"got {spec!r}, expected {WORLD}: the colours are judged by what was drawn, not by a model")
    return Source("builtin", WORLD, "scorer")


def _own(spec: Any) -> Source:
    """Resolve the scorer of `noise_difference`, which is the trial's own backbone."""
    if spec != OWN:
        raise InputFault(f"got {spec!r}, expected {OWN}: the difference is between the trained backbone's predictions")
    return Source("builtin", OWN, "scorer")


def _segmenter(spec: Any) -> Source:
    """Resolve the scorer of control maps, which knows the parts of the built-in world's things."""
    if spec != SEGMENTER:
        raise InputFault(f"got {spec!r}, expected {SEGMENTER}: what a picture shows is read by the built-in segmenter")
    return Source("builtin", SEGMENTER, "scorer")


_NO_MODEL: dict[str, Callable[[Any], Source]] = {
    "colour": _world, "noise_difference": _own, **dict.fromkeys(CONTROL, _segmenter)
}  # fmt: skip
