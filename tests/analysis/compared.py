"""Rows to compare: those that R has compared, some failed, and random ones of every level on every task and seed."""

import numpy as np
import oracles
import pandas as pd

FACTORS = ["in_pos", "out_pos", "form"]
FAILED = oracles.data("adapter_failed")


def _crossed_tasks(rng, levels, tasks=5, seeds=2, by_task=0.5, effects=None, missing=0.0):
    """Rows of every level on every task and seed; level effects vary by task with SD `by_task`, residual SD 1."""
    rows = pd.DataFrame(
        [(level, t, s) for level in levels for t in range(tasks) for s in range(seeds)],
        columns=["level", "task", "seed"],
    )
    own = dict(zip(levels, effects if effects is not None else np.zeros(len(levels)), strict=True))
    varied = {(level, t): rng.normal(0, by_task) for level in levels for t in range(tasks)}
    rows["y"] = [own[a] + varied[a, t] for a, t in zip(rows["level"], rows["task"], strict=True)]
    rows["y"] += rng.normal(size=len(rows)) + 3 * rows["task"]
    rows.loc[rng.random(len(rows)) < missing, "y"] = np.nan
    return rows
