"""Assumption checks against R, scipy, statsmodels, and data whose faults were put there."""

import json
from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from matplotlib.figure import Figure
from scipy import stats

from adapters.faults import InputFault
from analysis.checks import check

ONEWAY = [("insectsprays_oneway", "count", "spray"), ("unbalanced_hetero_oneway", "y", "g"),
          ("plantgrowth_oneway", "weight", "group")]  # fmt: skip


def _study(rng, tasks=6, seeds=2):
    frame = pd.DataFrame(list(product("pqr", "mn", range(tasks), range(seeds))), columns=["a", "b", "task", "seed"])
    return frame.assign(y=rng.normal(size=len(frame)) + 3 * frame["task"])


@pytest.mark.parametrize(("name", "response", "factor"), ONEWAY)
def test_spread_and_normality_of_one_way_layouts_equal_r(name, response, factor):
    """car::leveneTest (median) and shapiro.test of the residuals."""
    known = oracles.expected(name)
    found = check(oracles.data(name), response, [factor])
    (spread,) = found.spread
    theirs = known["levene_median"]
    assert [spread.F, spread.df, spread.df_error, spread.p] == pytest.approx(
        [theirs[0]["F value"], theirs[0]["Df"], theirs[1]["Df"], theirs[0]["Pr(>F)"]], rel=1e-8
    )
    assert [found.normality.statistic, found.normality.p] == pytest.approx(known["shapiro_resid"], rel=1e-5)
    assert found.normality.test == "Shapiro-Wilk"


@pytest.mark.parametrize(
    ("name", "response", "factors"),
    [("warpbreaks_balanced", "breaks", ["wool", "tension"]),
     ("moore_unbalanced", "conformity", ["fcategory", "partner_status"])],
)  # fmt: skip
def test_spread_over_cells_of_two_factors_equals_r(name, response, factors):
    theirs = oracles.expected(name)["levene_median"]
    found = check(oracles.data(name), response, factors, [], "all").spread[0]
    assert found.over == ":".join(factors)
    assert [found.F, found.df_error, found.p] == pytest.approx(
        [theirs[0]["F value"], theirs[1]["Df"], theirs[0]["Pr(>F)"]], rel=1e-8
    )


def test_blocks_effects_and_interactions_do_not_pass_for_spread():
    """Whatever is added to tasks and to cells of the factors, the test stays the same."""
    frame = _study(np.random.default_rng(0))
    moved = frame.assign(
        y=frame["y"]
        + 100 * frame["task"] ** 2
        + 50 * (frame["a"] == "q") * (frame["b"] == "n")
        - 7 * (frame["a"] == "r")
    )
    one, two = (check(d, "y", ["a", "b"], ["task"]) for d in (frame, moved))
    assert [s.over for s in one.spread] == ["a:b", "a", "b"]
    for before, after in zip(one.spread, two.spread, strict=True):
        assert [after.F, after.p] == pytest.approx([before.F, before.p], rel=1e-8)


def test_a_level_that_varies_more_is_named_and_what_it_means_is_said():
    rng = np.random.default_rng(1)
    frame = _study(rng, tasks=8)
    frame["y"] += (frame["a"] == "r") * rng.normal(0, 5, len(frame))
    found = check(frame, "y", ["a", "b"], ["task"])
    spread = {s.over: s for s in found.spread}
    assert spread["a"].p < 1e-4 and spread["a"].largest[0] == "r" and not spread["a"].sizes_differ
    assert spread["b"].p > 0.05
    words = found.explain()
    assert "The spread differs over a (Brown-Forsythe" in words and "at r): cells are of like size" in words
    assert "read HC3" in words
    fewer = frame.drop(frame[(frame["a"] == "r") & (frame["task"] > 2)].index)
    assert "cells are of unequal size" in check(fewer, "y", ["a", "b"], ["task"]).explain()


def test_cells_too_small_for_a_spread_are_left_out_and_counted():
    frame = pd.DataFrame({"a": list("ppppqqqqrr"), "y": [1, 2, 4, 1.5, 3, 8, 1, 5, 2, 9.0]})
    (found,) = check(frame, "y", ["a"]).spread
    assert (found.cells, found.too_small, found.df) == (3, 1, 1)
    rest = [group["y"] for _, group in frame[frame["a"] != "r"].groupby("a")]
    assert [found.F, found.p] == pytest.approx(stats.levene(*rest, center="median"), rel=1e-9)
    none = check(frame[frame["a"].isin(["r"]) | (frame.index % 4 < 2)], "y", ["a"])
    assert none.spread[0].F is None and none.spread[0].p is None
    assert "cannot be tested: 3 of 3 cells have fewer than 3 rows" in none.explain()
    assert "finds only large differences" in check(frame, "y", ["a"]).explain()


