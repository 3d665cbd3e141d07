"""Power against R's pwr and statsmodels, the degrees of freedom against the table's, predictions against replays."""

import numpy as np
import oracles
import pandas as pd
import pytest
from scipy.stats import f as f_distribution
from scipy.stats import ncf, nct, studentized_range
from scipy.stats import t as t_distribution
from statsmodels.stats.power import FTestAnovaPower

from analysis import anova
from analysis.noncentral import (
    _mixture_beyond,
    critical_f,
    expected_epsilon,
    noncentrality_for,
    power_beyond,
    power_uneven,
)
from analysis.power_design import power
from tests.analysis.plans import BALANCED, PAIR, POSITIONS, one_way, planned_rows

KNOWN = oracles.expected("power_mde")
TWO = pd.DataFrame({"design": ["new", "old"]})


@pytest.mark.parametrize("case", KNOWN["oneway_power"])
def test_power_of_a_one_way_design_equals_pwr_and_statsmodels(case):
    k, n, f = case["k"], case["n_per_group"], case["f"]
    # a spread of f·sqrt(2k)·sigma, two levels apart and the others between them, has Cohen's f
    found = power(one_way(k, n), ["a"], tasks=1, sd=0.3, difference=0.3 * f * np.sqrt(2 * k), alpha=case["alpha"])
    assert found["a"].power == pytest.approx(case["power"], abs=1e-8)
    assert found["a"].df_error == k * n - k
    theirs = FTestAnovaPower().power(effect_size=f, nobs=k * n, alpha=case["alpha"], k_groups=k)
    assert found["a"].power == pytest.approx(theirs, abs=1e-8)


@pytest.mark.parametrize("case", KNOWN["oneway_mde"])
def test_the_smallest_detectable_spread_equals_pwr_s(case):
    cells = one_way(case["k"], case["n_per_group"])
    row = power(cells, ["a"], tasks=1, sd=2.0, target=case["power"], alpha=case["alpha"])["a"]
    # pwr looks for its roots to 1e-4 only; the definition itself is held exactly
    assert row.f == pytest.approx(case["mde_f"], rel=1e-4)
    assert row.smallest / 2.0 == pytest.approx(case["mde_delta_over_sigma_min_maxspread"], rel=1e-4)
    assert row.smallest / 2.0 == pytest.approx(row.f * np.sqrt(2 * case["k"]), rel=1e-12)
    theirs = FTestAnovaPower().power(row.f, case["k"] * case["n_per_group"], case["alpha"], case["k"])
    assert theirs == pytest.approx(case["power"], abs=1e-8)


@pytest.mark.parametrize("case", KNOWN["oneway_n"])
def test_as_many_rows_as_pwr_asks_for_are_enough_and_one_less_is_not(case):
    k, n = case["k"], case["n_ceiling"]
    wished = case["f"] * np.sqrt(2 * k)
    enough, less = (power(one_way(k, m), ["a"], 1, sd=1, difference=wished, target=case["power"])["a"].power
                    for m in (n, n - 1))  # fmt: skip
    assert less < case["power"] <= enough


@pytest.mark.parametrize("case", KNOWN["general_F"])
def test_power_of_an_f_test_equals_r_s_noncentral_f(case):
    df1, df2 = case["df1"], case["df2"]
    found = power_beyond(case["f2"] * case["N"], df1, df2, critical_f(df1, df2, case["alpha"]))
    assert found == pytest.approx(case["power_ncp_f2N"], abs=1e-8)


def _wrong_side(df: int, noncentrality: float) -> float:
    """Rejections on the wrong side of a two-sided t test at 5 %, which pwr leaves out."""
    return float(nct.cdf(-t_distribution.isf(0.025, df), df, noncentrality))


