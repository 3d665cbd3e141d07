"""The recipe file: one design, the protocol it is trained under and the backbone; it has no weights.

This module reads and checks; it never imports torch. A recipe may be written by hand or by the tools, which add what
they know about it under `evidence` and `provenance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from adapters.designs import normalise
from adapters.faults import InputFault
from study import config, shipped
from study.backbones.names import Source, resolve
from study.config import Protocol
from study.faults import Faults, near
from study.space import blame
from study.yaml_lines import Lines, read_yaml

SHIPPED = Path(__file__).parent / "recipes"

SECTIONS: dict[str, Any] = {
    "name": config.SECTIONS["name"],
    "design": config.SECTIONS["fixed"],
    "backbone": Any,
    "protocol": Protocol,
    "evidence": dict[str, Any],
    "provenance": dict[str, Any],
}
BACKBONE = "micro-unet"


@dataclass(frozen=True)
class Recipe:
    """A recipe that is right in every part.

    Attributes
    ----------
    name : str
        As the file says; its file name without the suffix if it does not.
    design : dict
        In canonical form.
    """

    name: str
    design: dict[str, Any]
    backbone: Source
    protocol: Protocol


def find(recipe: str | Path) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped recipe.

    Raises
    ------
    InputFault
        If it is neither; lists the shipped names.
    """
    return shipped.find(recipe, SHIPPED, "recipe")


def read(path: Path, backbone: Source | None = None) -> Recipe:
    """Read and check a recipe file; a relative folder in it starts from the file's own.

    Parameters
    ----------
    backbone : Source, optional
        Taken instead of the recipe's own, which then may be one that this machine does not have.

    Raises
    ------
    InputFault
        One message with every fault and its line.
    """
    data, lines = read_yaml(path)
    return _Check(str(path), lines).run(data, path, backbone)


class _Check(Faults):
    """One pass over one recipe."""

    keys: ClassVar = {"protocol": Protocol.model_fields}

    def __init__(self, source: str, lines: Lines) -> None:
        super().__init__(f"recipe {source}", lines)

    def run(self, data: Any, path: Path, backbone: Source | None) -> Recipe:
        if not isinstance(data, dict):
            raise InputFault(f"{self.source}: got {type(data).__name__}, expected a mapping with at least `design`")
        self._repeated()
        given = self._sections(data)
        design = self._design(given["design"]) if "design" in given else {}
        if backbone is None:
            try:
                backbone = resolve(given["backbone"], path.parent)
            except InputFault as fault:
                self._fault(("backbone",), str(fault))
        if self.faults:
            self._raise()
        assert backbone is not None  # one that could not be resolved is a fault
        return Recipe(given.get("name", path.stem), design, backbone, given["protocol"])

    def _sections(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the sections whose form is right, defaults filled."""
        given: dict[str, Any] = {"backbone": BACKBONE, "protocol": Protocol()}
        if "design" not in data:
            self._fault(("design",), "is missing; for instance {method: adapter, input: SA_in, output: FFN_in, …}")
        for name, value in data.items():
            if name not in SECTIONS:
                self._fault((str(name),), "unknown section" + near(str(name), SECTIONS))
                continue
            try:
                given[name] = TypeAdapter(SECTIONS[name]).validate_python(value)
            except ValidationError as error:
                self._pydantic(error, (name,))
        return given

    def _design(self, design: dict[str, Any]) -> dict[str, Any]:
        """Return the design in canonical form; every key that is wrong becomes a fault at its own line."""
        if "method" not in design:
            self._fault(("design",), "no method: give one, for instance `method: adapter`")
            return {}
        try:
            checked = normalise(design)
        except InputFault as first:
            for fault in blame(design, first):
                self._fault(("design", fault.name) if fault.name else ("design",), fault.message)
            return {}
        if checked["method"] == "none":
            self._fault(("design", "method"), "none trains nothing; name a method that does, such as adapter")
        return checked
