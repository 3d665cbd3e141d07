"""Contrasts and trends of means against statsmodels, least squares, and t tests of what each task says."""

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from analysis.compare import contrasts
from analysis.multiplicity import holm
from analysis.trend_contrasts import polynomials, trend
from tests.analysis.compared import FACTORS, FAILED, _crossed_tasks

# Contrasts


def test_contrasts_against_the_residual_equal_t_tests_of_statsmodels():
    """Against I0: the mean of two levels, and a difference of two; unbalanced rows, blocks and another factor."""
    fit = smf.ols("score ~ C(task) + C(in_pos) + C(out_pos) + C(form)", FAILED.dropna(subset="score")).fit()
    asked = {"mean of I1, I2 − I0": {"I1": 0.5, "I2": 0.5, "I0": -1}, "I3 − I4": {"I3": 1, "I4": -1}}
    ours = contrasts(FAILED, "score", "in_pos", asked, FACTORS, ["task"], error="residual").to_frame()
    tests = ["0.5 * C(in_pos)[T.I1] + 0.5 * C(in_pos)[T.I2] = 0", "C(in_pos)[T.I3] - C(in_pos)[T.I4] = 0"]
    for k, text in enumerate(tests):
        known = fit.t_test(text)
        assert ours.loc[k, ["estimate", "se", "t", "p"]].tolist() == pytest.approx(
            [float(v.item()) for v in (known.effect, known.sd, known.tvalue, known.pvalue)], rel=1e-8
        )
    assert ours["df"].tolist() == [fit.df_resid] * 2
    assert ours["p_adjusted"].tolist() == pytest.approx(holm(ours["p"].to_numpy()).tolist())


def test_a_contrast_on_its_own_variation_over_tasks_is_a_t_test_of_its_values():
    frame = _crossed_tasks(np.random.default_rng(9), list("abc"), tasks=6)
    asked = {"a − b": {"a": 1, "b": -1}, "c − others": {"c": 1, "a": -0.5, "b": -0.5}}
    found = contrasts(frame, "y", "level", asked, ["level"], ["task", "task:seed"], adjust="none")
    means = frame.groupby(["task", "level"])["y"].mean().unstack()
    values = [means["a"] - means["b"], means["c"] - (means["a"] + means["b"]) / 2]
    for row, value in zip(found.to_frame().to_dict("records"), values, strict=True):
        known = stats.ttest_1samp(value, 0)
        interval = known.confidence_interval(0.95)
        assert [row[c] for c in ("estimate", "t", "p", "p_adjusted", "df", "lower", "upper")] == pytest.approx(
            [value.mean(), known.statistic, known.pvalue, known.pvalue, 5, interval.low, interval.high], rel=1e-9
        )
    assert not found.approximate and "own variation from task to task" in found.explain()
    pooled = contrasts(frame, "y", "level", asked, ["level"], ["task", "task:seed"], adjust="none", pooled=True)
    assert pooled.error == "level:task" and pooled.to_frame()["df"].tolist() == [10, 10]
    assert pooled.to_frame()["estimate"].tolist() == pytest.approx([v.mean() for v in values])


def test_a_contrast_uses_the_tasks_in_which_it_can_be_estimated():
    frame = _crossed_tasks(np.random.default_rng(10), list("abc"), tasks=5)
    frame.loc[(frame["task"] == 2) & (frame["level"] == "b"), "y"] = np.nan
    asked = {"a − b": {"a": 1, "b": -1}, "a − c": {"a": 1, "c": -1}}
    found = contrasts(frame, "y", "level", asked, ["level"], ["task"], adjust="none")
    assert found.to_frame()["df"].tolist() == [3, 4] and found.approximate
    means = frame.groupby(["task", "level"])["y"].mean().unstack()
    assert found.to_frame().loc[0, "estimate"] == pytest.approx((means["a"] - means["b"]).mean())


