"""Comparisons of means against R (emmeans, TukeyHSD, mvtnorm), other libraries, and simulations of known truth."""

import json

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis.compare import best, contrasts, pairwise
from analysis.multiplicity import LargestT, holm
from analysis.oneway import games_howell, welch
from analysis.trend_contrasts import trend
from tests.analysis.compared import FACTORS, FAILED, _crossed_tasks

ONEWAY = {
    "plantgrowth_oneway": ("weight", "group"),
    "insectsprays_oneway": ("count", "spray"),
    "unbalanced_hetero_oneway": ("y", "g"),
}
# R's own accuracy: TukeyHSD 1e-9; ptukey at the few degrees of freedom of Games-Howell 1e-6; qmvt 5e-3.
R_TUKEY, R_GAMES_HOWELL, R_QMVT = 1e-8, 1e-6, 5e-3


# Pairs


@pytest.mark.parametrize("name", ONEWAY)
def test_tukey_equals_r(name):
    y, g = ONEWAY[name]
    ours = pairwise(oracles.data(name), y, g, [g]).to_frame().set_index(["second", "first"])
    known = oracles.expected(name)["tukey"]
    assert len(ours) == len(known)
    for row in known:
        own = ours.loc[tuple(row["term"].split("-"))]  # R takes the later level less the earlier
        assert [-own["estimate"], -own["upper"], -own["lower"], own["p_adjusted"]] == pytest.approx(
            [row["diff"], row["lwr"], row["upr"], row["p adj"]], abs=R_TUKEY
        )


@pytest.mark.parametrize("adjust", ["tukey", "holm"])
@pytest.mark.parametrize(
    ("name", "block", "response", "of", "factors", "blocks", "interactions"),
    [
        ("adapter_failed", "additive", "score", "in_pos", FACTORS, ["task"], "none"),
        ("adapter_failed", "additive", "score", "form", FACTORS, ["task"], "none"),
        ("warpbreaks_balanced", None, "breaks", "tension", ["wool", "tension"], [], "all"),
    ],
)
def test_pairs_equal_emmeans(name, block, response, of, factors, blocks, interactions, adjust):
    known = oracles.expected(name)
    known = (known[block] if block else known)[f"emm_{of}"][adjust]
    ours = pairwise(oracles.data(name), response, of, factors, blocks, interactions, "residual", adjust).to_frame()
    ours = ours.set_index(["first", "second"])
    assert len(ours) == len(known)
    for row in known:
        a, b = row["contrast"].split(" - ")
        own, sign = (ours.loc[(a, b)], 1) if (a, b) in ours.index else (ours.loc[(b, a)], -1)
        assert [sign * own["estimate"], own["se"], own["df"], sign * own["t"]] == pytest.approx(
            [row[c] for c in ("estimate", "SE", "df", "t.ratio")], rel=1e-9
        )
        assert own["p_adjusted"] == pytest.approx(row["p.value"], rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", ONEWAY)
def test_holm_over_pairs_equals_pairwise_t_test_of_r(name):
    y, g = ONEWAY[name]
    ours = pairwise(oracles.data(name), y, g, [g], adjust="holm").to_frame().set_index(["second", "first"])
    known = [row for row in oracles.expected(name)["pairwise_t_holm"] if row["Freq"] != "NA"]
    assert len(ours) == len(known)
    for row in known:
        assert ours.loc[(row["Var1"], row["Var2"]), "p_adjusted"] == pytest.approx(row["Freq"], rel=1e-6, abs=1e-15)


def test_holm_equals_p_adjust_and_leaves_what_is_missing_out():
    known = oracles.expected("p_adjust")
    p, expected = (np.array([np.nan if v == "NA" else v for v in known[key]]) for key in ("p", "holm"))
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_pairs_on_the_interaction_with_a_block_equal_the_mixed_model_s():
    known = oracles.expected("machines_mixed")["with_interaction"]["pairs"]
    found = pairwise(oracles.data("machines_mixed"), "score", "Machine", ["Machine"], ["Worker"], error="Worker")
    assert (found.error, found.approximate) == ("Machine:Worker", False)
    ours = found.to_frame().set_index("contrast")
    for row in known:
        own = ours.loc[row["contrast"].replace(" - ", " − ")]
        # lmer's own fit is converged to 1e-9 of its variances
        assert own[["estimate", "se", "df", "t", "p_adjusted"]].tolist() == pytest.approx(
            [row[c] for c in ("estimate", "SE", "df", "t.ratio", "p.value")], rel=1e-6
        )


def test_pairs_that_emmeans_cannot_estimate_have_no_numbers_and_it_is_said():
    """With interactions and empty cells emmeans gives a mean to I0 alone (emm_in_pos_interaction_model)."""
    found = pairwise(FAILED, "score", "in_pos", FACTORS, ["task"], "all", "residual")
    rows = found.to_frame()
    assert not rows["estimable"].any()
    assert rows[["estimate", "se", "df", "t", "p", "p_adjusted", "lower", "upper"]].isna().all(axis=None)
    assert "I1, I2, I3, I4: no mean over all levels" in found.explain()
    assert "None of the 10 differences" in found.explain()
    assert all(row["p"] is None for row in json.loads(found.to_json())["contrasts"])


def test_levels_are_compared_within_components_and_combinations_always():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(i, o, t) for i, o in PAIRS for t in "abcd"], columns=["input", "output", "task"])
    frame["y"] = rng.normal(size=len(frame))
    rows = pairwise(frame, "y", "input", ["input", "output"], ["task"]).to_frame()
    part = {level: "r" if level.startswith("Res") else "c" if level == "CA_c" else "t" for level, _ in PAIRS}
    same = [part[a] == part[b] for a, b in zip(rows["first"], rows["second"], strict=True)]
    assert rows["estimable"].tolist() == same
    assert rows["p_adjusted"].notna().tolist() == same
    assert pairwise(frame, "y", ["input", "output"], ["input", "output"], ["task"]).to_frame()["estimable"].all()
    chosen = best(frame, "y", "input", ["input", "output"], ["task"])
    rows = chosen.to_frame().set_index("level")
    assert rows["component"].nunique() == 3
    assert {frozenset(g.index) for _, g in rows.groupby("component")} == {
        frozenset(k for k, v in part.items() if v == kind) for kind in "rct"
    }
    assert rows.loc["CA_c", "may_be_best"] is None and not rows.loc["CA_c", "estimable"]
    assert "3 components" in chosen.explain() and "CA_c cannot be compared" in chosen.explain()
    for kind in "rt":  # each component has a best of its own
        assert any(part[level] == kind for level in chosen.may_be_best)
    assert best(frame, "y", ["input", "output"], ["input", "output"], ["task"]).to_frame()["component"].nunique() == 1