def test_the_brown_forsythe_test_keeps_its_level_after_blocks_are_taken_out():
    """Equal spread, 200 studies: over the levels of a the test finds a difference in about .05 of them."""
    rng = np.random.default_rng(2)
    hits = [check(_study(rng), "y", ["a", "b"], ["task"]).spread[1].p < 0.05 for _ in range(200)]
    assert np.mean(hits) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_the_outlier_is_the_row_that_was_spoilt_and_its_numbers_are_statsmodels():
    frame = _study(np.random.default_rng(3))
    frame.index = [f"trial{k}" for k in range(len(frame))]
    frame.loc["trial5", "y"] = np.nan
    frame.loc["trial40", "y"] += 8
    found = check(frame, "y", ["a", "b"], ["task"])
    assert found.outlier.row == "trial40" and found.n_missing == 1
    row = frame.loc["trial40"]
    assert f"a={row['a']}" in found.outlier.levels and f"task={row['task']}" in found.outlier.levels
    fit = smf.ols("y ~ C(task) + a + b", frame).fit()
    theirs = fit.outlier_test()
    assert found.outlier.studentised == pytest.approx(theirs.loc["trial40", "student_resid"], rel=1e-8)
    assert found.outlier.p == pytest.approx(theirs.loc["trial40", "bonf(p)"], rel=1e-6)
    assert found.studentised == pytest.approx(theirs["student_resid"].to_numpy(), rel=1e-7)
    assert found.outlier.residual == pytest.approx(fit.resid["trial40"], rel=1e-9)
    assert "An outlier of y in row trial40" in found.explain()


def test_a_row_that_decides_a_parameter_alone_is_no_outlier():
    frame = pd.DataFrame({"a": list("pppqqqr"), "y": [1, 2, 3.5, 4, 5, 7, 1000.0]})
    found = check(frame, "y", ["a"])
    assert np.isnan(found.studentised[-1]) and found.outlier.row != "6"
    assert "1 of 7 rows each decide a parameter alone" in found.explain()


def test_many_rows_are_tested_by_dagostino_and_pearson():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"a": rng.choice(list("pqr"), 6000), "y": rng.exponential(size=6000)})
    found = check(frame, "y", ["a"]).normality
    residuals = frame["y"] - frame.groupby("a")["y"].transform("mean")
    assert found.test == "D'Agostino-Pearson"
    assert [found.statistic, found.p] == pytest.approx(stats.normaltest(residuals), rel=1e-6)
    assert found.skewness == pytest.approx(residuals.skew(), rel=1e-6)  # pandas: the same unbiased estimate
    assert found.excess_kurtosis == pytest.approx(residuals.kurt(), rel=1e-6)


def test_words_follow_the_size_of_the_departure_not_p_alone():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"a": np.repeat(list("pq"), 2000)})
    little = check(frame.assign(y=rng.gamma(40, size=4000)), "y", ["a"]).explain()
    much = check(frame.assign(y=rng.lognormal(0, 1, 4000)), "y", ["a"]).explain()
    assert "is not normal" in little and "but by little" in little
    assert "loses power to a few large residuals" in much and "permutation" in much


def test_a_model_without_residual_cannot_be_checked():
    frame = pd.DataFrame({"a": list("pq"), "y": [1.0, 2.0]})
    found = check(frame, "y", ["a"])
    assert found.normality.p is None and found.outlier is None and found.spread[0].F is None
    assert "nothing about it can be checked" in found.explain()
    assert isinstance(found.plot(), Figure)
    exact = check(frame.loc[[0, 0, 0, 0, 1, 1, 1, 1]].reset_index(drop=True), "y", ["a"])
    assert exact.spread[0].F is None and exact.normality.p is None


def test_empty_cells_and_failed_rows_are_no_obstacle():
    found = check(oracles.data("adapter_failed"), "score", ["in_pos", "out_pos", "form"], ["task"], "all")
    assert (found.n, found.n_missing, found.df) == (495, 45, 459)  # R: 459 residual degrees of freedom
    assert float(np.square(found.residuals).sum()) == pytest.approx(oracles.expected("adapter_failed")["sse"], rel=1e-9)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["spread"][0]["cells"] == 44
    assert len(found.to_frame()) == 4 + 1 + 1 and "Brown-Forsythe" in found.to_markdown()


def test_the_figure_shows_residuals_and_quantiles_and_names_the_outlier():
    figure = check(oracles.data("insectsprays_oneway"), "count", ["spray"]).plot()
    left, right = figure.axes
    assert left.get_xlabel() == "fitted count" and right.get_xlabel() == "normal quantile"
    assert {text.get_text() for text in left.texts} == {text.get_text() for text in right.texts} == {"row 68"}
    shown = right.lines[0].get_xydata()
    assert shown[np.argsort(shown[:, 1], kind="stable"), 0] == pytest.approx(np.sort(shown[:, 0]))


def test_a_wrong_column_is_said():
    with pytest.raises(InputFault, match="no column"):
        check(oracles.data("plantgrowth_oneway"), "weight", ["colour"])
