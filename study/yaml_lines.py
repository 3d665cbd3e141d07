"""Read a YAML file together with the line of every key and value in it.

A file may come from a stranger, so it is read within limits: of bytes, of depth, and of parts, an alias counting as all
that it stands for. Values are texts, numbers, true, false, null, lists and mappings; nothing else is ever made of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapters.faults import InputFault
from adapters.reading import read_bytes

MOST_BYTES, MOST_PARTS, DEEPEST = 250_000, 100_000, 50
LARGEST = 2**63 - 1
"""The largest whole number, as the store's columns have it."""

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """The safe loader, for which 1e-3 is a number and 2026-11-27 a text, as in YAML 1.2."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if tag in _TAGS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


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
        If the file cannot be read, is not YAML, refers to itself, or is beyond the limits.
    """
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault(f"{path}: cannot be read ({error}); expected a YAML file in UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, path: str) -> tuple[Any, Lines]:
    """Read one YAML document from a text, which messages call `path`; returns and raises as `read_yaml`."""
    walk = _Walk()
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, walk.lines
        walk.go(root, (), ())
        return loader.construct_document(root), walk.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}:" if mark else ""
        raise InputFault(f"{path}:{where} not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputFault(f"{path}: not YAML: {' '.join(str(error).split())!a}") from error
    except RecursionError:
        raise InputFault(f"{path}: lists and mappings are nested too deeply, expected {DEEPEST} at most") from None
    except _Refused as refused:
        raise InputFault(f"{path}: line {refused.line}: {refused}") from None


class _Refused(Exception):
    """A part of a document that is not taken."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1


class _Walk:
    """Goes through a document before anything is made of it: notes lines, and refuses what is beyond the limits."""

    def __init__(self) -> None:
        self.lines = Lines()
        self.parts = 0

    def go(self, node: yaml.Node, path: tuple[str | int, ...], above: tuple[int, ...]) -> None:
        if id(node) in above:
            raise _Refused(node, "the document refers to itself; write it out")
        if len(above) > DEEPEST:
            raise _Refused(node, f"nested too deeply, expected {DEEPEST} lists and mappings in each other at most")
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise _Refused(node, f"more than {MOST_PARTS:,} parts, what aliases stand for included")
        if node.tag not in _TAGS:
            raise _Refused(node, f"got the tag {node.tag!a}, expected text, numbers, lists and mappings without one")
        above = (*above, id(node))
        of = self.lines.of
        of.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _Refused(key, "a list or mapping stands where a key is expected")
                self.scalar(key)
                here = (*path, str(key.value))
                if here in of:
                    self.lines.repeated.append((here, key.start_mark.line + 1))
                of[here] = key.start_mark.line + 1
                self.go(value, here, above)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                here = (*path, index)
                of[here] = item.start_mark.line + 1
                self.go(item, here, above)
        else:
            self.scalar(node)

    def scalar(self, node: yaml.Node) -> None:
        if found := _UNPRINTABLE.search(node.value):
            raise _Refused(node, f"got the character {found[0]!a}, expected text that can be printed")
        kind = node.tag.rpartition(":")[2]
        if kind not in ("int", "float", "bool"):
            return
        try:
            value = yaml.SafeLoader.yaml_constructors[node.tag](_Loader(""), node)
        except (ValueError, KeyError, OverflowError):
            raise _Refused(node, f"got {node.value[:80]!a}, which is no {kind}") from None
        if kind == "int" and abs(value) > LARGEST:
            raise _Refused(node, f"got a whole number of {len(node.value)} digits, expected {LARGEST} at most")