def test_comparisons_with_a_reference_equal_scipy_s_dunnett():
    """SciPy integrates by randomised quasi-Monte Carlo: three digits."""
    frame = oracles.data("unbalanced_hetero_oneway")
    ours = pairwise(frame, "y", "g", ["g"], adjust="dunnett", reference="A").to_frame()
    groups = {level: part["y"].to_numpy() for level, part in frame.groupby("g")}
    known = stats.dunnett(
        *(groups[level] for level in ours["first"]), control=groups["A"], rng=np.random.default_rng(1)
    )
    interval = known.confidence_interval(0.95)
    assert ours["t"].tolist() == pytest.approx(known.statistic.tolist(), rel=1e-10)
    assert ours["p_adjusted"].tolist() == pytest.approx(known.pvalue.tolist(), abs=2e-4)
    assert ours["lower"].tolist() == pytest.approx(interval.low.tolist(), abs=3e-3)
    assert ours["upper"].tolist() == pytest.approx(interval.high.tolist(), abs=3e-3)


def test_tukey_s_critical_values_of_many_degrees_of_freedom_are_those_of_each():
    frame = _crossed_tasks(np.random.default_rng(2), [f"d{k}" for k in range(9)], missing=0.2)
    found = pairwise(frame, "y", "level", ["level"], ["task"])
    rows = found.to_frame()
    assert found.approximate and rows["df"].nunique() > 10
    for _, row in rows.iloc[::7].iterrows():
        multiple = stats.studentized_range.ppf(0.95, 9, row["df"]) / np.sqrt(2)
        assert (row["upper"] - row["estimate"]) / row["se"] == pytest.approx(multiple, rel=1e-7)
        p = stats.studentized_range.sf(abs(row["t"]) * np.sqrt(2), 9, row["df"])
        assert row["p_adjusted"] == pytest.approx(p, rel=1e-9)


# Unequal variances


