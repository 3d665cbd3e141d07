"""How many things pictures show that should show one: `python -m tests.study.things_shown runs/resolution`.

For every trial of a store on the domain `photo` at a new size, by the pictures that it kept: the share that shows
several things, and how much less that is, and its KID, than the untuned backbone's. Trials of one task and seed draw
the same captions from the same noise and are compared with the same real pictures, so differences are paired.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import label

from study.builtin.segmenter import read_parts
from study.scoring import load_scorer
from study.store import Store
from study.tasks import resolve_task

LEAST = 0.01
"""Share of the picture that a region covers at least, to count."""

HALVES = 400


def things_shown(pictures: np.ndarray) -> np.ndarray:
    """Count the connected regions of things in pictures (N, H, W, 3) uint8, by the segmenter: (N,)."""
    labels, _ = read_parts(pictures)
    counts = []
    for shown in labels:
        pieces, _ = label(shown > 0, np.ones((3, 3)))
        counts.append(int((np.bincount(pieces.ravel())[1:] >= LEAST * shown.size).sum()))
    return np.array(counts)


def kid_gain(real: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """By how much KID falls from features `before` to `after`, (N, D) each, and its standard error.

    The error is that of the delete-half jackknife (Shao & Wu 1989) over rows of both and of the real ones.
    """
    draw = np.random.default_rng(0)
    own = [_kernel(features, features) for features in (before, after)]
    cross = [_kernel(features, real) for features in (before, after)]

    def gain(rows: np.ndarray, columns: np.ndarray) -> float:
        count = len(rows)
        within = [part[np.ix_(rows, rows)] for part in own]
        values = [
            (part.sum() - np.trace(part)) / (count * (count - 1)) - 2 * between[np.ix_(rows, columns)].mean()
            for part, between in zip(within, cross, strict=True)
        ]
        return float(values[0] - values[1])

    sizes = (len(before), len(real))
    halves = [gain(*(draw.permutation(size)[: size // 2] for size in sizes)) for _ in range(HALVES)]
    return gain(*map(np.arange, sizes)), float(np.std(halves, ddof=1))


def main(folder: str) -> None:
    """Print a table."""
    store, scorer = Store(Path(folder)), load_scorer("micro-clip")
    rows, images = store.rows(), store.images()
    table = []
    rows = rows[rows["task"].str.startswith("domain/photo@")]
    for (backbone, name, seed), trials in rows.groupby(["backbone", "task", "seed"]):
        size = int(name.partition("@")[2])
        drawings = resolve_task({"kind": "domain", "name": "photo", "size": size}, Path()).real.load(size)
        real = scorer.images(drawings).double().numpy()
        shown = {}
        for trial in trials.itertuples():
            kept = images[images["id"] == trial.id].sort_values("index")["file"].dropna()
            pictures = np.stack([np.asarray(Image.open(store.folder / file)) for file in kept])
            shown[trial.method] = (things_shown(pictures) > 1, scorer.images(pictures).double().numpy())
        table.append((backbone, name, seed, "(real drawings)", (things_shown(drawings) > 1).mean(), *[np.nan] * 4))
        untuned = shown["none"]
        for method, (several, features) in shown.items():
            fewer = untuned[0].astype(float) - several
            error = fewer.std(ddof=1) / np.sqrt(len(fewer))
            gain = kid_gain(real, untuned[1], features)
            table.append((backbone, name, seed, method, several.mean(), fewer.mean(), error, *gain))
    table.sort(key=lambda row: row[:4])
    columns = ["backbone", "task", "seed", "method", "several", "fewer", "error", "KID gain", "KID error"]
    print(pd.DataFrame(table, columns=columns).round(3).to_string(index=False))


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """KID's (1801.01401)."""
    return (left @ right.T / left.shape[1] + 1) ** 3


if __name__ == "__main__":
    main(sys.argv[1])
