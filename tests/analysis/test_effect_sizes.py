"""Effect sizes and their intervals against hand-solved noncentral F values (R) and R's effectsize."""

import oracles
import pytest
from scipy.stats import ncf

from analysis import anova
from analysis.effect_sizes import (
    epsilon_sq,
    noncentrality_interval,
    omega_sq,
    partial_eta_sq,
    partial_eta_sq_interval,
)

HAND = oracles.expected("effectsize_ci")["hand"]


@pytest.mark.parametrize("case", HAND)
def test_estimates_and_noncentralities_equal_the_hand_solved_ones(case):
    f, d1, d2, level = case["F"], case["df1"], case["df2"], case["conf"]
    assert partial_eta_sq(f, d1, d2) == pytest.approx(case["pes"], rel=1e-12)
    assert epsilon_sq(f, d1, d2) == pytest.approx(case["eps2"], rel=1e-12)
    assert omega_sq(f, d1, d2) == pytest.approx(case["om2p"], rel=1e-12)
    low, high = noncentrality_interval(f, d1, d2, level)
    assert (low, high) == pytest.approx((case["ncp_lo"], case["ncp_hi"]), rel=1e-6)  # R's uniroot gave seven digits
    assert partial_eta_sq_interval(f, d1, d2, level) == pytest.approx((low / (low + d2), high / (high + d2)), rel=1e-12)


@pytest.mark.parametrize("case", [c for c in oracles.expected("effectsize_ci")["effectsize_pkg"] if c["eta_lo"] > 0])
def test_intervals_equal_effectsize_where_that_is_right(case):
    """effectsize 0.8.3 has wrong upper ends where the lower one is 0; these cases are left to the hand values."""
    ours = partial_eta_sq_interval(case["F"], case["df1"], case["df2"], case["conf"])
    assert ours == pytest.approx((case["eta_lo"], case["eta_hi"]), rel=1e-5)


def test_the_ends_solve_their_equations():
    """By definition, and at an F as large as a block's: (tail probabilities of the noncentral F)."""
    low, high = noncentrality_interval(460.0, 3, 504, 0.90)
    assert (ncf.sf(460.0, 3, 504, low), ncf.cdf(460.0, 3, 504, high)) == pytest.approx((0.05, 0.05), rel=1e-8)
    with pytest.raises(ValueError, match="no noncentrality"):
        noncentrality_interval(-1.0, 3, 10)


def test_the_table_carries_r_s_effect_sizes():
    """Partial η², its interval and ε²; effectsize's ω² of a table has n where ours has d1 + d2 + 1."""
    table = anova(oracles.data("adapter_failed"), "score", ["in_pos", "out_pos", "form"], ["task"], error="residual")
    known = oracles.expected("adapter_failed")["additive"]["effect_sizes"]
    for kind, name, column in (
        ("partial_eta_sq", "partial_eta_sq", "Eta2_partial"),
        ("partial_epsilon_sq", "epsilon_sq", "Epsilon2_partial"),
    ):
        for row in known[kind]:
            term = table[row["Parameter"]]
            assert getattr(term, name) == pytest.approx(row[column], rel=1e-9)
            if kind == "partial_eta_sq":
                assert term.partial_eta_sq_ci == pytest.approx((row["CI_low"], row["CI_high"]), rel=1e-5)
    assert table.ci["level"] == 0.90 and "effectsize" in table.ci["convention"]


def test_a_negative_estimate_is_zero_and_given_raw_in_the_notes():
    table = anova(oracles.data("statsmodels_breaker"), "y", ["a", "b", "f"], ["t"], ["a:b"])
    term = table["b"]
    assert (term.omega_sq, term.epsilon_sq) == (0.0, 0.0)
    raw = omega_sq(term.F, term.df, term.error.df)
    assert raw < 0 and any(f"b omega² {raw:.4f}" in note for note in table.notes)
