"""Checks what the section `tune` of a study file means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from adapters.faults import InputFault
from study.config import Protocol, ProtocolBy, TuneSection, by_hand
from study.faults import Faults, near
from study.space import Space
from study.tasks.specs import TaskSpec
from study.tuning import Tune

BY = ("tune", "by")


class TuneCheck(Faults):
    """One pass over the section; the faults are with their lines in `faults`."""

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
        tune = Tune(tuple(found), tuple(section.seeds), self._grid(section), tuple(section.by))
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

    def _grid(self, section: TuneSection) -> dict[str, tuple[Any, ...]]:
        grid: dict[str, tuple[Any, ...]] = {}
        for key, values in section.grid.items():
            path = ("tune", "grid", key)
            if key not in Protocol.model_fields:
                self._fault(path, "is no key of the protocol" + near(key, Protocol.model_fields))
                continue
            field = Protocol.model_fields[key]
            declared: Any = Annotated[field.annotation, field]
            found: list[Any] = []
            for index, value in enumerate(values):
                try:
                    found.append(TypeAdapter(declared).validate_python(value))
                except ValidationError as error:
                    self._pydantic(error, self._item(path, index))
            self._once(map(str, found), path)
            grid[key] = tuple(dict.fromkeys(found))
        return {key: values for key, values in grid.items() if values}

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
