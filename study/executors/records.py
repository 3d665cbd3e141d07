"""Pack files in a store, each with a record beside it of who was given the pack; so drivers come and go."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.reading import read_bytes, read_json
from study.atomic import write_file
from study.process import Process

if TYPE_CHECKING:
    from study.store import Store
    from study.trial import Pack

_NAME = re.compile(r"study-[A-Za-z0-9._-]*-[0-9a-f]{12}")
_MOST = 50_000_000
"""Bytes of a pack."""


@dataclass(frozen=True)
class Record:
    """Who was given a pack.

    Attributes
    ----------
    executor : {"local", "slurm", "ray"}
    owner : Process
        The driver.
    name, index
        Of the SLURM job, by which it is found; written before it is submitted, so that none is forgotten.
    cluster : str
        Where it was submitted.
    """

    executor: str
    owner: Process
    name: str = ""
    index: int = 0
    cluster: str = ""

    @classmethod
    def from_json(cls, data: Any) -> Record | None:
        """Return the record that `to_json` wrote; None if it is no such thing."""
        if not isinstance(data, dict) or set(data) != {"executor", "owner", "name", "index", "cluster"}:
            return None
        owner = Process.from_json(data["owner"])
        texts = all(isinstance(data[key], str) for key in ("executor", "name", "cluster"))
        if owner is None or not texts or type(data["index"]) is not int or data["index"] < 0:
            return None
        # SLURM's jobs are found by name, and ended so: only names that `job_name` makes, which no other job has.
        if data["executor"] == "slurm" and not _NAME.fullmatch(data["name"]):
            return None
        return cls(**{**data, "owner": owner})

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {**vars(self), "owner": self.owner.to_json()}


def job_name(study: str) -> str:
    """Return a name for SLURM jobs that no other has."""
    return f"study-{study}-{uuid.uuid4().hex[:12]}"


def file(store: Store, handle: str) -> Path:
    """Return the file of a pack."""
    return store.packs / f"{handle}.json"


def write(store: Store, handle: str, pack: Pack, record: Record) -> None:
    """Write a pack and its record, the record first: a pack without one belongs to nobody."""
    for path, text in (
        (file(store, handle).with_suffix(".job"), json.dumps(record.to_json())),
        (file(store, handle), pack.to_json()),
    ):
        write_file(path, partial(_fill, text=text))


def read(store: Store) -> Iterator[tuple[str, Pack, Record]]:
    """Yield the packs of a store that can be read, by handle."""
    from study.trial import Pack

    for path in sorted(store.packs.glob("*.json")) if store.packs.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):  # gone since, or garbage
            record = _record(path)
            if record is not None:
                yield path.stem, Pack.from_json(read_bytes(path, _MOST).decode("utf-8")), record


def delete(store: Store, handle: str) -> None:
    """Delete a pack and its record."""
    file(store, handle).unlink(missing_ok=True)
    file(store, handle).with_suffix(".job").unlink(missing_ok=True)


def given_to_slurm(path: Path) -> bool:
    """Say whether a pack file belongs to a SLURM job, which may still wait."""
    with contextlib.suppress(OSError, ValueError):
        record = _record(path)
        return record is not None and record.executor == "slurm"
    return False


def _record(path: Path) -> Record | None:
    return Record.from_json(read_json(path.with_suffix(".job"), _MOST))


def _fill(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