def test_two_designs_over_tasks_are_a_paired_t_test_as_in_pwr():
    """With one seed and a residual SD of 1/sqrt(2) the difference of two designs on a task has an SD of 1."""
    for case in KNOWN["t_power"]:
        n, d = case["n"], case["d"]
        known = case["power_paired"] + _wrong_side(n - 1, d * np.sqrt(n))
        found = power(TWO, ["design"], n, sd=np.sqrt(0.5), sd_task=0, difference=d)
        assert found.pairs[0].power_one == pytest.approx(known, abs=1e-8)
        # half of the difference's variance from task to task is the same test
        shared = power(TWO, ["design"], n, sd=0.5, sd_task=0.5, difference=d)
        assert shared["design"].power == pytest.approx(known, abs=1e-8)
    for case in KNOWN["t_mde"]:
        found = power(TWO, ["design"], case["n"], sd=np.sqrt(0.5), sd_task=0, target=case["power"])
        assert found.pairs[0].one == pytest.approx(case["mde_d_paired"], rel=2e-4)
        assert found["design"].smallest == pytest.approx(case["mde_d_paired"], rel=2e-4)
    for case in KNOWN["t_n"]:
        found = power(TWO, ["design"], 2, sd=np.sqrt(0.5), sd_task=0, difference=case["d"], target=case["power"])
        needed = found.needed_frame().query("varied == 'tasks' and seeds == 1")["tasks"].item()
        assert needed == np.ceil(case["n_paired"])


def test_two_groups_are_an_unpaired_t_test_as_in_pwr():
    for case in KNOWN["t_power"]:
        n, d = case["n"], case["d"]
        known = case["power_two_sample"] + _wrong_side(2 * n - 2, d * np.sqrt(n / 2))
        assert power(one_way(2, n), ["a"], 1, sd=1, difference=d).pairs[0].power_one == pytest.approx(known, abs=1e-8)
    for case in KNOWN["t_mde"]:
        found = power(one_way(2, case["n"]), ["a"], 1, sd=1, target=case["power"])
        assert found.pairs[0].one == pytest.approx(case["mde_d_two_sample"], rel=2e-4)


def test_closed_forms_of_a_balanced_factor_against_tasks():
    """Var(mean of a level's difference over tasks) = 2(σ_task² + σ²/(rows of the level on a task)) / tasks."""
    tasks, seeds, sd, sd_task = 12, 2, 0.6, 0.3
    found = power(BALANCED, ["a", "b"], tasks, seeds, sd, sd_task, difference=0.5)
    rows = 3 * seeds  # b's levels times seeds
    row = found["a"]
    assert (row.df, row.df_error, row.error) == (4, 4 * 11, "a:task")
    assert row.error_sd**2 == pytest.approx(sd**2 + rows * sd_task**2, rel=1e-12)
    lam = 0.5**2 / 2 * tasks / (sd_task**2 + sd**2 / rows)
    epsilon = (4 * 11 + 2) / (4 * (11 + 4 + 1))
    critical = f_distribution.isf(0.05, epsilon * 4, epsilon * 44)
    assert row.epsilon == pytest.approx(epsilon)
    assert row.power == pytest.approx(power_beyond(lam, 4, 44, critical), abs=1e-9)
    # one level d above four others: d²·(1 − 1/5) of squares in units of the mean's error variance
    per_level = tasks / (sd_task**2 + sd**2 / rows)
    wanted = noncentrality_for(0.8, 4, 44, float(critical))
    assert row.smallest == pytest.approx(np.sqrt(2 * wanted / per_level), rel=1e-6)
    assert row.smallest_one == pytest.approx(np.sqrt(wanted / (0.8 * per_level)), rel=1e-6)
    pair = next(p for p in found.pairs if p.of == "a")
    delta = 0.5 / np.sqrt(2 / per_level)
    for t, df, got in (
        (t_distribution.isf(0.025, 11), 11, pair.power_one),
        (t_distribution.isf(0.025 / 10, 11), 11, pair.power_bonferroni),
        (studentized_range.isf(0.05, 5, 44) / np.sqrt(2), 44, pair.power_tukey),
    ):
        assert got == pytest.approx(nct.sf(t, df, delta) + nct.cdf(-t, df, delta), abs=1e-6)
    assert (pair.pairs, pair.levels) == (10, 5)


