"""Tests against a block: the repeated-measures tables of R, closed forms, expected mean squares by dense algebra."""

from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import f as f_distribution
from statsmodels.stats.anova import anova_lm

from adapters.positions import PAIRS
from analysis import anova, differences, marginal_means
from analysis.model import Design
from analysis.sample import read_sample
from analysis.strata import Strata

BETWEEN, WITHIN = ["treatment", "gender"], ["phase", "hour"]


def _all_interactions(factors: list[str]) -> list[str]:
    chosen = product([False, True], repeat=len(factors))
    return [":".join(f for f, there in zip(factors, c, strict=True) if there) for c in chosen if sum(c) > 1]


@pytest.fixture(scope="module")
def repeated():
    """O'Brien and Kaiser's data: factors within persons, and factors between them."""
    factors = [*BETWEEN, *WITHIN]
    frame = oracles.data("obrienkaiser_repeated")
    return anova(frame, "value", factors, ["id"], _all_interactions(factors), error="id")


def _term(table, name):
    return next(row for row in table.terms if set(row.term.split(":")) == set(name.split(":")))


def test_every_f_of_a_repeated_measures_design_equals_r(repeated):
    """afex::aov_ez, Type II, not corrected: make_oracles.R writes `type2_uncorrected`."""
    rows = oracles.expected("obrienkaiser_repeated")["type2_uncorrected"]
    assert len(rows) == 15
    for row in rows:
        ours = _term(repeated, row["term"])
        assert (ours.df, ours.error.df, ours.error.approximate) == (row["num Df"], row["den Df"], False)
        assert (ours.F, ours.error.mean_sq) == pytest.approx((row["F"], row["MSE"]), rel=1e-9)
        uncorrected = f_distribution.sf(ours.F, ours.df, ours.error.df)
        assert uncorrected == pytest.approx(row["Pr(>F)"], rel=1e-9)
        if set(row["term"].split(":")) <= set(BETWEEN):
            assert (ours.p, ours.epsilon) == (pytest.approx(row["Pr(>F)"], rel=1e-9), None)


def test_greenhouse_geisser_epsilon_equals_r(repeated):
    """The ε of car::Anova do not depend on the type of sums of squares."""
    rows = oracles.expected("obrienkaiser_repeated")["gg_hf"]
    assert len(rows) == 12
    for row in rows:
        ours = _term(repeated, row["term"])
        epsilon = row["GG eps"]
        assert ours.epsilon == pytest.approx(epsilon, rel=1e-9)
        assert ours.p == pytest.approx(f_distribution.sf(ours.F, epsilon * ours.df, epsilon * ours.error.df), rel=1e-9)
        assert ours.p_conservative is None


def test_the_error_stratum_of_machines_equals_aov_and_the_mixed_models_f():
    known = oracles.expected("machines_mixed")
    row = anova(oracles.data("machines_mixed"), "score", ["Machine"], ["Worker"], error="Worker")["Machine"]
    stratum = known["error_strata"]["Error: Worker:Machine"][0]
    assert (row.sum_sq, row.F, row.error.df) == pytest.approx((stratum["Sum Sq"], stratum["F value"], 10), rel=1e-9)
    assert pytest.approx(known["with_interaction"]["anova_KR"][0]["F value"], rel=1e-6) == row.F
    on_these = anova(oracles.data("machines_mixed"), "score", ["Machine"], ["Worker"], error="residual")["Machine"]
    assert pytest.approx(known["intercept_only"]["anova"][0]["F value"], rel=1e-6) == on_these.F


def _crossed(rng: np.random.Generator, tasks: int = 4, seeds: int = 3) -> pd.DataFrame:
    cells = [(a, b, f"t{t}", s) for a in "xyz" for b in "uv" for t in range(tasks) for s in range(seeds)]
    frame = pd.DataFrame(cells, columns=["a", "b", "task", "seed"])
    return frame.assign(y=rng.normal(size=len(frame)))


