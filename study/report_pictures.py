"""The pictures of a report: those of some designs from best to worst, from the same noise, beside the real ones."""

from __future__ import annotations

import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from adapters.faults import InputFault
from study.columns import higher_is_better

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.content import Gallery
    from study.study import Study

PICTURES = 8
"""Pictures of a design in a gallery."""


def galleries(study: Study, frame: pd.DataFrame, untuned: pd.DataFrame, factors: list[str]) -> list[Gallery]:
    """Return for each task the pictures of some designs from best to worst, and of the untuned backbone.

    All of them are of one seed, the first that most designs have, so that they start from the same noise.
    """
    from analysis.figures import PictureRow
    from analysis.report.content import Gallery

    images, primary = study.store.images(), study.config.primary
    galleries = []
    for task in study.config.tasks:
        there = frame[(frame["task"] == task.name) & frame[primary].notna()]
        if there.empty:
            continue
        seed = there["seed"].value_counts(sort=False).sort_index().idxmax()
        ranked = there[there["seed"] == seed].sort_values(primary, ascending=not higher_is_better(primary))
        ranked = ranked.drop_duplicates(factors)
        chosen = ranked.iloc[_spread(len(ranked))]
        rows = [
            PictureRow(
                " ".join(str(row[name]) for name in factors), float(row[primary]), _pictures(study, images, row["id"])
            )
            for _, row in chosen.iterrows()
        ]
        for _, row in untuned[(untuned["task"] == task.name) & (untuned["seed"] == seed)].iterrows():
            rows.append(PictureRow("untuned backbone", float(row[primary]), _pictures(study, images, row["id"])))
        rows = [row for row in rows if len(row.pictures)]
        if rows:
            real = task.load_pictures(rows[0].pictures[0].shape[0], PICTURES)
            galleries.append(Gallery(task.name, list(real), rows))
    return galleries


def _spread(count: int) -> list[int]:
    """Return which of so many ranked designs to show: the first three, one in the middle, the last two."""
    return sorted({0, 1, 2, count // 2, count - 2, count - 1} & set(range(count)))


def _pictures(study: Study, images: pd.DataFrame, id: str) -> list[np.ndarray]:
    """Return the first pictures of a trial; none if one is damaged, as those after it would stand under other noise."""
    from study.tasks.pictures import read

    files = images[images["id"] == id].sort_values("index")["file"].head(PICTURES)
    pictures = []
    for path in (study.store.pictures(id) / PurePosixPath(file).name for file in files.dropna()):
        if not path.is_file() or path.is_symlink():
            continue
        try:
            pictures.append(np.asarray(read(path)))
        except InputFault as fault:
            told = f"{path.parent}: a picture is damaged ({fault}); the pictures of its trial are not shown"
            warnings.warn(told, stacklevel=2)
            return []
    return pictures
