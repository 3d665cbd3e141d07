"""Parquet files that carry the digest of all of their bytes, so that a damaged one is never taken for a sound one.

The digest stands in the file's metadata, as text of a fixed length, and is taken of the file with zeros in its place.
Any program reads such a file as it is. One without a digest, of an earlier version or another program, is taken too.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"adapter-study-digest"
_NONE = b"0" * 64
# A key and its value, as Thrift's compact protocol writes two short texts one after the other.
_PLACE = re.compile(re.escape(_KEY) + rb"\x18\x40([0-9a-f]{64})")


def write(path: Path, table: pa.Table) -> None:
    """Write a table with its digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: _NONE}), sink)
    data = bytearray(sink.getvalue())
    begin, end = _place(data)
    data[begin:end] = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data)


def carried(data: bytes) -> bool:
    """Say whether the bytes of a file hold a digest."""
    return _KEY in data


def damaged(data: bytes) -> bool:
    """Say whether the bytes of a file are not those that its digest was taken of."""
    if not carried(data):
        return False
    try:
        begin, end = _place(data)
    except ValueError:
        return True
    digest = hashlib.sha256(memoryview(data)[:begin])
    digest.update(_NONE)
    digest.update(memoryview(data)[end:])
    return digest.hexdigest().encode() != data[begin:end]


def _place(data: bytes | bytearray) -> tuple[int, int]:
    """Find the digest in the footer, whose length stands before the last four bytes."""
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    found = list(_PLACE.finditer(data, max(0, footer)))
    if len(found) != 1:
        raise ValueError("there is no digest where one is expected")
    return found[0].span(1)
