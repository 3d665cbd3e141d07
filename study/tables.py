"""Tables of a store as parquet files: written with the version of their schema, read from many files as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from adapters.reading import read_bytes
from study import sealed
from study.atomic import write_file
from study.row_checks import fault_of

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
_AT_ONCE = 500
"""Files that are in memory at once, each by itself: of a single row it takes tens of kilobytes."""

MOST_BYTES, MOST_CELLS = 4_000_000_000, 300_000_000
"""Of one file: a hundred thousand trials have some seven million cells."""
_VERSION_KEY = b"adapter-study-schema"
_SMALL = 100_000
"""Cells of a file that is not worth several threads."""


class Damaged(ValueError):
    """A file is not the table it should be; the message is the reason, without the file's name."""


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

    # Not by `table_of`, which makes arrays of Python's values: for that Arrow imports pandas.
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    empty = pa.Table.from_batches([], schema=schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()}))
    return pa.concat_tables([empty, table], promote_options="permissive")


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


def read_tables(
    files: Iterable[Path], columns: Mapping[str, str], damaged: dict[Path, str], only: Collection[str] | None = None
) -> pa.Table:
    """Return the rows of tables of a store, each attempt of each trial from the first file that has it.

    Parameters
    ----------
    columns : mapping of str to str
        The store's columns of such tables, and their types.
    damaged : dict of Path to str
        Takes the files that are damaged or that the store does not write so, with the reason; they are left out.
    only : collection of str, optional
        Read only these columns, of those that are there; id and attempt must be among them.

    Raises
    ------
    InputFault
        If the disk does not give a file, one was written by an unknown version, or they do not go together.
    FileNotFoundError
    """
    listed = list(files)
    batches = [listed[begin : begin + _AT_ONCE] for begin in range(0, len(listed), _AT_ONCE)]
    parts = [part for batch in batches if (part := _sound(batch, columns, damaged, only)).num_rows]
    if len(parts) == 1:
        return parts[0]
    try:
        return _joined(parts, columns, only)
    except Damaged as fault:
        raise InputFault(f"{listed[0].parent}: its tables do not go together ({fault})") from fault


def _sound(
    files: Iterable[Path], columns: Mapping[str, str], damaged: dict[Path, str], only: Collection[str] | None
) -> pa.Table:
    """Return the rows of those of some tables that are not damaged."""
    found: dict[Path, pa.Table] = {}
    for file in files:
        try:
            found[file] = read_table(file, only)
        except Damaged as fault:
            damaged[file] = str(fault)
    try:
        return _joined(list(found.values()), columns, only)
    except Damaged:  # some of them are: they are checked together, and one by one only to find out which
        for file, table in list(found.items()):
            if fault_of(table, columns, only):
                damaged[file] = fault_of(table, columns, only)
                del found[file]
    try:
        return _joined(list(found.values()), columns, only)
    except Damaged as fault:
        raise InputFault(f"{next(iter(found)).parent}: its tables do not go together ({fault})") from fault


def _joined(tables: Sequence[pa.Table], columns: Mapping[str, str], only: Collection[str] | None) -> pa.Table:
    """Return the rows of tables as one."""
    import pyarrow as pa

    if not tables:
        return table_of([], {})
    if not all(table.num_rows for table in tables):
        raise Damaged("one has no rows")
    try:
        joined = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        # Of the schema's metadata nothing but the version is ours: what a stranger has for pandas there, pandas trusts.
        joined = joined.replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})
    except pa.ArrowException as error:
        raise Damaged(str(error).splitlines()[0]) from error
    if reason := fault_of(joined, columns, only):
        raise Damaged(reason)
    return _from_the_first(joined, [len(table) for table in tables]) if len(tables) > 1 else joined


def _from_the_first(joined: pa.Table, lengths: list[int]) -> pa.Table:
    """Return the rows of files one after another, without those of attempts that an earlier file has."""
    import pyarrow as pa

    files = chain.from_iterable(repeat(file, length) for file, length in enumerate(lengths))
    keys = zip(joined["id"].to_pylist(), joined["attempt"].to_pylist(), strict=True)
    first: dict[tuple[str, int], int] = {}
    fresh = [first.setdefault(key, file) == file for key, file in zip(keys, files, strict=True)]
    return joined if all(fresh) else joined.filter(pa.array(fresh))


def read_table(file: Path, columns: Collection[str] | None = None) -> pa.Table:
    """Return the rows of one table, all of their columns or some, whatever is in them.

    Raises
    ------
    Damaged
        If the file is no parquet, was cut off or garbled, or says that it is absurdly large.
    InputFault
        If the disk does not give it, it does not fit into memory, or it was written by an unknown version.
    FileNotFoundError
    """
    return _parsed(file, _bytes_of(file), columns)


def check_table(file: Path, columns: Mapping[str, str]) -> None:
    """Raise what `read_table` does, and Damaged too if a store does not write such tables.

    One that carries a digest is not read beyond it, which takes a tenth of the time.
    """
    data = _bytes_of(file)
    if not sealed.carried(data) and (reason := fault_of(_parsed(file, data), columns)):
        raise Damaged(reason)


def _bytes_of(file: Path) -> bytes:
    """Read a file whole: one that is mapped into memory may change while it is read."""
    try:
        data = read_bytes(file, MOST_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputFault(f"{file}: cannot be read ({error}); look after the disk, then try again") from error
    if sealed.damaged(data):
        raise Damaged("its bytes are not those that were written")
    return data


def _parsed(file: Path, data: bytes, columns: Collection[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as opened:
            cells = opened.metadata.num_rows * max(1, opened.metadata.num_columns)
            if cells > MOST_CELLS:
                raise Damaged(f"it says that it has {cells:,} cells, expected {MOST_CELLS:,} at most")
            table = opened.read(None if columns is None else list(columns), use_threads=cells > _SMALL)
    except MemoryError as error:
        raise InputFault(f"{file}: does not fit into memory") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise Damaged(f"{str(error).strip()[:300]}\n".splitlines()[0]) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, str(SCHEMA_VERSION).encode()).decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise InputFault(
            f"{file}: was written with store schema {version}, this version of adapter-study reads "
            f"{SCHEMA_VERSION}; use the version that wrote it"
        )
    return table


def rows_in(file: Path) -> int:
    """Return how many rows a table says that it has; none if it is damaged or gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError):
        return 0


@lru_cache(maxsize=8)
def attempts_in(file: Path) -> frozenset[tuple[str, int]]:
    """Return the attempts in a merged file; none of a damaged one.

    Raises
    ------
    FileNotFoundError
        If it was merged with others since it was listed: its rows are in a new file.
    """
    try:
        table = read_table(file, ["id", "attempt"])
    except Damaged:
        return frozenset()
    if table.column_names != ["id", "attempt"]:
        return frozenset()
    return frozenset(zip(table["id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of a store, whole or not at all."""
    write_file(path, lambda part: sealed.write(part, table))
