"""The store: a directory that is the only truth of a study. No locks, no clocks, nothing pickled; safe on NFS.

A trial's row is written last, so a file without a row is an orphan of a killed run, which `gc` deletes. Every file
appears whole or not at all: written under a temporary name, synced, renamed.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.faults import InputFault
from study import sealed
from study.atomic import TEMPORARY, is_number, look_anew, remove
from study.checkpoints import Checkpoints
from study.columns import CURVE, IMAGE, ROW, TABLES
from study.commit import Fill, commit, give_back
from study.damage import left_out, set_aside_before
from study.executors.records import given_to_slurm
from study.result_files import row_of, save_pictures, save_weights
from study.tables import attempts_in, completed, files_of, read_tables, rows_in, table_of, write_table
from study.trial import FINAL, PRUNED, TrialResult

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PARTS = (
    *TABLES, "pictures", "adapters", "checkpoints", "tensorboard", "cache", "packs", "claims", "logs", "logs/slurm",
    "logs/ray", "compacted", "looks.json", "optuna.log",
)  # fmt: skip
"""What is in a store."""

KEYS = ("id", "attempt", "status")
"""Columns that decide which attempt of a trial counts."""


@dataclass(frozen=True)
class Store:
    """The files of one store.

    Attributes
    ----------
    folder : Path
        Made by the first write; reading a folder that is not there finds no rows.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Refuse a folder in which a link leads elsewhere: nothing out of the store is read, written or deleted."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputFault(f"{self.folder} is a file; expected the folder of a store")
        for name in PARTS:
            if (self.folder / name).is_symlink():
                raise InputFault(
                    f"{self.folder / name} is a link, and what a store holds is in its own folder; "
                    "to have it on another disk, make a link of the whole store"
                )

    @property
    def logs(self) -> Path:
        """Where workers write what they print."""
        return self.folder / "logs"

    @property
    def packs(self) -> Path:
        """Where packs wait for workers."""
        return self.folder / "packs"

    @property
    def claims(self) -> Path:
        """Where it says who runs which trial."""
        return self.folder / "claims"

    @property
    def checkpoints(self) -> Checkpoints:
        """Of trials in training."""
        return Checkpoints(self.folder / "checkpoints")

    @property
    def journal(self) -> Path:
        """The journal of a search by Optuna, made from the rows for people to look at; it may be deleted."""
        return self.folder / "optuna.log"

    @property
    def looks(self) -> Path:
        """What looks at the rows of a search have found, see `study.looks`; it may be deleted."""
        return self.folder / "looks.json"

    def pictures(self, id: str) -> Path:
        """Return the folder of a trial's pictures."""
        return self._own(self.folder / "pictures" / id)

    def adapter(self, id: str) -> Path:
        """Return the folder of a trial's trained weights."""
        return self._own(self.folder / "adapters" / id)

    def _own(self, path: Path) -> Path:
        """Return the path of a trial's folder, which a link may not stand for."""
        if path.is_symlink():
            raise InputFault(f"{path} is a link, and may lead out of the store; remove it")
        return path

    def commit(
        self, result: TrialResult, study: str = "", attempt: int = 1, keep: str = "none", pictures: str = "all"
    ) -> bool:
        """Write a result: pictures, curves and weights first, the row last.

        Parameters
        ----------
        result : TrialResult
        study : str
            Name of the study that ran it.
        attempt : int
            From 1; a later attempt supersedes an earlier one that failed.
        keep, pictures : {"all", "best", "none"}
            Whether the weights and the pictures are written; `best` is decided later, by `study.keep`.

        Returns
        -------
        bool
            False if the attempt had a row already: the first one stays, and all that belongs to it.

        Raises
        ------
        ValueError
            If the result has a status, score or column that the store does not know.
        """
        row = row_of(result, study, attempt)
        id, name = row["id"], f"{row['id']}.{attempt}.parquet"
        files = [f"{index:03d}.webp" for index in range(len(result.pictures))] if pictures != "none" else []
        pieces: dict[Path, Fill] = {}
        if files:
            pieces[self.pictures(id)] = lambda folder: save_pictures(folder, files, result.pictures)
        if result.images:
            shown: list[str | None] = [f"pictures/{id}/{file}" for file in files]
            shown += [None] * (len(result.images) - len(files))  # of many pictures the first are kept
            images = [
                {**image, "id": id, "attempt": attempt, "index": index, "file": file}
                for index, (image, file) in enumerate(zip(result.images, shown, strict=True))
            ]
            pieces[self.folder / "images" / name] = lambda part: sealed.write(part, table_of(images, IMAGE))
        if result.curves:
            curves = [{"id": id, "attempt": attempt, **point} for point in result.curves]
            pieces[self.folder / "curves" / name] = lambda part: sealed.write(part, table_of(curves, CURVE))
        if result.adapter is not None and keep != "none":
            pieces[self.adapter(id)] = lambda folder: save_weights(folder, result, row)
        return commit(self.folder, self.folder / "trials" / name, table_of([row], ROW), pieces, self._merged)

    def has(self, id: str, attempt: int) -> bool:
        """Say whether an attempt has its row."""
        file = self.folder / "trials" / f"{id}.{attempt}.parquet"
        return file.exists() or self._merged(file)

    def size(self) -> int:
        """Return how many rows there are, without a look at them; none in files that are damaged."""
        files = files_of(self.folder / "trials")
        merged = [file for file in files if file.name.startswith("merged-")]
        return len(files) - len(merged) + sum(map(rows_in, merged))

    def _merged(self, file: Path) -> bool:
        """Say whether `compact` has put a row into a merged file; these never change, so each is read once."""
        if not self._compacted.exists():  # to look for merged files takes long in a folder of many others
            return False
        id, _, attempt = file.stem.partition(".")
        while is_number(attempt):
            merged = sorted((self.folder / "trials").glob("merged-*.parquet"))
            try:
                return any((id, int(attempt)) in attempts_in(each) for each in merged)
            except FileNotFoundError:
                continue  # merged with others since it was listed: look again
        return False

    @property
    def _compacted(self) -> Path:
        return self.folder / "compacted"

    def rows(self, columns: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a trial: the final one first, then the lowest attempt. Pruned trials are left out.

        Parameters
        ----------
        columns : collection of str, optional
            Of `study.columns.ROW`: read these only, and those of `KEYS`, which is faster.

        Returns
        -------
        DataFrame
            Columns as `study.columns.ROW`, and a column of text for every factor; missing text is None.

        Raises
        ------
        InputFault
            If a file was written by an unknown version. One that is damaged is left out, with a warning.
        """
        return one_a_trial(self.attempts(columns))

    def table(self, columns: Collection[str] | None = None) -> pa.Table:
        """Return what `rows` does as Arrow's table, mostly without pandas, whose import takes a fifth of a second."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._completed("trials", columns)
        once = pc.count_distinct(table["id"]).as_py() == len(table)
        if once and PRUNED not in pc.unique(table["status"]).to_pylist():
            return table
        return pa.Table.from_pandas(one_a_trial(table.to_pandas()), table.schema, preserve_index=False)

    def pruned(self) -> pd.DataFrame:
        """Return the rows of trials that a search pruned, a row each time; who does not ask finds them unfinished."""
        frame = self.attempts()
        return frame[frame["status"] == PRUNED].reset_index(drop=True)

    def attempts(self, columns: Collection[str] | None = None) -> pd.DataFrame:
        """Return the rows of every attempt, superseded ones included."""
        return self._frame("trials", columns)

    def examined(self, columns: Collection[str]) -> tuple[pd.DataFrame, dict[Path, str]]:
        """Return what `attempts` does, and which files of rows are damaged, and why: all columns are looked at."""
        table, damaged = self._read("trials")
        wanted = _wanted(columns)
        table = table.select([name for name in table.column_names if name in wanted])
        return completed(wanted, table).to_pandas(), damaged

    def images(self) -> pd.DataFrame:
        """Return a row a generated picture, of the attempts that `rows` returns."""
        return self._current(self._frame("images"))

    def curves(self) -> pd.DataFrame:
        """Return a row a recorded training step, of the attempts that `rows` returns."""
        return self._current(self._frame("curves"))

    def compact(self, tables: Iterable[str] = tuple(TABLES), least: int = 2) -> int:
        """Merge the files of each table into one; return how many files were merged.

        The merged file is synced before anything is deleted, and readers take each attempt once, so a kill in between
        loses and doubles nothing, and neither does another process that merges the same. Damaged files stay as they
        are, with a warning.

        Parameters
        ----------
        tables : iterable of {"trials", "images", "curves"}
        least : int
            Leave a table alone that has fewer files.
        """
        merged = 0
        for kind in tables:
            files = files_of(self.folder / kind)
            if len(files) < least:
                continue
            damaged: dict[Path, str] = {}
            try:
                table = read_tables(files, TABLES[kind], damaged)
            except FileNotFoundError:
                continue  # another process merges them
            _warn(damaged)
            files = [file for file in files if file not in damaged]
            if len(files) < 2:
                continue
            # A name of its own each time: a merge must never replace the file that it reads.
            write_table(self.folder / kind / f"merged-{uuid.uuid4().hex}.parquet", table)
            self._compacted.touch()
            for file in files:
                file.unlink(missing_ok=True)
            merged += len(files)
        return merged

    def look_anew(self) -> None:
        """Make a network file system ask its server which rows there are."""
        look_anew(self.folder)
        look_anew(self.folder / "trials")

    def gc(self, also: Collection[str] = ()) -> list[str]:
        """Delete what no row owns: packs, claims, temporary files, tables and folders of killed runs; return the paths.

        Not to be called while a study runs on this store: a trial about to be committed has no row yet. Packs that were
        given to SLURM stay, as they may still wait there; the driver, or `cancel`, deletes them. So do checkpoints of
        trials without a row, which go on from there.

        Parameters
        ----------
        also : collection of {"adapters", "pictures", "checkpoints"}
            Folders to empty, whatever owns what is there.

        Raises
        ------
        InputFault
            If rows are damaged: it is not known then what they own.
        """
        table, damaged = self._read("trials")
        if damaged:
            raise InputFault(
                f"{', '.join(map(str, damaged))}: damaged, so it is not known what belongs to the rows in it; "
                "`adapter-study run` sets it aside and runs their trials again; use gc after that"
            )
        rows = completed(ROW, table).to_pandas()
        owned = set(zip(rows["id"], rows["attempt"], strict=True))
        ids = set(rows["id"])
        parts = [path for path in self.folder.rglob(f"*{TEMPORARY}") if os.path.lexists(path)]
        doomed = [path for path in parts if not give_back(self.folder, path)]
        for kind in ("images", "curves"):
            for file in files_of(self.folder / kind):
                id, _, attempt = file.stem.partition(".")
                if is_number(attempt) and (id, int(attempt)) not in owned:
                    doomed.append(file)
        for kind in ("pictures", "adapters"):
            parent = self.folder / kind
            doomed += [path for path in parent.iterdir() if path.name not in ids] if parent.is_dir() else []
        waiting = {file.with_suffix("") for file in self.packs.glob("*.json") if given_to_slurm(file)}
        doomed += sorted(file for file in self.packs.glob("*.j*") if file.with_suffix("") not in waiting)
        doomed += sorted(self.claims.glob("*.json"))
        doomed += self.checkpoints.orphans(owned)
        doomed += [path for kind in also for path in sorted((self.folder / kind).glob("*"))]
        doomed += set_aside_before(self)
        deleted = []
        for path in dict.fromkeys(doomed):
            remove(path)
            deleted.append(str(path.relative_to(self.folder)))
        return deleted

    def _frame(self, kind: str, only: Collection[str] | None = None) -> pd.DataFrame:
        return self._completed(kind, only).to_pandas()

    def _completed(self, kind: str, only: Collection[str] | None = None) -> pa.Table:
        table, damaged = self._read(kind, only)
        _warn(damaged)
        return completed(TABLES[kind] if only is None else _wanted(only), table)

    def _read(self, kind: str, only: Collection[str] | None = None) -> tuple[pa.Table, dict[Path, str]]:
        """Return the rows of a table, and why some of its files cannot be read."""
        for _ in range(5):
            damaged: dict[Path, str] = {}
            files = files_of(self.folder / kind)
            try:
                table = read_tables(files, TABLES[kind], damaged, None if only is None else _wanted(only))
            except FileNotFoundError:
                continue  # compacted or set aside by another process since it was listed: look again
            return table, damaged
        raise InputFault(f"{self.folder / kind} changes faster than it can be read; try again")

    def _current(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.merge(self.rows()[["id", "attempt"]], on=["id", "attempt"])


@dataclass
class Known:
    """What a run has to know of the rows there are: one status and the number of attempts of each trial."""

    status: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: pd.DataFrame) -> Known:
        """Take it from the attempts that a store has."""
        rows = one_a_trial(attempts)
        last = attempts.groupby("id")["attempt"].max()
        return cls(
            dict(zip(rows["id"].tolist(), rows["status"].tolist(), strict=True)),
            dict(zip(last.index.tolist(), last.tolist(), strict=True)),
        )


def _wanted(columns: Collection[str]) -> dict[str, str]:
    """Return some columns of rows, and those that decide which attempt counts, with their types."""
    return {name: ROW[name] for name in dict.fromkeys([*KEYS, *columns])}


def _warn(damaged: Mapping[Path, str]) -> None:
    for file, reason in damaged.items():
        _warn_once(left_out(file, reason))


@cache
def _warn_once(told: str) -> None:
    warnings.warn(told, stacklevel=5)


def one_a_trial(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return the attempts that count, one a trial: the final one first, then the lowest; none of pruned trials."""
    attempts = attempts[attempts["status"] != PRUNED]
    if attempts["id"].is_unique:
        return attempts.reset_index(drop=True)
    order = attempts[["id", "attempt"]].assign(late=~attempts["status"].isin(FINAL))
    order = order.sort_values(["late", "attempt"], kind="stable").drop_duplicates("id")
    return attempts.loc[order.index.sort_values()].reset_index(drop=True)
