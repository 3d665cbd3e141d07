"""Checks that a table of a store is what the store writes: a store may be damaged, or a stranger's.

Rows name files (a trial's id, a picture), and are shown in terminals and reports, so nothing in them may lead out of
the store or steer a terminal. Every check looks at whole columns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from adapters.reading import parse_json
from study.config import Protocol
from study.strategies.search import ADAPTIVE, FIXED
from study.trial import ROLES, STATUSES

if TYPE_CHECKING:
    import pyarrow as pa

_ID = "^[0-9a-f]{64}$"
_PICTURE = r"^pictures/[0-9a-f]{64}/[0-9]{3,6}\.webp$"
_STEERING = r"[\x00-\x1f\x7f-\x{9f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
_FREE = {"error", "prompt"}
"""Texts that may have lines; they are made printable where they are shown."""
_ALWAYS = ("id", "attempt", "role", "status", "design_json", "task", "task_hash", "seed", "backbone", "backbone_hash",
           "protocol_json")  # fmt: skip
"""Columns of a trial that every version wrote."""
_LONGEST = 100_000
"""Characters of a text at most."""


def fault_of(table: pa.Table, columns: Mapping[str, str], only: Collection[str] | None = None) -> str:
    """Say what there is in a table that the store does not write; nothing if it might be one of its own.

    Parameters
    ----------
    columns : mapping of str to str
        The store's columns of such a table, and their types.
    only : collection of str, optional
        Those that were read, where not all were.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        return f"its values are garbled ({str(error).splitlines()[0][:200]})"
    if not table.num_rows:
        return "it has no rows"
    names = table.column_names
    if len(set(names)) < len(names):
        return "two columns have the same name"
    always = [name for name in (_ALWAYS if "status" in columns else ("id", "attempt")) if only is None or name in only]
    if lost := [name for name in always if name not in names]:
        return f"it has no column {lost[0]}"
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_null(kind) or _fits(kind, columns.get(name), "status" in columns)):
            return f"column {name!a} is of type {kind}, expected {columns.get(name, 'text')}"
    for name in always:
        if table[name].null_count:
            return f"the column {name} is empty in some row"
    if pc.min(table["attempt"]).as_py() < 1:
        return "an attempt is below 1"
    if "seed" in names and (least := pc.min(table["seed"]).as_py()) is not None and least < 0:
        return "a seed is below 0"
    for name in names:
        if pa.types.is_string(table.schema.field(name).type):
            told = _text_fault(name, pc.unique(table[name]).drop_null())
            if told:
                return told
    return ""


def _fits(kind: pa.DataType, wanted: str | None, text: bool) -> bool:
    """Say whether a column is of the type that is wanted; where none is, text is a factor, a number a measure."""
    import pyarrow as pa

    number = pa.types.is_int64(kind) or pa.types.is_float64(kind)
    if wanted is None:
        return pa.types.is_string(kind) or (number and not text)
    return kind == pa.type_for_alias(wanted) or (wanted == "double" and pa.types.is_int64(kind))


def _text_fault(name: str, values: pa.Array) -> str:
    """Say what is wrong with the values of a column of text, each once."""
    import pyarrow.compute as pc

    if not len(values):
        return ""
    if pc.max(pc.utf8_length(values)).as_py() > _LONGEST:
        return f"column {name!a} holds a text of more than {_LONGEST} characters"
    if name not in _FREE and pc.any(pc.match_substring_regex(values, _STEERING)).as_py():
        return f"column {name!a} holds characters that cannot be printed"
    pattern = {"id": _ID, "file": _PICTURE}.get(name)
    if pattern and not pc.all(pc.match_substring_regex(values, pattern)).as_py():
        wrong = values.filter(pc.invert(pc.match_substring_regex(values, pattern)))[0].as_py()
        return f"column {name!a} holds {wrong[:100]!a}, which is none of the store's"
    known = {"status": STATUSES, "role": (*ROLES, "confirm"), "plan": (FIXED, ADAPTIVE)}.get(name)
    if known and (strange := set(values.to_pylist()) - set(known)):
        return f"column {name!a} holds {min(strange)[:100]!a}, expected {', '.join(known)}"
    if name.endswith("_json"):
        return _json_fault(name, values.to_pylist())
    return ""


def _json_fault(name: str, texts: Iterable[str]) -> str:
    sound: Callable[[Any], object] = {"protocol_json": lambda told: Protocol(**told)}.get(name, dict)
    for text in texts:
        if not text and name == "versions_json":
            continue
        try:
            told = parse_json(text.encode())
            if not isinstance(told, dict) or (name == "design_json" and not isinstance(told.get("method"), str)):
                raise ValueError("it is not of the form that a store has")
            sound(told)
        except (ValueError, TypeError) as error:
            return f"column {name!a} holds {text[:100]!a} ({str(error).splitlines()[0][:200]})"
    return ""
