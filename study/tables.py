"""Tables of a store as parquet files: written with the version of their schema, read from many files as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from study.atomic import write_file

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
_AT_ONCE = 500
"""Files that are in memory at once, each by itself: of a single row it takes tens of kilobytes."""

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
    """Return a table's files; merged ones first, then by name."""
    return sorted(folder.glob("*.parquet"), key=lambda file: (not file.name.startswith("merged-"), file.name))


def read_tables(files: Iterable[Path], columns: Collection[str] | None = None) -> pa.Table:
    """Return the rows of tables, each attempt of each trial from the first file that has it.

    Parameters
    ----------
    columns : collection of str, optional
        Read only these, of those that are there.
    """
    import pyarrow as pa

    lengths: list[int] = []
    parts: list[pa.Table] = []
    left = iter(files)
    while tables := [_read(file, columns) for file in islice(left, _AT_ONCE)]:
        lengths += map(len, tables)
        part = pa.concat_tables(tables, promote_options="permissive")
        parts.append(part.combine_chunks() if len(tables) > 1 else part)
    joined = pa.concat_tables(parts, promote_options="permissive")
    if len(lengths) > 1 and {"id", "attempt"} <= set(joined.column_names):
        joined = _from_the_first(joined, lengths)
    return joined.replace_schema_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})


def _read(file: Path, columns: Collection[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            table = opened.read(columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        told = f"{file}: cannot be read as parquet ({reason}); delete it, or give another file"
        raise InputFault(told) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, str(SCHEMA_VERSION).encode()).decode()
    if version != str(SCHEMA_VERSION):
        raise InputFault(
            f"{file}: was written with store schema {version}, this version of adapter-study reads "
            f"{SCHEMA_VERSION}; use the version that wrote it"
        )
    return table


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
    """Return the attempts in a merged file.

    Raises
    ------
    FileNotFoundError
        If it was merged with others since it was listed: its rows are in a new file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        table = opened.read(columns=["id", "attempt"])
    return frozenset(zip(table["id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


def fill_table(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path)


def write_table(path: Path, table: pa.Table) -> None:
    write_file(path, lambda part: fill_table(part, table))
