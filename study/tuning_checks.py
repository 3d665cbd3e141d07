"""Checks what the section `tune` of a study file means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from adapters.faults import InputFault
from study.config import Protocol, ProtocolBy, by_hand
from study.faults import Faults, Path_, near
from study.sections import RangeSection, TuneSection
from study.space import Space
from study.strategies.ask_tell import Settings
from study.tasks.specs import TaskSpec
from study.tuning import Tune
from study.tuning_search import Range, Searched

BY = ("tune", "by")


class TuneCheck(Faults):
    """One pass over the section; the faults are with their lines in `faults`."""

    keys: ClassVar = {"tune": TuneSection.model_fields, "tune.ranges": RangeSection.model_fields}

    def run(
        self,
        section: TuneSection,
        tasks: Sequence[TaskSpec],
        resolve: Callable[[Any], TaskSpec],
        space: Space | None,
        protocol_by: ProtocolBy,
    ) -> Tune:
        """Return the section, its faulty parts left out.

        Parameters
        ----------
        tasks : sequence of TaskSpec
            The study's own.
        resolve : callable
            Turns a task as it is declared into its spec.
        space : Space, optional
            None if it has faults of its own.
        """
        found = self._tasks(section, tasks, resolve)
        self._once(section.by, BY)
        grid, searched = self._tried(section, len(found) * len(section.seeds))
        tune = Tune(tuple(found), tuple(section.seeds), grid, tuple(section.by), searched)
        if space is not None and self._keys(section, space) and tune.grid:
            self._groups(tune, space, protocol_by)
        return tune

    def _tasks(
        self, section: TuneSection, tasks: Sequence[TaskSpec], resolve: Callable[[Any], TaskSpec]
    ) -> list[TaskSpec]:
        found: list[TaskSpec] = []

        def another(spec: Any) -> TaskSpec:
            task = resolve(spec)
            for known in (*tasks, *found):
                if task.name == known.name or task.content_hash() == known.content_hash():
                    alias = "" if task.name == known.name else f" by the name {known.name}"
                    if known in found:
                        raise InputFault(f"{task.name} is given twice{alias and ',' + alias}")
                    raise InputFault(
                        f"{task.name} is a task of the study{alias}: what is tuned on it would flatter its scores; "
                        "expected tasks that the study does not use"
                    )
            found.append(task)
            return task

        return self._each(section.tasks, ("tune", "tasks"), another)

    def _tried(self, section: TuneSection, replicates: int) -> tuple[dict[str, tuple[Any, ...]], Searched | None]:
        """Return the values that are tried and, where they are searched, how."""
        if bool(section.grid) == bool(section.ranges) or bool(section.ranges) != (section.strategy is not None):
            self._fault(
                ("tune",) if section.ranges or section.strategy else ("tune", "grid"),
                "expected either a grid, such as `grid: {learning_rate: [1e-3, 1e-2]}`, or ranges and a strategy, such "
                "as `ranges: {learning_rate: {low: 1e-4, high: 1e-1, log: true}}` with `strategy: {kind: optuna, "
                "trials: 20}`",
            )
            return {}, None
        if section.strategy is None:
            return self._known(section.grid, "grid", self._values), None
        asked, ranges = section.strategy, {}

        def values(key: str, declared: Any, path: Path_, given: Any) -> tuple[Any, ...]:
            if isinstance(given, list):
                return self._values(key, declared, path, given)
            found = self._range(declared, path, given)
            if found is None:
                return ()
            ranges[key] = found
            return found.ends

        grid = self._known(section.ranges, "ranges", values)
        if replicates and asked.trials < 2 * replicates:
            self._fault(
                ("tune", "strategy", "trials"),
                f"got {asked.trials}, expected at least {2 * replicates}: two points for each group, each on every "
                "task with every seed",
            )
        return grid, Searched(asked.trials, Settings(asked.sampler, asked.seed, asked.batch), ranges)

    def _known(self, given: dict[str, Any], name: str, read: Callable[..., tuple[Any, ...]]) -> dict[str, Any]:
        """Read what is given for each key of the protocol."""
        found = {}
        for key, values in given.items():
            path = ("tune", name, key)
            if key not in Protocol.model_fields:
                self._fault(path, "is no key of the protocol" + near(key, Protocol.model_fields))
                continue
            field = Protocol.model_fields[key]
            found[key] = read(key, Annotated[field.annotation, field], path, values)
        return {key: values for key, values in found.items() if values}

    def _values(self, key: str, declared: Any, path: Path_, values: list[Any]) -> tuple[Any, ...]:
        found: list[Any] = []
        if not values:
            self._fault(path, "got [], expected values to try")
        for index, value in enumerate(values):
            try:
                found.append(TypeAdapter(declared).validate_python(value))
            except ValidationError as error:
                self._pydantic(error, self._item(path, index))
        self._once(map(str, found), path)
        return tuple(dict.fromkeys(found))

    def _range(self, declared: Any, path: Path_, given: Any) -> Range | None:
        """Read numbers to search between."""
        before = len(self.faults)
        whole = declared.__origin__ is int
        if not isinstance(given, dict) or not (whole or declared.__origin__ is float):
            form = "or {low: …, high: …}" if whole or declared.__origin__ is float else "for this is no number"
            self._fault(path, f"got {given!r}, expected a list of values, {form}")
            return None
        try:
            asked = RangeSection.model_validate(given)
        except ValidationError as error:
            self._pydantic(error, path)
            return None
        for end in ("low", "high"):
            try:
                value = getattr(asked, end)
                TypeAdapter(declared).validate_python(int(value) if whole and value.is_integer() else value)
            except ValidationError as error:
                self._pydantic(error, (*path, end))
        if asked.low >= asked.high:
            self._fault(path, f"got low {asked.low:g} and high {asked.high:g}, expected low to be less")
        if asked.log and (asked.low <= 0 or asked.step is not None):
            self._fault((*path, "log"), "expected low above 0 and no step: orders of magnitude have neither")
        if whole and asked.step is not None and not asked.step.is_integer():
            self._fault((*path, "step"), f"got {asked.step:g}, expected a whole number")
        if asked.step is not None and len(self.faults) == before:
            steps = (asked.high - asked.low) / asked.step
            if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
                last = asked.low + math.floor(steps + 1e-6) * asked.step
                told = f"expected high to be some of these from low; the last before {asked.high:g} is {last:g}"
                self._fault((*path, "step"), f"got {asked.step:g}, {told}")
        if len(self.faults) > before:
            return None
        return Range(asked.low, asked.high, asked.log, asked.step, whole)

    def _keys(self, section: TuneSection, space: Space) -> bool:
        """Say whether every key that makes groups is one of the designs'."""
        known = dict.fromkeys([*space.fixed, *(factor.name for factor in space.factors)])
        wrong = [name for name in section.by if name not in known]
        for name in wrong:
            path = self._item(BY, section.by.index(name))
            if name == "backbone":
                self._fault(path, "every backbone is tuned on its own anyway; leave it out")
            else:
                self._fault(path, f"{name} is no factor of this study; the factors are {', '.join(known)}")
        return not wrong

    def _groups(self, tune: Tune, space: Space, protocol_by: ProtocolBy) -> None:
        before = len(self.faults)
        for levels, designs in tune.members(space.designs):
            name = ", ".join(f"{key}={level}" for key, level in levels.items())
            for key in tune.grid:
                hand = [key in by_hand(protocol_by, design) for design in designs]
                if any(hand) and not all(hand):
                    factors = [f for f, sets in protocol_by.items() if any(key in changes for changes in sets.values())]
                    self._fault(
                        BY,
                        f"`protocol_by` sets {key} for some designs of the group {name} and not for others; "
                        f"name {' and '.join(factors)} here, or set {key} for the whole group or for none of it",
                    )
        if len(self.faults) == before and not tune.groups(space.designs, protocol_by):
            self._fault(
                ("tune",),
                "nothing is left to tune: the designs train nothing, or `protocol_by` sets every key of the grid; "
                "remove the section",
            )
