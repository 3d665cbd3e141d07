"""What a report is made of: frames, arrays and strings; nothing that knows a store or a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.figures import PictureRow


@dataclass(frozen=True)
class Gallery:
    """Pictures of one task: the real ones, (H, W, 3) uint8, and those of some designs, best first."""

    task: str
    real: Sequence[np.ndarray] = field(repr=False)
    rows: Sequence[PictureRow]


@dataclass(frozen=True)
class Tuning:
    """How settings of the training were tuned before the trials of the report ran.

    Attributes
    ----------
    frame : DataFrame
        One row a group and grid point: the columns of ``groups`` and ``grid`` (missing where a group does not try the
        key), the mean in the report's response (missing where a trial has none), the numbers of trials ``planned``,
        ``done`` and ``diverged``, and the truth of ``chosen`` and ``at_edge``.
    groups, grid : tuple of str
        Columns that name the group, and those that name the grid point.
    tasks : sequence of str
        What it was tuned on.
    """

    frame: pd.DataFrame = field(repr=False)
    groups: tuple[str, ...]
    grid: tuple[str, ...]
    tasks: Sequence[str] = ()


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows.

    Attributes
    ----------
    title : str
    frame : DataFrame
        One row a trial: response, factors, blocks, other scores, and where known ``task``, ``seed``, ``parameters``,
        ``train_seconds``. Trials without a result have no response.
    response : str
        The score the report is about.
    factors, blocks : sequence of str
        As :func:`analysis.anova` takes them, the two of ``pair`` included.
    pair : (str, str) or None
        Two of the factors whose valid combinations are the designs compared; None: the first factor is.
    scores : sequence of str
        Columns to list beside the response.
    higher_is_better : bool
        Whether a larger response is a better one.
    order : sequence of str
        Order of the pair's levels in tables and figures.
    references : DataFrame or None
        Rows to compare with: ``name`` (such as "untuned backbone"), ``task``, and the score columns.
    galleries : sequence of Gallery
    failures : DataFrame or None
        One row a trial that failed or diverged, columns as they shall be printed.
    tuning : Tuning or None
    counts : mapping
        State → number of trials, ``planned`` among them.
    backbone : str
        What was tuned, in words, for the first paragraph.
    provenance : mapping
        Name → value: versions, hashes, commit, protocol, the command that repeats the study.
    """

    title: str
    frame: pd.DataFrame = field(repr=False)
    response: str
    factors: Sequence[str]
    blocks: Sequence[str] = ()
    pair: tuple[str, str] | None = None
    scores: Sequence[str] = ()
    higher_is_better: bool = True
    order: Sequence[str] = ()
    references: pd.DataFrame | None = field(default=None, repr=False)
    galleries: Sequence[Gallery] = ()
    failures: pd.DataFrame | None = field(default=None, repr=False)
    tuning: Tuning | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    backbone: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
