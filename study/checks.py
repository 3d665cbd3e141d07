"""Checks what a study file means, section by section, and collects every fault with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adapters.faults import InputFault
from study.backbones.names import Source, resolve, resolve_scorer
from study.columns import ROW
from study.config import DEFAULTS, LATER, REQUIRED, SECTIONS, Protocol, StudyConfig
from study.space import ALL, Factor, Space, text
from study.tasks.specs import TaskSpec, resolve_task
from study.yaml_lines import Lines

Path_ = tuple[str | int, ...]


class Check:
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

    def __init__(self, root: Path, source: str, lines: Lines) -> None:
        self.root = root
        self.source = source
        self.lines = lines
        self.faults: list[tuple[int, str]] = []

    def run(self, data: Any) -> StudyConfig:
        """Return the checked study, or raise InputFault with every fault."""
        if not isinstance(data, dict):
            raise InputFault(f"{self.source}: got {type(data).__name__}, expected sections such as name and factors")
        for path, line in self.lines.repeated:
            self.faults.append((line, f"{_spell(path)}: stands here a second time; keep one"))
        given = self._sections(data)
        backbones = self._each(given.get("backbone"), ("backbone",), lambda spec: resolve(spec, self.root))
        self._once([source.name for source in backbones], ("backbone",))
        tasks = self._each(given.get("tasks"), ("tasks",), self._task)
        self._once([task.name for task in tasks], ("tasks",))
        scores = self._scores(given)
        space = self._space(given)
        self._protocols(given, space)
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
            protocol_by={
                factor: {text(level): changes for level, changes in levels.items()}
                for factor, levels in given["protocol_by"].items()
            },
            scores=scores,
            primary=given["primary"],
            keep=given["keep"],
            store=given.get("store", f"runs/{given['name']}"),
        )

    def _raise(self) -> None:
        faults = sorted(dict.fromkeys(self.faults), key=lambda fault: fault[0])
        shown = [f"  line {line}: {message}" if line else f"  {message}" for line, message in faults]
        count = "1 fault" if len(shown) == 1 else f"{len(shown)} faults"
        raise InputFault("\n".join([f"{self.source} has {count}:", *shown]))

    def _fault(self, path: Sequence[str | int], message: str) -> None:
        parts = tuple(path)
        line = self.lines.at(parts) if parts[:1] in self.lines.of else None
        self.faults.append((line or 0, f"{_spell(parts)}: {message}" if parts else message))

    def _sections(self, data: dict[Any, Any]) -> dict[str, Any]:
        """Return the sections whose form is right, defaults filled."""
        given = dict(DEFAULTS)
        for name in REQUIRED:
            if name not in data:
                self._fault((name,), "is missing")
        for name, value in data.items():
            if name in LATER:
                self._fault((name,), f"this version has no code for {LATER[name]}; remove the section")
            elif name not in SECTIONS:
                self._fault((str(name),), "unknown section" + _near(str(name), SECTIONS))
            elif name == "strategy" and value != "factorial":
                self._fault((name,), f"got {value!r}; this version runs `factorial` only")
            else:
                given.pop(name, None)
                try:
                    given[name] = TypeAdapter(SECTIONS[name]).validate_python(value)
                except ValidationError as error:
                    self._pydantic(error, (name,))
        return given

    def _pydantic(self, error: ValidationError, above: Path_) -> None:
        for item in error.errors():
            path = (*above, *(part for part in item["loc"] if part != "[key]"))
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                known = Protocol.model_fields if str(above[0]).startswith("protocol") else ("when", "factors")
                message = "unknown key" + _near(str(path[-1]), known)
            elif not item["msg"].startswith("Value error"):
                message = f"got {item['input']!r}: {message[0].lower()}{message[1:]}"
            self._fault(path, message)

    def _each(self, specs: list[Any] | None, path: Path_, resolved: Any) -> list[Any]:
        """Resolve every item of a list; the faulty ones are reported and left out."""
        found = []
        for index, spec in enumerate(specs or []):
            here = (*path, index) if (*path, index) in self.lines.of else path
            try:
                found.append(resolved(spec))
            except InputFault as fault:
                self._fault(here, str(fault))
        return found

    def _task(self, spec: Any) -> TaskSpec:
        if not isinstance(spec, str | dict):
            raise InputFault(f"got {spec!r}, expected a name such as subject/robot, or {{name: …, pictures: …}}")
        return resolve_task(spec, self.root)

    def _once(self, names: Iterable[str], path: Path_) -> None:
        seen = set()
        for name in names:
            if name in seen:
                self._fault(path, f"{name} is given twice")
            seen.add(name)

    def _scores(self, given: dict[str, Any]) -> dict[str, Source]:
        found = {}
        for name, spec in given.get("scores", {}).items():
            for source in self._each([spec], ("scores", name), lambda spec: resolve_scorer(spec, self.root)):
                found[name] = source
        if "scores" in given and "primary" in given and given["primary"] not in given["scores"]:
            known = ", ".join(given["scores"])
            self._fault(("primary",), f"got {given['primary']!r}, expected one of the study's scores: {known}")
        return found

    def _space(self, given: dict[str, Any]) -> Space | None:
        """Build the space; None if a section it needs has faults of form."""
        before = len(self.faults)
        if not {"factors", "fixed", "nested", "forbid"} <= set(given):
            return None
        fixed: dict[str, Any] = given["fixed"]
        factors = [
            factor for name, levels in given["factors"].items() if (factor := self._factor(name, levels, ("factors",)))
        ]
        for name in fixed:
            self._name(name, ("fixed", name))
            if name in given["factors"]:
                self._fault(("fixed", name), "is a factor too; keep one of the two")
        crossed = {**given["factors"], **fixed}
        for index, nest in enumerate(given["nested"]):
            above: Path_ = ("nested", index)
            ((parent, level),) = nest.when.items()
            levels = [fixed[parent]] if parent in fixed else next((f.levels for f in factors if f.name == parent), ())
            if text(level) not in map(text, levels):
                told = f"its levels are {', '.join(map(text, levels))}" if levels else "it is no factor declared before"
                self._fault((*above, "when", parent), f"got {text(level)!r}; {told}")
            for name, declared in nest.factors.items():
                if name in crossed:
                    self._fault((*above, "factors", name), "is declared outside `nested` too; keep one of the two")
                factor = self._factor(name, declared, (*above, "factors"), (parent, level))
                if factor:
                    factors.append(factor)
        known = {**{name: [level] for name, level in fixed.items()}}
        for factor in factors:
            known[factor.name] = [*known.get(factor.name, []), *factor.levels]
        for index, rule in enumerate(given["forbid"]):
            for name, wanted in rule.items():
                self._declared(name, wanted, known, ("forbid", index, name))
        if "method" not in known:
            self._fault(("fixed",), "no method: give one, for instance `fixed: {method: adapter}`")
        if len(self.faults) > before and "method" not in known:
            return None
        forbid = tuple({name: tuple(levels) for name, levels in rule.items()} for rule in given["forbid"])
        space = Space(tuple(factors), fixed, forbid)
        for fault in space.faults:
            self._fault(self._place(fault.name, fault.level, given), fault.message)
        if not space.designs and len(self.faults) == before:
            self._fault(("factors",), "every cell is forbidden; nothing is left to run")
        return space

    def _factor(self, name: str, levels: Any, above: Path_, when: tuple[str, Any] | None = None) -> Factor | None:
        path = (*above, name)
        if not self._name(name, path):
            return None
        if levels == "all":
            if name not in ALL:
                self._fault(path, f"`all` stands for the levels of {', '.join(ALL)} only; list the levels")
                return None
            levels = ALL[name]
        self._once(map(text, levels), path)
        return Factor(name, tuple({text(level): level for level in levels}.values()), when)

    def _name(self, name: str, path: Path_) -> bool:
        if name == "backbone":
            self._fault(path, "to vary the backbone, give a list under the section `backbone`")
        elif name in ROW:
            self._fault(path, f"{name!r} is a column of the store and cannot be a factor")
        return name not in ROW

    def _declared(self, name: str, wanted: Iterable[Any], known: dict[str, list[Any]], path: Path_) -> None:
        if name not in known:
            self._fault(path, f"is no factor of this study; the factors are {', '.join(known)}")
            return
        for level in wanted:
            if text(level) not in map(text, known[name]):
                self._fault(path, f"got {text(level)!r}, but its levels are {', '.join(map(text, known[name]))}")

    def _place(self, name: str | None, level: Any, given: dict[str, Any]) -> Path_:
        """Find where a level was declared."""
        if name is None:
            return ("factors",)
        if name in given["fixed"]:
            return ("fixed", name)
        places: list[tuple[Path_, Any]] = [(("factors", name), given["factors"].get(name))]
        places += [(("nested", index, "factors", name), n.factors.get(name)) for index, n in enumerate(given["nested"])]
        for path, levels in places:
            if isinstance(levels, list) and text(level) in map(text, levels):
                return (*path, [text(item) for item in levels].index(text(level)))
        return places[0][0]

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


def _spell(path: Sequence[str | int]) -> str:
    """Return a path as people write it: factors.input[2]."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(names)}"