def test_on_balanced_data_the_denominator_is_the_interaction_with_task():
    """statsmodels' mean squares of the full-rank model, which it gets right."""
    frame = _crossed(np.random.default_rng(0))
    table = anova(frame, "y", ["a", "b"], ["task", "task:seed"], ["a:b"])
    theirs = anova_lm(smf.ols("y ~ C(task)*C(a)*C(b) + C(task):C(seed)", frame).fit(), typ=1)
    mean_sq = theirs["sum_sq"] / theirs["df"]
    for ours, term, error in (
        ("a", "C(a)", "C(task):C(a)"), ("b", "C(b)", "C(task):C(b)"), ("a:b", "C(a):C(b)", "C(task):C(a):C(b)"),
    ):  # fmt: skip
        row = table[ours]
        assert (row.error.term, row.error.df) == (f"{ours}:task", theirs.loc[error, "df"])
        assert pytest.approx(mean_sq[term] / mean_sq[error], rel=1e-10) == row.F
        assert not row.error.approximate


def test_one_degree_of_freedom_is_a_t_test_over_tasks():
    frame = _crossed(np.random.default_rng(1))
    means = frame.groupby(["task", "b"])["y"].mean().unstack()
    change = means["u"] - means["v"]
    t = change.mean() / (change.std() / np.sqrt(len(change)))
    row = anova(frame, "y", ["a", "b"], ["task", "task:seed"])["b"]
    assert (row.F, row.error.df) == (pytest.approx(t**2, rel=1e-10), 3)
    assert (row.epsilon, row.p_conservative) == (None, None)
    found = differences(frame, "y", ["b"], ["v"], ["task", "task:seed"])
    assert found.loc[0, ["difference", "df"]].tolist() == pytest.approx([change.mean(), 3])
    assert found.loc[0, "se"] == pytest.approx(change.std() / np.sqrt(len(change)), rel=1e-10)
    means_of_b = marginal_means(frame, "y", "b", ["a", "b"], ["task", "task:seed"])
    assert (means_of_b["df"] == 3).all()


def test_expected_mean_squares_equal_traces_of_dense_projections():
    """Unbalanced rows; E[MS] = σ² + Σ load·σ²_R with load = tr(P Z Z')/df, P by numpy's lstsq."""
    rng = np.random.default_rng(2)
    frame = _crossed(rng).sample(frac=0.7, random_state=3)
    sample = read_sample(frame, "y", ["a", "b", "task"])
    fixed, random = [("task",), ("a",), ("b",)], [("a", "task"), ("b", "task")]
    design = Design(sample)
    strata = Strata(design, sample.y - sample.y.mean(), fixed, random)

    def one_hot(term):
        cells = sample.cells(term)
        return np.eye(cells.count)[cells.codes]

    def projection(terms):
        columns = np.hstack([np.ones((sample.n, 1)), *(one_hot(t) for t in terms)])
        return columns @ np.linalg.pinv(columns, rcond=1e-10)

    others = [("task",), ("b",), ("b", "task")]
    dense = projection([*others, ("a",)]) - projection(others)
    small, large = design.space(others), design.space([*others, ("a",)])
    loads = strata.loads_between(small, large, 2)
    for term in random:
        z = one_hot(term)
        assert loads[term] == pytest.approx(np.trace(dense @ z @ z.T) / 2, abs=1e-9)
    error = strata.error(loads)
    assert error.approximate and error.term == "a:task and residual"
    # The denominator's expectation is that of the mean square without an effect, whatever the variances are.
    within = projection([*others, ("a",), ("a", "task")]) - projection([*others, ("a",)])
    rank, crossed = np.linalg.matrix_rank(within, tol=1e-8), one_hot(("a", "task"))
    load = np.trace(within @ crossed @ crossed.T) / rank
    share = loads["a", "task"] / load
    df, mean_sq = strata.mean_square(("a", "task"))
    assert error.mean_sq == pytest.approx(share * mean_sq + (1 - share) * strata.sum_sq / strata.df, rel=1e-9)
    assert df == rank


def test_the_denominator_is_adjusted_for_other_factors_interactions_with_task():
    """With output:task, and inputs that meet few outputs, an unadjusted denominator is far too large or small."""
    rng = np.random.default_rng(4)
    cells = [(i, o, t, s) for i, o in PAIRS for t in range(4) for s in range(2)]
    frame = pd.DataFrame(cells, columns=["input", "output", "task", "seed"])
    shift = {(o, t): rng.normal() for o in frame["output"].unique() for t in range(4)}
    frame["y"] = [shift[o, t] for o, t in zip(frame["output"], frame["task"], strict=True)]
    frame["y"] += 1e-3 * rng.normal(size=len(frame))
    row = anova(frame, "y", ["input", "output"], ["task"])["input"]
    assert row.error.mean_sq is not None and row.error.mean_sq < 1e-5  # nothing of output:task is in it
    assert row.error.df == 7 * 3 and row.p is not None and row.p > 1e-4