@pytest.mark.parametrize("error", ["residual", "task"])
def test_every_test_has_the_degrees_of_freedom_and_the_error_that_the_table_will_have(error):
    cells = POSITIONS.merge(pd.DataFrame({"form": list("uvw")}), how="cross")
    cells = cells[~((cells["input"] == "SA_in") & (cells["form"] == "w"))]
    factors = ["input", "output", "form"]
    found = power(cells, factors, 4, 2, 1.0, 1.0, error=error, interactions="all", pair=PAIR)
    frame = planned_rows(cells, 4, 2)
    frame["y"] = np.random.default_rng(0).normal(size=len(frame))
    table = anova(frame, "y", factors, ["task", "task:seed"], "all", error=error, pair=PAIR)
    theirs = [row for row in table.terms if row.role != "block"]
    assert [row.term for row in found.terms] == [row.term for row in theirs]
    for row, known in zip(found.terms, theirs, strict=True):
        assert (row.role, row.df, row.df_nominal) == (known.role, known.df, known.df_nominal), row.term
        if error == "task" and row.term in ("pair", "component"):  # the error holds others' variances, which is said
            assert row.smallest is None and row.error_sd is None
            continue
        assert row.df_error == pytest.approx(known.error.df), row.term
        assert row.error == known.error.term.replace("component of the pair", "component")
    assert ("which is not planned with" in found.explain()) == (error == "task")
    assert found.trials == len(frame) and found.designs == len(cells)
    assert [row.of for row in found.pairs] == ["pair", "component", *factors, "whole design"]


