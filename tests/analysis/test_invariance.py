"""What must not change a table: names and order of levels, order of rows, shift and scale of the response."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.faults import InputFault
from analysis import anova, marginal_means

LEVELS = {"a": "pqrs", "b": "uvw", "c": "xy"}


@st.composite
def studies(draw: st.DrawFn) -> pd.DataFrame:
    """Rows of three factors, some cells forbidden, on a few tasks, some rows failed."""
    cells = list(product(*LEVELS.values()))
    keep = draw(st.lists(st.booleans(), min_size=len(cells), max_size=len(cells)))
    valid = [cell for cell, there in zip(cells, keep, strict=True) if there] or cells
    tasks, seeds = draw(st.integers(2, 4)), draw(st.integers(1, 2))
    rows = [(*cell, f"t{t}", s) for cell in valid for t in range(tasks) for s in range(seeds)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frame = pd.DataFrame(rows, columns=[*LEVELS, "task", "seed"])
    frame["y"] = rng.normal(size=len(frame)) + 3 * rng.normal(size=tasks)[frame["task"].str[1:].astype(int)]
    return frame[rng.random(len(frame)) > draw(st.sampled_from([0.0, 0.1]))].reset_index(drop=True)


def _table(frame: pd.DataFrame, error: str, response: str = "y"):
    try:
        return anova(frame, response, ["a", "b", "c"], ["task"], ["a:b"], error=error)
    except InputFault:  # too few rows are left
        return None


def _same(one, two, scale: float = 1.0) -> None:
    assert (one is None) == (two is None)
    if one is None:
        return
    for row in one.terms:
        other = two[row.term]
        assert (row.df, row.df_nominal, row.estimable, row.error.term) == (
            other.df, other.df_nominal, other.estimable, other.error.term,
        )  # fmt: skip
        assert other.sum_sq == pytest.approx(scale**2 * row.sum_sq, rel=1e-6, abs=1e-9 * scale**2)
        for name in ("F", "p", "p_conservative", "epsilon", "partial_eta_sq"):
            ours, theirs = getattr(row, name), getattr(other, name)
            assert (ours is None) == (theirs is None), name
            assert ours is None or theirs == pytest.approx(ours, rel=1e-5, abs=1e-9), name


ERRORS = pytest.mark.parametrize("error", ["residual", "task"])


@ERRORS
@settings(max_examples=25, deadline=None)
@given(frame=studies(), seed=st.integers(0, 1000))
def test_order_of_rows_and_names_of_levels_do_not_matter(error, frame, seed):
    rng = np.random.default_rng(seed)
    other = frame.sample(frac=1, random_state=seed)
    for column in ("a", "b", "c", "task"):
        levels = sorted(frame[column].unique())
        names = rng.permutation([f"level {k}" for k in range(len(levels))])
        other[column] = other[column].map(dict(zip(levels, names, strict=True)))
    _same(_table(frame, error), _table(other, error))


@ERRORS
@settings(max_examples=25, deadline=None)
@given(frame=studies(), shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_shift_and_scale_of_the_response_do_not_matter(error, frame, shift, scale):
    _same(_table(frame, error), _table(frame.assign(y=shift + scale * frame["y"]), error), scale)


@settings(max_examples=25, deadline=None)
@given(frame=studies(), shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_means_follow_the_response(frame, shift, scale):
    try:
        means = marginal_means(frame, "y", "a", ["a", "b", "c"], ["task"])
    except InputFault:
        return
    moved = marginal_means(frame.assign(y=shift + scale * frame["y"]), "y", "a", ["a", "b", "c"], ["task"])
    assert moved["mean"].to_numpy() == pytest.approx(shift + scale * means["mean"], nan_ok=True, rel=1e-6, abs=1e-6)
    assert moved["se"].to_numpy() == pytest.approx(scale * means["se"], nan_ok=True, rel=1e-5)
    assert (moved["estimable"] == means["estimable"]).all()


@settings(max_examples=25, deadline=None)
@given(frame=studies())
def test_an_effect_of_the_blocks_changes_nothing(frame):
    shifted = frame.assign(y=frame["y"] + frame["task"].map({f"t{k}": 10.0 * k * k for k in range(5)}))
    one, two = _table(frame, "task"), _table(shifted, "task")
    assert (one is None) == (two is None)
    for row in one.terms if one is not None else ():
        if row.role != "block" and row.F is not None:
            moved = two[row.term].F
            assert moved == pytest.approx(row.F, rel=1e-6, abs=1e-9)