@pytest.mark.parametrize("name", ONEWAY)
def test_games_howell_equals_r(name):
    y, g = ONEWAY[name]
    ours = games_howell(oracles.data(name), y, g).to_frame().set_index(["first", "second"])
    known = oracles.expected(name)["games_howell"]
    assert len(ours) == len(known)
    for row in known:
        own = ours.loc[(row["a"], row["b"])]
        assert [-own["estimate"], own["se"], own["df"], abs(own["t"]) * np.sqrt(2)] == pytest.approx(
            [row[c] for c in ("diff_b_minus_a", "se", "df", "q")], rel=1e-9
        )
        assert [own["p_adjusted"], -own["upper"], -own["lower"]] == pytest.approx(
            [row[c] for c in ("p", "ci_lo", "ci_hi")], rel=1e-5, abs=R_GAMES_HOWELL
        )


@pytest.mark.parametrize("name", ONEWAY)
def test_welch_equals_oneway_test_of_r(name):
    y, g = ONEWAY[name]
    found = welch(oracles.data(name), y, g)
    assert [found.F, found.df1, found.df2, found.p] == pytest.approx(oracles.expected(name)["welch"], rel=1e-8)
    assert "blocks, other factors and the error term are ignored" in found.explain()


def test_cells_of_one_row_have_no_variance():
    frame = pd.DataFrame({"g": list("aaabbbc"), "y": [1.0, 2, 4, 3, 5, 6, 9]})
    rows = games_howell(frame, "y", "g").to_frame().set_index("contrast")
    assert rows["p_adjusted"].notna().tolist() == [True, False, False]
    assert rows.loc["a − c", "estimate"] == pytest.approx(7 / 3 - 9)
    test = welch(frame, "y", "g")
    assert (test.F, test.p) == (None, None)
    assert "c have one row" in test.explain() and json.loads(test.to_json())["p"] is None


# The best


def _mcb_equal(ours: pd.DataFrame, known: list[dict], sign: int = 1) -> None:
    ours = ours.set_index("level")
    assert len(ours) == len(known)
    for row in known:
        own = ours.loc[row["level"]]
        assert own["mean"] == pytest.approx(row["estimate"], rel=1e-9)
        assert own["estimate"] == pytest.approx(sign * row["diff_from_best_of_rest"], abs=1e-9)
        assert own["critical"] == pytest.approx(row["crit"], abs=R_QMVT)
        assert own["lower"] == pytest.approx(row["mcb_lo"], abs=R_QMVT * own["se"] * 2)
        assert own["upper"] == pytest.approx(row["mcb_hi"], abs=R_QMVT * own["se"] * 2)
        assert own["may_be_best"] is row["could_be_best"]
        assert (own["p_adjusted"] > 0.05) == row["could_be_best"]


@pytest.mark.parametrize("of", ["in_pos", "out_pos", "form", ["in_pos", "out_pos"]], ids=str)
def test_the_best_under_empty_cells_and_blocks_equal_r(of):
    found = best(FAILED, "score", of, FACTORS, ["task"], error="residual")
    known = oracles.expected("adapter_failed_mcb")["cell_in_out" if isinstance(of, list) else of]
    _mcb_equal(found.to_frame(), known)
    assert set(found.may_be_best) == {row["level"] for row in known if row["could_be_best"]}


@pytest.mark.parametrize("name", ONEWAY)
@pytest.mark.parametrize(("side", "higher"), [("mcb_larger_better", True), ("mcb_smaller_better", False)])
def test_the_best_of_a_one_way_layout_equal_r(name, side, higher):
    y, g = ONEWAY[name]
    _mcb_equal(
        best(oracles.data(name), y, g, [g], higher_is_better=higher).to_frame(), oracles.expected(name)[side]
    )  # fmt: skip


def _correlations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Correlations of the differences of one of several means to the others, the means' covariance of three factors."""
    part = rng.normal(size=(count + 1, 3))
    means = 0.3 * part @ part.T + np.diag(rng.uniform(0.3, 3, count + 1))
    minus = np.hstack([np.ones((count, 1)), -np.eye(count)])
    covariance = minus @ means @ minus.T
    size = np.sqrt(np.diag(covariance))
    return covariance / np.outer(size, size)


