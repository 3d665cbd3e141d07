"""Data as they come: what cannot be analysed is said in one message or note, and nothing else is printed."""

import numpy as np
import pandas as pd
import pytest

from adapters.faults import InputFault
from analysis import anova


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    cells = [(a, b, f"t{t}", s) for a in "xyz" for b in "uv" for t in range(3) for s in range(2)]
    return pd.DataFrame(cells, columns=["a", "b", "task", "seed"]).assign(y=rng.normal(size=len(cells)))


def test_missing_responses_are_counted_and_left_out(frame):
    frame.loc[[0, 5], "y"] = np.nan
    table = anova(frame, "y", ["a"], ["task"])
    assert (table.n, table.n_missing) == (34, 2) and "2 rows without a y" in table.explain()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_are_refused(frame, value):
    frame.loc[3, "y"] = value
    with pytest.raises(InputFault, match="infinite in 1 rows"):
        anova(frame, "y", ["a"])


def test_text_is_refused(frame):
    with pytest.raises(InputFault, match="holds text"):
        anova(frame, "b", ["a"])


@pytest.mark.parametrize("error", ["residual", "task"])
def test_one_level_is_said(frame, error):
    table = anova(frame.assign(one="only"), "y", ["a", "one"], ["task"], error=error)
    assert (table["one"].df, table["one"].F, table["one"].p) == (0, None, None)
    assert any("one has the single level 'only'" in note for note in table.notes)


@pytest.mark.parametrize("error", ["residual", "task"])
def test_a_constant_response_gives_no_f(frame, error):
    table = anova(frame.assign(y=0.1), "y", ["a", "b"], ["task"], error=error)
    assert all(row.F is None and row.p is None for row in table.terms)


def test_as_many_rows_as_parameters_leave_nothing_to_test_with(frame):
    few = frame[(frame["task"] == "t0") & (frame["seed"] == 0)]
    table = anova(few, "y", ["a", "b"], interactions="all")
    assert table.residual["df"] == 0 and all(row.p is None for row in table.terms)
    with pytest.raises(InputFault, match="fewer than the model's"):
        anova(few.iloc[[0, 3, 4]], "y", ["a", "b"])


def test_rows_entered_twice_are_said(frame):
    table = anova(pd.concat([frame, frame.head(4)]), "y", ["a"], ["task"])
    assert any("4 rows are copies of others in every column" in note for note in table.notes)
    assert not any("copies" in note for note in anova(frame, "y", ["a"], ["task"]).notes)
    # Equal scores of different trials are no copies.
    assert not any("copies" in note for note in anova(frame.assign(y=frame["y"].round()), "y", ["a"]).notes)


def test_a_factor_inside_a_block_is_refused_and_one_that_equals_it_has_no_df(frame):
    with pytest.raises(InputFault, match="is a factor already"):
        anova(frame, "y", ["a"], ["task", "task:a"])
    row = anova(frame.assign(same=frame["task"]), "y", ["a", "same"], ["task"], error="residual")["same"]
    assert (row.df, row.df_nominal, row.p) == (0, 2, None)


def test_ten_thousand_levels():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"a": rng.integers(0, 10_000, 30_000), "task": rng.integers(0, 4, 30_000)})
    frame["y"] = rng.normal(size=30_000)
    for error in ("residual", "task"):
        row = anova(frame, "y", ["a"], ["task"], error=error)["a"]
        assert row.df == frame["a"].nunique() - 1 and row.p is not None and row.p > 1e-4
    frame["c"] = rng.integers(0, 10_000, 30_000)
    with pytest.raises(InputFault, match="The model is too large"):
        anova(frame, "y", ["a", "c"])


def test_a_level_may_be_called_na(frame):
    named = frame.assign(a=frame["a"].replace({"x": "NA"}))
    one, two = anova(named, "y", ["a"], ["task"])["a"], anova(frame, "y", ["a"], ["task"])["a"]
    assert (one.df, one.F) == (two.df, pytest.approx(two.F, rel=1e-12))
    frame.loc[0, "a"] = None
    with pytest.raises(InputFault, match="Name such a level"):
        anova(frame, "y", ["a"])
