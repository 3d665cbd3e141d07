"""Read a YAML file together with the line of every key and value in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapters.faults import InputFault


class _Loader(yaml.SafeLoader):
    """The safe loader, for which 1e-3 is a number, as it is in YAML 1.2 and in every other language."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Lines:
    """Where each part of a document stands; a part is named by its path of keys and list positions."""

    of: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    repeated: list[tuple[tuple[str | int, ...], int]] = field(default_factory=list)

    def at(self, path: Sequence[str | int]) -> int | None:
        """Return the line of the part at `path`, or of the nearest part around it; None if nothing is known."""
        parts = tuple(path)
        while parts and parts not in self.of:
            parts = parts[:-1]
        return self.of.get(parts)


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """Read one YAML document.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    data : object
        What the document says.
    lines : Lines
        The line of each key (for a value in a mapping) and of each item (for a list), from 1.

    Raises
    ------
    InputFault
        If the file cannot be read, is not YAML, or refers to itself.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault(f"{path}: cannot be read ({error}); expected a YAML file in UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, path: str) -> tuple[Any, Lines]:
    """Read one YAML document from a text, which messages call `path`; returns and raises as `read_yaml`."""
    lines = Lines()
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, lines
        _walk(root, (), lines, ())
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}:" if mark else ""
        raise InputFault(f"{path}:{where} not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputFault(f"{path}: not YAML: {error}") from error


def _walk(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, above: tuple[int, ...]) -> None:
    if id(node) in above:
        raise InputFault(f"line {node.start_mark.line + 1}: the document refers to itself; write it out")
    above = (*above, id(node))
    lines.of.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in lines.of:
                lines.repeated.append((here, key.start_mark.line + 1))
            lines.of[here] = key.start_mark.line + 1
            _walk(value, here, lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            here = (*path, index)
            lines.of[here] = item.start_mark.line + 1
            _walk(item, here, lines, above)