def test_combinations_are_named_by_tuples():
    found = contrasts(
        oracles.data("warpbreaks_balanced"), "breaks", ["wool", "tension"],
        {"wool at L": {("A", "L"): 1, ("B", "L"): -1}}, ["wool", "tension"], error="residual",
    )  # fmt: skip
    known = {
        (r["wool"], r["tension"]): r["emmean"] for r in oracles.expected("warpbreaks_balanced")["emm_wool_tension"]
    }
    assert found.to_frame().loc[0, "estimate"] == pytest.approx(known["A", "L"] - known["B", "L"], rel=1e-10)


# Trends


def test_polynomials_give_leading_coefficients_of_least_squares():
    x, y = np.array([1.0, 2, 4, 16, 64]), np.array([3.0, 1, 4, 1, 5])
    for degree, row in enumerate(polynomials(x), start=1):
        assert row @ y == pytest.approx(np.polyfit(x, y, degree)[0], rel=1e-8)


def test_the_slope_is_the_change_for_each_doubling_unit_or_step():
    rank = np.repeat([4, 8, 16, 64], 5)
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"rank": rank, "y": 2 + 0.3 * np.log2(rank) + rng.normal(0, 0.01, len(rank))})
    means = frame.groupby("rank")["y"].mean()
    for scale, x in (("log2", np.log2(means.index)), ("linear", means.index), ("rank", range(4))):
        found = trend(frame, "y", "rank", ["rank"], scale=scale).to_frame().set_index("contrast")
        assert found.loc["linear", "estimate"] == pytest.approx(np.polyfit(x, means, 1)[0], rel=1e-9)
        assert found.loc["quadratic", "estimate"] == pytest.approx(np.polyfit(x, means, 2)[0], rel=1e-7)
    known = smf.ols("y ~ C(rank)", frame).fit()  # one-way: the contrast's t by hand
    weights = polynomials(np.log2(means.index.to_numpy()))[0]
    found = trend(frame, "y", "rank", ["rank"]).to_frame().loc[0]
    assert found["se"] == pytest.approx(np.sqrt(known.mse_resid * np.square(weights).sum() / 5), rel=1e-9)
    assert found["df"] == 16


def test_departure_from_the_trend_equals_a_comparison_of_models():
    """Unbalanced, with tasks: the model with the polynomial against the one with a mean for each level."""
    rng = np.random.default_rng(12)
    frame = _crossed_tasks(rng, [1, 2, 4, 8, 16], by_task=0.0, missing=0.2)
    frame["y"] += 0.2 * np.log2(frame["level"]) ** 2
    rows = frame.dropna().assign(x=lambda d: np.log2(d["level"]))
    whole = smf.ols("y ~ C(task) + C(level)", rows).fit()
    for degree, formula in ((1, "x"), (2, "x + I(x**2)")):
        found = trend(frame, "y", "level", ["level"], ["task"], error="residual", degree=degree)
        f, p, df = whole.compare_f_test(smf.ols(f"y ~ C(task) + {formula}", rows).fit())
        assert found.departure == pytest.approx({"F": f, "df1": df, "df2": whole.df_resid, "p": p}, rel=1e-8)
    assert trend(frame, "y", "level", ["level"], ["task"], error="residual", degree=4).departure is None


def test_a_trend_over_tasks_is_a_t_test_of_the_tasks_slopes():
    frame = _crossed_tasks(np.random.default_rng(13), [1, 2, 4, 8], tasks=6)
    found = trend(frame, "y", "level", ["level"], ["task", "task:seed"], degree=1)
    means = frame.groupby(["task", "level"])["y"].mean().unstack()
    slopes = [np.polyfit(np.log2(means.columns), row, 1)[0] for row in means.to_numpy()]
    known = stats.ttest_1samp(slopes, 0)
    assert found.to_frame().loc[0, ["estimate", "t", "p", "df"]].tolist() == pytest.approx(
        [np.mean(slopes), known.statistic, known.pvalue, 5], rel=1e-9
    )
    assert found.departure is None and "What the trend leaves is not tested" in found.explain()