def test_the_largest_of_correlated_t_s_against_scipy_and_closed_forms():
    """Independent normals and one t have closed forms; SciPy's multivariate t is another code of Genz & Bretz."""
    assert LargestT(np.eye(7), 1e7).critical(0.95) == pytest.approx(stats.norm.ppf(0.95 ** (1 / 7)), abs=1e-6)
    assert LargestT(np.ones((1, 1)), 12, two_sided=True).critical(0.9) == pytest.approx(stats.t.ppf(0.95, 12))
    # ρ = ½, 5 comparisons, 20 df: 2.39 and 2.73 in Dunnett's tables (1955, 1964: 2.73)
    half = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    assert LargestT(half, 20).critical(0.95) == pytest.approx(2.39, abs=5e-3)
    assert LargestT(half, 20, two_sided=True).critical(0.95) == pytest.approx(2.73, abs=6e-3)
    rng = np.random.default_rng(3)
    for count, df in ((3, 6), (8, 15)):
        correlation = _correlations(rng, count)
        own = LargestT(correlation, df)
        known = stats.multivariate_t(shape=correlation, df=df, seed=1)
        q = own.critical(0.95)
        assert known.cdf(np.full(count, q), maxpts=40_000 * count) == pytest.approx(0.95, abs=3e-4)
        assert own.p(1.5) == pytest.approx(1 - known.cdf(np.full(count, 1.5), maxpts=40_000 * count), abs=1e-3)


def test_critical_values_of_many_levels_equal_those_of_a_fine_simulation():
    """Failed rows and blocks, 20 levels: 400,000 draws have an error of 0.003 in the 95 % point."""
    frame = _crossed_tasks(np.random.default_rng(4), [f"d{k}" for k in range(20)], missing=0.2)
    rows = best(frame, "y", "level", ["level"], ["task", "task:seed"], error="residual").to_frame()
    fit = smf.ols("y ~ C(level) + C(task):C(seed)", frame).fit()
    names = [n for n in fit.model.exog_names if n.startswith("C(level)")]
    means = fit.cov_params().loc[names, names].to_numpy() / fit.scale  # of the differences to the first level
    rng = np.random.default_rng(5)
    drawn = rng.standard_normal((400_000, len(names))) @ np.linalg.cholesky(means).T  # level k less the first
    scale = np.sqrt(rng.chisquare(fit.df_resid, 400_000) / fit.df_resid)
    largest = (-drawn / np.sqrt(np.diag(means))).max(axis=1) / scale
    assert rows.loc[0, "critical"] == pytest.approx(np.quantile(largest, 0.95), abs=0.01)
    assert rows.loc[0, "df"] == fit.df_resid