def _basis(cells: pd.DataFrame, others: list[str], term: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Indicators of a term's levels, and an orthonormal basis of what they add to other factors, in the cells."""
    hot = pd.get_dummies(cells[term].agg("|".join, axis=1)).to_numpy(float)
    small = np.hstack([np.ones((len(cells), 1)), *(pd.get_dummies(cells[o]).to_numpy(float) for o in others)])
    u, s, _ = np.linalg.svd(small, full_matrices=False)
    u = u[:, s > 1e-9]
    v, s, _ = np.linalg.svd(hot - u @ (u.T @ hot), full_matrices=False)
    return hot, v[:, s > 1e-9]


def _hardest(hot: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Effects of the levels, two of them 1 apart, that add least: a search over all pairs of levels."""
    inside = hot.T @ basis @ basis.T @ hot
    inverse = np.linalg.pinv(inside, rcond=1e-9, hermitian=True)
    found = []
    for i in range(hot.shape[1]):
        for j in range(i):
            c = np.zeros(hot.shape[1])
            c[i], c[j] = 1, -1
            if np.allclose(inverse @ inside @ c, c, atol=1e-6):
                found.append(inverse @ c / (c @ inverse @ c))
    return min(found, key=lambda e: e @ inside @ e)


def _replay(cells, others, term, effects, tasks, seeds, sd, sd_task, count, rng):
    """Means over seeds of `count` studies (count, tasks, cells) whose levels' effects differ from task to task."""
    hot, basis = _basis(cells, others, term)
    means = (hot @ effects) + rng.normal(0, sd_task, (count, tasks, hot.shape[1])) @ hot.T
    return means + rng.normal(0, sd / np.sqrt(seeds), (count, tasks, len(cells))), basis


def _decided(means: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of F against the interaction with tasks: with equal variances taken for granted, and as the table decides."""
    tasks, df = means.shape[1], basis.shape[1]
    effects = means @ basis
    mean = effects.mean(axis=1)
    apart = effects - mean[:, None]
    covariance = np.einsum("rti,rtj->rij", apart, apart) / (tasks - 1)
    trace = np.trace(covariance, axis1=1, axis2=2)
    f = tasks * np.square(mean).sum(axis=1) / trace
    epsilon = trace**2 / (df * np.square(covariance).sum(axis=(1, 2)))
    if tasks - 1 < df:
        epsilon = np.full(len(means), 1 / df)
    return f_distribution.sf(f, df, df * (tasks - 1)), f_distribution.sf(f, epsilon * df, epsilon * df * (tasks - 1))


CASES = {
    "balanced": (BALANCED, ["a", "b"], None, "a", ["a"], ["b"]),
    "pair": (POSITIONS, ["input", "output"], PAIR, "pair", ["input", "output"], []),
    "input": (POSITIONS, ["input", "output"], PAIR, "input", ["input"], ["output"]),
    "output": (POSITIONS, ["input", "output"], PAIR, "output", ["output"], ["input"]),
}


@pytest.mark.parametrize("tasks, seeds", [(5, 2), (9, 2), (22, 1)])
@pytest.mark.parametrize("case", CASES)
def test_predicted_power_against_tasks_is_the_rate_of_rejection(case, tasks, seeds):
    """4,000 studies: two standard errors of a rate of 80 % are 1.3 points."""
    cells, factors, pair, label, term, others = CASES[case]
    row = power(cells, factors, tasks, seeds, 0.6, 0.3, pair=pair)[label]
    hot, basis = _basis(cells, others, term)
    worst = _hardest(hot, basis)
    rng = np.random.default_rng(7)
    for difference, which in ((row.smallest, 1), (row.smallest_spherical, 0)):
        means, _ = _replay(cells, others, term, worst * difference, tasks, seeds, 0.6, 0.3, 4000, rng)
        assert (_decided(means, basis)[which] < 0.05).mean() == pytest.approx(0.8, abs=0.02), (difference, which)
    if tasks != 9:
        return
    half = power(cells, factors, tasks, seeds, 0.6, 0.3, pair=pair, difference=0.7 * row.smallest)[label].power
    means, _ = _replay(cells, others, term, worst * 0.7 * row.smallest, tasks, seeds, 0.6, 0.3, 4000, rng)
    assert (_decided(means, basis)[1] < 0.05).mean() == pytest.approx(half, abs=0.025)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tasks", [5, 22])
def test_the_replays_decide_as_the_table_does(case, tasks):
    cells, factors, pair, label, term, others = CASES[case]
    rng = np.random.default_rng(1)
    effects = rng.normal(size=_basis(cells, others, term)[0].shape[1])
    means, basis = _replay(cells, others, term, 0.3 * effects, tasks, 1, 0.6, 0.3, 1, rng)
    frame = planned_rows(cells, tasks, 1)
    frame["y"] = means[0].T.reshape(-1)
    row = anova(frame, "y", factors, ["task"], pair=pair)[label]
    plain, decided = _decided(means, basis)
    assert row.p_decisive == pytest.approx(decided[0], rel=1e-8)
    assert f_distribution.sf(row.F, row.df, row.error.df) == pytest.approx(plain[0], rel=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_predicted_power_against_the_residual_is_the_rate_of_rejection(case):
    cells, factors, pair, label, term, others = CASES[case]
    tasks, seeds, sd, count = 2, 3, 0.6, 4000
    row = power(cells, factors, tasks, seeds, sd, pair=pair, error="residual")[label]
    hot, basis = _basis(cells, others, term)
    rng = np.random.default_rng(3)
    model = _basis(cells, [], factors if pair else ["a"])[1]
    if not pair:
        model = np.hstack([model, _basis(cells, ["a"], ["b"])[1]])
    worst = hot @ _hardest(hot, basis) * row.smallest
    y = worst + rng.normal(0, sd, (count, tasks * seeds, len(cells)))
    y -= y.mean(axis=2, keepdims=True)  # each task × seed is a block
    mean = y.mean(axis=1)
    fitted = mean @ model @ model.T
    error = np.square(y).sum(axis=(1, 2)) - tasks * seeds * np.square(fitted).sum(axis=1)
    f = tasks * seeds * np.square(mean @ basis).sum(axis=1) / row.df / (error / row.df_error)
    assert (f > f_distribution.isf(0.05, row.df, row.df_error)).mean() == pytest.approx(0.8, abs=0.02)
    frame = planned_rows(cells, tasks, seeds).sort_values(["task", "seed"], kind="stable")
    frame["y"] = y[0].reshape(-1)
    table = anova(frame, "y", factors, ["task", "task:seed"], error="residual", pair=pair)
    assert pytest.approx(f[0], rel=1e-8) == table[label].F


def test_tukey_and_one_pair_are_found_as_often_as_said():
    tasks, sd, sd_task = 8, 0.6, 0.3
    cells = pd.DataFrame({"a": list("pqrs")})
    pair = power(cells, ["a"], tasks, sd=sd, sd_task=sd_task).pairs[0]
    rng = np.random.default_rng(5)
    error = np.sqrt(sd**2 + sd_task**2)
    for difference, which in ((pair.one, "one"), (pair.tukey, "tukey"), (pair.bonferroni, "bonferroni")):
        y = rng.normal(0, error, (4000, tasks, 4))
        y[:, :, 0] += difference
        apart = y[:, :, 0] - y[:, :, 1]
        t = np.abs(apart.mean(axis=1)) / (apart.std(axis=1, ddof=1) / np.sqrt(tasks))
        if which == "tukey":
            left = (
                y - y.mean(axis=1, keepdims=True) - y.mean(axis=2, keepdims=True) + y.mean(axis=(1, 2), keepdims=True)
            )
            pooled = np.square(left).sum(axis=(1, 2)) / (3 * (tasks - 1))
            found = np.abs(apart.mean(axis=1)) / np.sqrt(pooled / tasks) > studentized_range.isf(0.05, 4, 3 * 7)
        else:
            found = t > t_distribution.isf(0.025 / (1 if which == "one" else 6), tasks - 1)
        assert found.mean() == pytest.approx(0.8, abs=0.02), which


def test_large_noncentralities_are_right():
    rng = np.random.default_rng(2)
    draws = rng.noncentral_chisquare(19, 3000, 200_000) / 19 / (rng.chisquare(19, 200_000) / 19)
    assert power_beyond(3000, 19, 19, 161.4) == pytest.approx((draws > 161.4).mean(), abs=0.005)
    for df in (1, 7, 400):
        t = t_distribution.isf(0.025, df)
        there = nct.sf(t, df, 20) + nct.cdf(-t, df, 20)
        assert power_beyond(400, 1, df, t**2) == pytest.approx(there, abs=1e-8)
    # scipy's own gives NaN at some points of this grid
    grid = np.geomspace(1, 1e6, 300)
    for df1, df2, critical in ((1, 7, 5.59), (3.4, 17.2, 3.0), (19, 209, 4.8), (63, 4000, 1.3)):
        found = np.array([power_beyond(each, df1, df2, critical) for each in grid])
        assert ((found >= 0) & (found <= 1)).all() and (np.diff(found) > -1e-9).all() and found[-1] == 1
        for each in grid[:120:10]:
            assert _mixture_beyond(each, df1, df2, critical) == pytest.approx(
                ncf.sf(critical, df1, df2, each), abs=1e-9
            )
    lam = noncentrality_for(0.9, 19, 19, 161.4)
    assert power_beyond(lam, 19, 19, 161.4) == pytest.approx(0.9, abs=1e-9)


def test_unequal_variances_are_matched_and_equal_ones_exact():
    critical = critical_f(4, 44, 0.05)
    equal = power_uneven(3.0, 3.0 * 0.5, 4 * 0.5, 4 * 0.25, 44, critical)
    assert equal == pytest.approx(power_beyond(6.0, 4, 44, critical), abs=1e-12)
    rng = np.random.default_rng(4)
    variances, effects = np.array([0.2, 0.5, 1.0, 2.0]), np.array([1.0, 2.0, 1.5, 2.0])
    own = np.square(effects + rng.normal(size=(100_000, 4)) * np.sqrt(variances)).sum(axis=1)
    error = (rng.chisquare(11, (100_000, 4)) * variances).sum(axis=1) / 11
    seen = (own / error > critical).mean()
    df2 = 11 * variances.sum() ** 2 / np.square(variances).sum()
    got = power_uneven(np.square(effects).sum(), (variances * effects**2).sum(), variances.sum(),
                       np.square(variances).sum(), df2, critical)  # fmt: skip
    assert got == pytest.approx(seen, abs=0.02)


def test_the_expected_greenhouse_geisser_factor_is_the_mean_of_estimates():
    rng = np.random.default_rng(6)
    for df, tasks in ((4, 8), (7, 12)):
        y = rng.normal(size=(4000, tasks, df))
        y -= y.mean(axis=1, keepdims=True)
        s = np.einsum("rti,rtj->rij", y, y)
        seen = (np.trace(s, axis1=1, axis2=2) ** 2 / (df * np.square(s).sum(axis=(1, 2)))).mean()
        assert expected_epsilon(df, tasks) == pytest.approx(seen, abs=0.02)  # a ratio of means for the mean of a ratio
    assert expected_epsilon(7, 7) == 1 / 7 and expected_epsilon(1, 3) == 1
