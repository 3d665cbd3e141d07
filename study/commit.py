"""How a result gets into the store when others may be writing the same: the first row wins, and with it all its files.

A result's pieces are written under temporary names, given their names, and then the row is given its own, which fails
if that name is taken. Whoever fails was second, and puts back what he replaced, as far as it is the winner's. The
row's file says which pieces are its own, by their digests, so it does not matter who tidies up first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.reading import parse_json
from study import sealed
from study.atomic import aside, put_new, remove, sync, temporary
from study.tables import Damaged, read_table

if TYPE_CHECKING:
    import pyarrow as pa

Fill = Callable[[Path], None]
"""Writes a file, or the files of a folder that is there."""

_PIECES_KEY = b"adapter-study-pieces"


@dataclass
class _Piece:
    """A file or folder of a result: its name, the temporary one, its digest, and what had its name before."""

    path: Path
    part: Path
    digest: str
    olds: list[Path] = field(default_factory=list)

    def place(self) -> None:
        """Give it its name; what had it is moved aside."""
        while not put_new(self.part, self.path):
            moved = aside(self.path)
            if moved is not None:
                self.olds.append(moved)

    def withdraw(self, winner: str | None) -> None:
        """Leave under its name what is the winner's, if it is at hand, and nothing else.

        Another loser may give the name to his own again before the winner's is put back; then that is moved aside too.
        """
        while True:
            moved = aside(self.path)
            if moved is not None:
                self.olds.append(moved)
            right = next((old for old in reversed(self.olds) if digest(old) == winner), None)
            if right is None or put_new(right, self.path):
                return

    def put_back(self) -> None:
        """Undo `place`, while no row says whose the name is."""
        with contextlib.suppress(FileNotFoundError):
            if digest(self.path) != self.digest:
                return
        moved = aside(self.path)
        if moved is None:
            return
        self.olds.append(moved)
        earlier = self.olds[-2:-1] if digest(moved) == self.digest else [moved]  # it may be another's by now
        for each in earlier:
            put_new(each, self.path)


def commit(
    folder: Path, row: Path, table: pa.Table, pieces: Mapping[Path, Fill], merged: Callable[[Path], bool]
) -> bool:
    """Put a row and its pieces into a store, unless the row is there already; say whether it was not.

    Parameters
    ----------
    folder : Path
        The store's.
    row : Path
        The name of the row's file.
    table : pyarrow.Table
        The row.
    pieces : mapping of Path to callable
        The names of files (those with a suffix) and folders, and what fills them.
    merged : callable
        Whether a row's file has been merged into another.
    """
    written: list[_Piece] = []
    part = temporary(row)
    won = False
    try:
        if row.exists() or merged(row):
            return False
        for path, fill in pieces.items():
            written.append(_write(path, fill))
        row.parent.mkdir(parents=True, exist_ok=True)
        _fill_row(part, table, {str(each.path.relative_to(folder)): each.digest for each in written})
        sync(part)
        if row.exists() or merged(row):
            return False
        for each in written:
            each.place()
        won = put_new(part, row)
        return won
    finally:
        part.unlink(missing_ok=True)
        if not won:
            winners = _pieces_of(row)
            for each in written:
                if each.part.exists():
                    continue
                if winners is None:
                    each.put_back()
                else:
                    each.withdraw(winners.get(str(each.path.relative_to(folder))))
        for each in written:
            for path in (each.part, *each.olds):
                remove(path)


def give_back(folder: Path, part: Path) -> bool:
    """Give a piece under a temporary name its own, if a row says that it is the row's; say whether one did.

    So ends what somebody began who replaced a winner's piece by his own and was killed before he could put it back.
    """
    path = part.with_name(part.name.rsplit(".", 2)[0])
    for row in sorted((folder / "trials").glob(f"{escape(path.name.partition('.')[0])}.*.parquet")):
        own = (_pieces_of(row) or {}).get(str(path.relative_to(folder)))
        if own is None or digest(part) != own or (path.exists() and digest(path) == own):
            continue
        moved = aside(path)
        put_new(part, path)
        if moved is not None:
            remove(moved)
        return True
    return False


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's file names and contents; of what is no file, of its name."""
    total = hashlib.sha256()
    folder = path.is_dir() and not path.is_symlink()
    for file in sorted(path.iterdir()) if folder else [path]:
        own = b""
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as opened:
                own = hashlib.file_digest(opened, "sha256").digest()
        total.update((os.fsencode(file.name) if folder else b"") + b"\0" + own)
    return total.hexdigest()


def _write(path: Path, fill: Fill) -> _Piece:
    part = temporary(path)
    try:
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(part)
        else:
            part.mkdir(parents=True)
            fill(part)
            for file in part.iterdir():
                sync(file)
        sync(part)
        return _Piece(path, part, digest(part))
    except BaseException:
        remove(part)
        raise


def _fill_row(part: Path, table: pa.Table, pieces: Mapping[str, str]) -> None:
    told = {**(table.schema.metadata or {}), _PIECES_KEY: json.dumps(dict(pieces)).encode()}
    sealed.write(part, table.replace_schema_metadata(told))


def _pieces_of(row: Path) -> dict[str, str] | None:
    """Return the digests of a row's pieces; None if there is no whole row, and none of one of an earlier version."""
    try:
        metadata = read_table(row, []).schema.metadata or {}
    except (FileNotFoundError, Damaged):
        return None
    try:
        return dict(parse_json(metadata.get(_PIECES_KEY, b"{}")))
    except (ValueError, TypeError):
        return {}