def test_too_few_tasks_for_epsilon_give_the_lower_bound():
    frame = _crossed(np.random.default_rng(5), tasks=2)
    table = anova(frame, "y", ["a", "b"], ["task", "task:seed"])
    row = table["a"]
    assert row.epsilon is None
    assert row.p == pytest.approx(f_distribution.sf(row.F, 2, 2), rel=1e-12)
    assert row.p_conservative == pytest.approx(max(row.p, f_distribution.sf(row.F, 1, 1)), rel=1e-12)
    assert row.p_decisive == row.p_conservative and table["b"].p_decisive == table["b"].p
    assert "lower bound" in table.explain()


def test_without_degrees_of_freedom_p_is_null_and_never_the_residuals():
    """Every level of `a` was run on one task of its own."""
    rng = np.random.default_rng(6)
    frame = pd.DataFrame([(a, b, s) for a in "xyz" for b in "uv" for s in range(6)], columns=["a", "b", "s"])
    frame = frame.assign(task=frame["a"] + (frame["s"] % 2).astype(str), y=rng.normal(size=len(frame)))
    one = frame[(frame["task"] == "x0") | (frame["task"] == "y1")]
    table = anova(one, "y", ["a", "b"], ["task"])
    assert (table["a"].F, table["a"].p) == (None, None)
    assert any("Not tested" in note and "a" in note for note in table.notes)
    # With tasks enough, what differs between tasks only is tested against tasks.
    several = anova(frame, "y", ["a", "b"], ["task"])["a"]
    means = frame.groupby(["a", "task"])["y"].mean().reset_index()
    by_hand = anova(means, "y", ["a"])["a"]
    assert several.error.term == "task" and several.error.df == by_hand.error.df == 3
    assert pytest.approx(by_hand.F, rel=1e-10) == several.F


def test_one_task_is_no_error_term():
    frame = _crossed(np.random.default_rng(7), tasks=1)
    assert anova(frame, "y", ["a", "b"], ["task"]).error == "residual"
    table = anova(frame, "y", ["a", "b"], ["task"], error="task")
    assert table["a"].p is None and table["b"].F is None


def test_the_pair_and_the_component_have_error_terms_of_their_own():
    rng = np.random.default_rng(8)
    cells = [(i, o, act, t) for i, o in PAIRS for act in "rs" for t in range(5)]
    frame = pd.DataFrame(cells, columns=["input", "output", "activation", "task"])
    frame["y"] = rng.normal(size=len(frame))
    table = anova(frame, "y", ["activation"], ["task"], pair=("input", "output"))
    assert [(r.term, r.error.term, r.error.df) for r in table.terms if r.role != "block"] == [
        ("pair", "input:output:task", 76), ("component", "component:task", 8), ("input", "input:task", 28),
        ("output", "output:task", 16), ("activation", "activation:task", 4), ("input:output", "input:output:task", 24),
    ]  # fmt: skip
    frame["cell"] = frame["input"] + frame["output"]
    as_one = anova(frame, "y", ["cell", "activation"], ["task"])["cell"]
    assert (table["pair"].F, table["pair"].p) == pytest.approx((as_one.F, as_one.p), rel=1e-9)


def test_nested_factors_are_tested_within_their_parent():
    rng = np.random.default_rng(9)
    designs = [("lora", "4"), ("lora", "16"), ("krona", None), ("vpt", "4"), ("vpt", "16"), ("vpt", "64")]
    frame = pd.DataFrame([(*d, t) for d in designs for t in range(6)], columns=["method", "rank", "task"])
    frame["y"] = rng.normal(size=len(frame))
    table = anova(frame, "y", ["method", "rank"], ["task"], nested={"rank": "method"}, error="residual")
    assert [(r.term, r.df, r.df_nominal) for r in table.terms] == [
        ("task", 5, 5), ("method", 2, 2), ("rank(method)", 3, 3),
    ]  # fmt: skip
    by_hand = 0.0
    for _, part in frame[frame["rank"].notna()].groupby("method"):
        means = part.groupby("rank")["y"].mean()
        by_hand += 6 * ((means - part["y"].mean()) ** 2).sum()
    assert table["rank(method)"].sum_sq == pytest.approx(by_hand, rel=1e-10)
    assert anova(frame, "y", ["method", "rank"], ["task"], nested={"rank": "method"})["rank(method)"].error.df == 15
