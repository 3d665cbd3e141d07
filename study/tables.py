"""Tables of a store as parquet files: written with the version of their schema, read from many files as one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from study.atomic import write_file
from study.columns import IMAGE, ROW

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
_VERSION_KEY = b"adapter-study-schema"
_NAMES_KEY = b"adapter-study-columns"
_TYPES = {**ROW, **IMAGE}


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

    return pa.concat_tables([table_of([], columns), table], promote_options="permissive")


def files_of(folder: Path) -> list[Path]:
    """Return a table's files; merged ones first, then by name."""
    return sorted(folder.glob("*.parquet"), key=lambda file: (not file.name.startswith("merged-"), file.name))


def read_tables(
    files: Iterable[Path], columns: Collection[str] | None = None, damaged: dict[Path, str] | None = None
) -> pa.Table:
    """Return the rows of tables, each attempt of each trial from the first file that has it.

    Parameters
    ----------
    columns : collection of str, optional
        Read only these, of those that are there.
    damaged : dict of Path to str, optional
        Of the tables of a store: takes those that cannot be read, with the reason, and they are left out.

    Raises
    ------
    InputFault
        If a file cannot be read and `damaged` is not given, or was written by an unknown version.
    """
    import pyarrow as pa

    tables = []
    for file in files:
        try:
            tables.append(read_table(file, columns, of_store=damaged is not None))
        except Damaged as fault:
            if damaged is None:
                told = f"{file}: cannot be read as parquet ({fault}); delete it, or give another file"
                raise InputFault(told) from fault
            damaged[file] = str(fault)
    joined = pa.concat_tables(tables, promote_options="permissive") if tables else table_of([], {})
    if len(tables) > 1:
        joined = joined.combine_chunks()
        if {"id", "attempt"} <= set(joined.column_names):
            joined = _from_the_first(joined, [len(table) for table in tables])
    return joined.replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def read_table(file: Path, columns: Collection[str] | None = None, of_store: bool = True) -> pa.Table:
    """Return the rows of one table, all of their columns or some.

    Raises
    ------
    Damaged
        If the file is no parquet, was cut off or garbled, or is none of a store's where one is expected.
    InputFault
        If the disk does not give it, or it was written by an unknown version.
    FileNotFoundError
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            names = opened.schema_arrow.names
            table = opened.read(None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, OSError) and error.errno is not None:
            raise InputFault(f"{file}: cannot be read ({reason}); look after the disk, then try again") from error
        raise Damaged(reason) from error
    told = table.schema.metadata or {}
    if told.get(_NAMES_KEY, _digest(names)) != _digest(names):
        raise Damaged("the names of its columns are garbled")
    version = told.get(_VERSION_KEY, str(SCHEMA_VERSION).encode()).decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise InputFault(
            f"{file}: was written with store schema {version}, this version of adapter-study reads "
            f"{SCHEMA_VERSION}; use the version that wrote it"
        )
    if of_store:
        _check(table)
    return table


def _check(table: pa.Table) -> None:
    """Raise Damaged if a table has not what every table of a store has, or a column another type than its name's."""
    import pyarrow as pa

    if not table.num_rows:
        raise Damaged("it has no rows")
    for name in ("id", "attempt"):
        if name not in table.column_names or table[name].null_count:
            raise Damaged(f"it has rows without {name}")
    for column in table.schema:
        if pa.types.is_binary(column.type) or str(column.type) != _TYPES.get(column.name, str(column.type)):
            raise Damaged(f"its column {column.name} is of the type {column.type}")


def _from_the_first(joined: pa.Table, lengths: list[int]) -> pa.Table:
    """Return the rows of files one after another, without those of attempts that an earlier file has."""
    import numpy as np
    import pyarrow as pa

    keys = joined.select(["id", "attempt"]).to_pandas()
    keys["file"] = np.repeat(np.arange(len(lengths)), lengths)
    fresh = keys["file"] == keys.groupby(["id", "attempt"], dropna=False)["file"].transform("min")
    return joined if fresh.all() else joined.filter(pa.array(fresh))


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
    return frozenset(zip(table["id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


def fill_table(path: Path, table: pa.Table) -> None:
    """Write a table so that a reader sees damage: parquet's own checksums are of values, and not of columns' names."""
    import pyarrow.parquet as pq

    told = {**(table.schema.metadata or {}), _NAMES_KEY: _digest(table.column_names)}
    pq.write_table(table.replace_schema_metadata(told), path, write_page_checksum=True)


def _digest(names: list[str]) -> bytes:
    return hashlib.sha256("\0".join(names).encode()).hexdigest().encode()


def write_table(path: Path, table: pa.Table) -> None:
    write_file(path, lambda part: fill_table(part, table))
