"""Tables of a store as parquet files: written with the version of their schema, read from many files as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from adapters.reading import read_bytes
from study import sealed
from study.atomic import write_file
from study.row_checks import checked

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
MOST_BYTES, MOST_CELLS = 4_000_000_000, 300_000_000
"""Of one file: a hundred thousand trials have some seven million cells."""
_VERSION_KEY = b"adapter-study-schema"


def table_of(rows: list[dict[str, Any]], columns: Mapping[str, str]) -> pa.Table:
    """Return rows as a table: the named columns with their types, others with the type of their values."""
    import pyarrow as pa

    def array(name: str) -> pa.Array:
        return pa.array([row.get(name) for row in rows], type=columns.get(name))

    others = dict.fromkeys(name for row in rows for name in row if name not in columns)
    table = pa.table({name: array(name) for name in [*columns, *others]})
    return table.replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def completed(columns: Mapping[str, str], table: pa.Table) -> pa.Table:
    """Return a table with all of its columns of this version, empty where an earlier version wrote it without."""
    import pyarrow as pa

    return pa.concat_tables([table_of([], columns), table], promote_options="permissive")


def files_of(folder: Path) -> list[Path]:
    """Return a table's files; merged ones first, then by name.

    Raises
    ------
    InputFault
        If something else has such a name; a link might lead anywhere, and a pipe never ends.
    """
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".parquet"):
                continue
            if not entry.is_file(follow_symlinks=False):
                raise InputFault(f"{entry.path}: is no file, but a link, a folder or a pipe; remove it")
            found.append(entry.name)
    return [folder / name for name in sorted(found, key=lambda name: (not name.startswith("merged-"), name))]


def read_tables(files: Iterable[Path], columns: Mapping[str, str] | None = None) -> pa.Table:
    """Return the rows of tables, each attempt of each trial from the first file that has it.

    Parameters
    ----------
    columns : mapping of str to str, optional
        The store's columns of such tables; what else it is that a file holds is then refused.

    Raises
    ------
    InputFault
        If a file is damaged, was written by an unknown version or, in a store, by something else.
    """
    import pyarrow as pa

    found: dict[Path, pa.Table] = {}
    seen: set[tuple[str, int]] = set()
    for file in files:
        table = _read(file)
        if _numbered(table):
            pairs = list(zip(table["id"].to_pylist(), table["attempt"].to_pylist(), strict=True))
            fresh = [pair not in seen for pair in pairs]
            seen.update(pairs)
            if not all(fresh):
                table = table.filter(pa.array(fresh))
        found[file] = table
    try:
        joined = pa.concat_tables(found.values(), promote_options="permissive")
        if columns is not None:
            joined = checked(joined, columns, file.parent)
    except (pa.ArrowException, InputFault) as error:
        if columns is not None:
            for file, table in found.items():  # which of them it is
                checked(table, columns, file)
        told = f"{file.parent}: its tables do not go together ({str(error).splitlines()[0]})"
        raise error if isinstance(error, InputFault) else InputFault(told) from error
    return joined.replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def _numbered(table: pa.Table) -> bool:
    """Say whether the rows of a table are attempts of trials."""
    import pyarrow as pa

    names = table.column_names
    return all(
        names.count(name) == 1 and table.schema.field(name).type == kind
        for name, kind in (("id", pa.string()), ("attempt", pa.int64()))
    )


def _read(file: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one table, whole, from memory: a file that is mapped may change while it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = read_bytes(file, MOST_BYTES)
        if sealed.damaged(data):
            raise ValueError("its bytes are not those that were written")
        with pq.ParquetFile(pa.BufferReader(data)) as opened:
            cells = opened.metadata.num_rows * max(1, opened.metadata.num_columns)
            if cells > MOST_CELLS:
                raise ValueError(f"it says that it has {cells:,} cells, expected {MOST_CELLS:,} at most")
            table = opened.read(columns=columns)
        table.validate(full=True)
        version = (table.schema.metadata or {}).get(_VERSION_KEY, str(SCHEMA_VERSION).encode()).decode(errors="replace")
    except (FileNotFoundError, InputFault):
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        reason = f"{str(error).strip()[:300]}\n".splitlines()[0]
        told = f"{file}: cannot be read as parquet ({reason}); delete it, or give another file"
        raise InputFault(told) from error
    if version != str(SCHEMA_VERSION):
        raise InputFault(
            f"{file}: was written with store schema {version}, this version of adapter-study reads "
            f"{SCHEMA_VERSION}; use the version that wrote it"
        )
    return table


@lru_cache(maxsize=8)
def attempts_in(file: Path) -> frozenset[tuple[str, int]]:
    """Return the attempts in a merged file."""
    try:
        table = _read(file, ["id", "attempt"])
    except FileNotFoundError:  # merged with others since it was listed: the row is in the new file
        return frozenset()
    return frozenset(zip(table["id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


def write_table(path: Path, table: pa.Table) -> None:
    write_file(path, lambda part: sealed.write(part, table))