def test_the_same_comparison_gives_the_same_numbers():
    frame = _crossed_tasks(np.random.default_rng(6), list("abcdefg"), missing=0.2)
    first, again = (best(frame, "y", "level", ["level"], ["task"]).to_frame() for _ in range(2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)


@pytest.mark.parametrize(
    "studies", [60, pytest.param(2000, marks=pytest.mark.slow)]
)  # fmt: skip
def test_the_set_holds_the_best_as_often_as_promised(studies):
    """No level is better: each is in its set in 95 % of studies, exactly, if effects vary equally from task to task."""
    rng = np.random.default_rng(7)
    inside = np.zeros((studies, 4))
    for k in range(studies):
        frame = _crossed_tasks(rng, list("abcd"), tasks=4)
        found = best(frame, "y", "level", ["level"], ["task", "task:seed"])
        assert found.error == "level:task"
        inside[k] = [flag is True for flag in found.to_frame()["may_be_best"]]
    # each level's rate is binomial; the mean of four that depend on each other is no more variable than one
    assert inside.mean() == pytest.approx(0.95, abs=3 * np.sqrt(0.05 * 0.95 / studies))


@pytest.mark.parametrize(
    "studies", [60, pytest.param(2000, marks=pytest.mark.slow)]
)  # fmt: skip
def test_simultaneous_intervals_hold_the_truth(studies):
    """Levels differ, rows are missing: all intervals at once, and the best in the set, in 95 % of studies or more."""
    rng = np.random.default_rng(8)
    effects = np.array([0.0, 0.3, 0.6, 1.2, 1.3])
    truth = np.array([effects[i] - np.delete(effects, i).max() for i in range(5)])
    covered, kept, small = 0, 0, 0
    for _ in range(studies):
        frame = _crossed_tasks(rng, list("abcde"), by_task=0.0, effects=effects, missing=0.15)
        found = best(frame, "y", "level", ["level"], ["task"], error="residual")
        rows = found.to_frame()
        covered += bool(((rows["lower"] <= truth + 1e-12) & (rows["upper"] >= truth - 1e-12)).all())
        kept += "e" in found.may_be_best
        small += len(found.may_be_best) < 5
    lowest = 0.95 - 3 * np.sqrt(0.05 * 0.95 / studies)
    assert covered / studies >= lowest and kept / studies >= lowest
    assert small / studies > 0.5  # and it is not by keeping everything


def test_the_result_in_words_and_as_data():
    found = best(FAILED, "score", ["in_pos", "out_pos"], FACTORS, ["task"], error="residual")
    said = found.explain()
    assert "Of the 15 levels of in_pos:out_pos, 5 may be the best in score (highest), with 95% confidence" in said
    assert "I2:O2 is ahead of the best other level by 0.1925" in said
    assert "45 rows without a score were left out; 495 were used." in said
    document = json.loads(found.to_json())
    assert document["may_be_best"] == list(found.may_be_best) and len(document["levels"]) == 15
    assert document["levels"][0]["in_pos"] == "I0" and document["level"] == 0.95
    (ax,) = found.plot().axes
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "I2:O2"  # the best first
    pairs = pairwise(FAILED, "score", ["in_pos", "out_pos"], FACTORS, ["task"], error="residual")
    assert len(pairs.plot().axes[0].get_yticklabels()) == 60 and "60 of 105" in pairs.plot().axes[0].get_xlabel()
    few = pairwise(FAILED, "score", "form", FACTORS, ["task"], error="residual")
    assert len(few.plot().axes[0].get_yticklabels()) == 3
    assert few.to_markdown().count("\n") == 4 and "tabular" in few.to_latex()
    assert "3 of 3 differences of form in score are not 0" in few.explain()


def test_factors_named_as_the_table_s_columns_are_in_the_level_only():
    frame = FAILED.rename(columns={"in_pos": "component", "out_pos": "n"})
    rows = best(frame, "score", ["component", "n"], ["component", "n"], ["task"]).to_frame()
    assert rows.columns.is_unique and rows["level"].iloc[0] == "I0:O0" and rows["n"].sum() == 495


def test_without_degrees_of_freedom_nothing_is_said_of_the_best():
    frame = pd.DataFrame({"g": list("abc"), "y": [1.0, 2.0, 4.0]})
    found = best(frame, "y", "g", ["g"])
    assert found.may_be_best == () and all(flag is None for flag in found.to_frame()["may_be_best"])
    assert "Nothing is left to measure the error with" in found.explain()
    assert pairwise(frame, "y", "g", ["g"]).to_frame()["p_adjusted"].isna().all()
    assert pairwise(frame, "y", "g", ["g"]).to_frame()["estimate"].tolist() == pytest.approx([-1, -3, -2])
    same = pd.DataFrame({"g": list("aabbcc"), "y": [0.1, 0.1, 0.3, 0.3, 0.7, 0.7]})  # no error but rounding's
    assert pairwise(same, "y", "g", ["g"]).to_frame()["p"].isna().all()


# Faults


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: pairwise(f, "y", "task", ["level"]), "is not among the factors"),
        (lambda f: pairwise(f, "y", "level", ["level"], adjust="scheffe"), "not 'scheffe'"),
        (lambda f: pairwise(f, "y", "level", ["level"], adjust="dunnett"), "name the reference"),
        (lambda f: pairwise(f, "y", "level", ["level"], reference="a"), "use 'dunnett' or 'holm'"),
        (lambda f: pairwise(f, "y", "level", ["level"], adjust="holm", reference="z"), "'z' is no level of level"),
        (lambda f: pairwise(f, "y", "level", ["level"], level=95), "a probability such as 0.95, not 95"),
        (lambda f: pairwise(f[f["level"] == "a"], "y", "level", ["level"]), "has one level"),
        (lambda f: contrasts(f, "y", "level", {"x": {"a": 1}}, ["level"]), "'x' sum to 1"),
        (lambda f: contrasts(f, "y", "level", {}, ["level"]), "No contrast was given"),
        (lambda f: trend(f, "y", "level", ["level"]), "has the level 'a'"),
        (lambda f: trend(f, "y", "seed", ["seed"]), "needs positive levels; seed has 0"),
        (lambda f: trend(f, "y", "seed", ["seed"], scale="linear"), "degree from 1 to 1, not 2"),
        (lambda f: trend(f, "y", "seed", ["seed"], scale="log10"), "not 'log10'"),
        (lambda f: welch(f[f["level"] == "a"], "y", "level"), "has one cell"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, said):
    with pytest.raises(InputFault, match=said):
        call(_crossed_tasks(np.random.default_rng(0), list("ab"), tasks=2))
