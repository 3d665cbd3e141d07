"""Which weights and pictures of trials stay in the store; their rows always do. It is no part of an identity."""

from __future__ import annotations

import shutil
from bisect import insort
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from study.columns import higher_is_better
from study.space import REFERENCE

if TYPE_CHECKING:
    import pandas as pd

    from study.store import Store
    from study.trial import Trial

Word = Literal["all", "best", "none"]

ADAPTERS = 1
"""Trials whose weights `best` keeps, of each backbone and task."""

PICTURES = 3
"""Trials whose pictures `best` keeps, of each backbone, task and seed: the report shows those of one seed."""


class Keep(BaseModel):
    """The section `keep`; a word alone is said of the weights.

    Attributes
    ----------
    adapters, pictures : {"all", "best", "none"}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapters: Word = "none"
    pictures: Word = "all"

    @model_validator(mode="before")
    @classmethod
    def _word(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"adapters": data}


class Keeping:
    """Deletes what `best` does not keep, as results come in.

    The best are those by the primary score; of equals the lowest id stays. What no score was found for stays, and so
    do pictures of the untuned backbone, which everything is compared with. Each driver knows the results it has heard
    of, so what it deletes is never the best of all; `settle` does the rest from the rows.

    Parameters
    ----------
    primary : str
        The score.
    adapters, pictures : {"all", "best", "none"}
        Only `best` deletes anything.
    """

    def __init__(self, store: Store, primary: str, adapters: str, pictures: str = "all") -> None:
        self._primary = primary
        self._boards = [_Board(store.folder / "adapters", ADAPTERS)] if adapters == "best" else []
        if pictures == "best":
            self._boards.append(_Board(store.folder / "pictures", PICTURES, by_seed=True))
        self._store = store
        self._trials: dict[str, Trial] = {}

    def expect(self, trials: Iterable[Trial]) -> None:
        """Take note of trials that are about to run."""
        if self._boards:
            self._trials |= {trial.id: trial for trial in trials if trial.design != REFERENCE and trial.role != "tune"}

    def hear(self, event: dict[str, Any]) -> None:
        """Take note of a worker's event."""
        trial = self._trials.get(event["trial"]) if event["event"] == "result" else None
        if trial is not None and self._primary in event["scores"]:
            key = trial.backbone_hash, trial.task_hash, trial.seed
            self._enter(key, float(event["scores"][self._primary]), event["trial"])

    def settle(self, study: str | None = None) -> None:
        """Delete what is left of what `best` does not keep, of the rows of one study or of all."""
        if not self._boards:
            return
        from study.canonical import canonical_json

        rows = self._store.rows()
        untuned = (rows["role"] == "tune") | (rows["design_json"] == canonical_json(REFERENCE))
        rows = rows[~untuned & rows[self._primary].notna()]
        own: pd.DataFrame = rows if study is None else rows[rows["study"] == study]
        for id, backbone, task, seed, score in zip(
            *(own[name] for name in ("id", "backbone_hash", "task_hash", "seed", self._primary)), strict=True
        ):
            self._enter((backbone, task, seed), float(score), id)

    def _enter(self, key: tuple[Hashable, ...], score: float, id: str) -> None:
        for board in self._boards:
            board.enter(key, -score if higher_is_better(self._primary) else score, id)


class _Board:
    """The best of each group, and the folder in which what the others have left is deleted."""

    def __init__(self, folder: Path, size: int, by_seed: bool = False) -> None:
        self._folder, self._size, self._by_seed = folder, size, by_seed
        self._best: dict[tuple[Hashable, ...], list[tuple[float, str]]] = {}

    def enter(self, key: tuple[Hashable, ...], rank: float, id: str) -> None:
        """Take note of a trial; the lowest ranks are the best."""
        if not (self._folder / id).is_dir():
            return
        best = self._best.setdefault(key if self._by_seed else key[:-1], [])
        if (rank, id) not in best:
            insort(best, (rank, id))
        for _, worse in best[self._size :]:
            shutil.rmtree(self._folder / worse, ignore_errors=True)
        del best[self._size :]
