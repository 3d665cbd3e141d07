"""Robust companions against R, statsmodels, enumeration by hand, and simulations whose truth is known."""

import json
from itertools import permutations, product

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from adapters.faults import InputFault
from analysis import permutation
from analysis.robust_tests import friedman, robust
from analysis.sample import read_sample

POSITIONS = ["in_pos", "out_pos", "form"]


@pytest.fixture(scope="module")
def failed():
    return robust(oracles.data("adapter_failed"), "score", POSITIONS, ["task"], "all", permutations=199)


def test_the_permutation_p_is_exact_where_all_arrangements_can_be_gone_through():
    """R's enumeration: 1362 of 12!/(4!)³ = 34650."""
    known = oracles.expected("permutation_exact")
    found = robust(oracles.data("permutation_exact"), "weight", ["group"])
    row = found["group"]
    assert row.arrangements == known["n_assignments"] and found.enumerated and row.permutation_exact
    assert round(row.permutation_p * row.arrangements) == known["n_ge"]
    assert row.permutation_p == pytest.approx(known["p_exact"], rel=1e-12)
    assert [row.F, row.p] == pytest.approx([known["F"], known["p_parametric"]], rel=1e-10)


def test_random_arrangements_come_near_the_exact_p(monkeypatch):
    monkeypatch.setattr(permutation, "ENUMERATE", 10)
    found = robust(oracles.data("permutation_exact"), "weight", ["group"], permutations=9999, seed=3)
    p = oracles.expected("permutation_exact")["p_exact"]
    assert not found.enumerated and found["group"].arrangements == 9999
    assert abs(found["group"].permutation_p - p) < 4 * np.sqrt(p * (1 - p) / 9999)


def test_rows_change_places_within_blocks_only():
    """All 6³ orders of three treatments in three tasks, by hand; F is that of the treatment adjusted for tasks."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(list(product("xyz", "abc")), columns=["task", "a"])
    frame["y"] = rng.normal(size=9) + frame["task"].map({"x": 0, "y": 50, "z": -30}) + (frame["a"] == "b")
    y = frame["y"].to_numpy().reshape(3, 3)

    def f(values):
        rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
        left = values - rows - columns + values.mean()
        return 3 * np.square(columns - values.mean()).sum() / np.square(left).sum()

    orders = list(permutations(range(3)))
    every = [f(np.stack([y[k][list(o)] for k, o in enumerate(choice)])) for choice in product(orders, repeat=3)]
    found = robust(frame, "y", ["a"], ["task"])["a"]
    assert found.arrangements == 216 and found.permutation_exact
    assert found.permutation_p == pytest.approx(np.mean(np.array(every) >= f(y) * (1 - 1e-9)), abs=1e-12)


@pytest.mark.parametrize("most", [1, 10**6])
def test_every_arrangement_is_one_of_rows_within_their_blocks(monkeypatch, most):
    """Drawn at random or gone through: 3 tasks of 3 rows, of which two have the same treatment, 3³ arrangements."""
    monkeypatch.setattr(permutation, "ENUMERATE", most)
    frame = pd.DataFrame({"task": list("xyz" * 3), "a": list("pppqqqppp"), "y": np.arange(9.0)})
    sample = read_sample(frame, "y", ["task", "a"])
    arrangements = permutation.Arrangements(sample, ["task", "a"], ["task"], 500, 0)
    orders = np.vstack(list(arrangements.batches()))
    assert arrangements.count == len(orders) == (500 if most == 1 else 27)
    assert (np.sort(orders, axis=1) == np.arange(9)).all()
    assert (arrangements.blocks[orders] == arrangements.blocks[arrangements.rows]).all()
    placed = {tuple(order[frame["a"].to_numpy()[arrangements.rows] == "q"]) for order in orders}
    assert len(placed) == 27


def test_a_permutation_that_estimates_other_terms_first_is_called_approximate(failed):
    assert not any(row.permutation_exact for row in failed.terms)
    assert "approximate for in_pos" in failed.explain()
    blocked = robust(oracles.data("adapter_empty_blocks"), "score", ["form"], ["task", "task:seed"], permutations=99)
    assert blocked["form"].permutation_exact and blocked["form"].permutation_p == 1 / 100


@pytest.mark.parametrize(
    ("name", "response", "factors", "blocks", "interactions", "path"),
    [
        ("moore_unbalanced", "conformity", ["fcategory", "partner_status"], [], "all", ["hc3_type2"]),
        ("warpbreaks_balanced", "breaks", ["wool", "tension"], [], "all", ["hc3_type2"]),
        ("adapter_failed", "score", POSITIONS, ["task"], "none", ["additive", "hc3_type2"]),
        ("adapter_empty_blocks", "score", POSITIONS, ["task"], "none", ["additive", "hc3_type2"]),
    ],
)
def test_hc3_equals_r(name, response, factors, blocks, interactions, path):
    """car::Anova(type = 2, white.adjust = "hc3")."""
    known = oracles.expected(name)
    for key in path:
        known = known[key]
    found = robust(oracles.data(name), response, factors, blocks, interactions, permutations=99)
    checked = 0
    for theirs in known:
        if theirs["term"] != "Residuals" and theirs["term"] not in blocks:
            row = found[theirs["term"]]
            assert row.df == theirs["Df"]
            assert [row.hc3_F, row.hc3_p] == pytest.approx([theirs["F"], theirs["Pr(>F)"]], rel=1e-8)
            checked += 1
    assert checked == len(found.terms)


def test_hc3_of_an_interaction_with_empty_cells_equals_statsmodels_in_a_full_rank_basis(failed):
    frame = oracles.data("adapter_failed").dropna(subset="score").reset_index(drop=True)

    def columns(*names):
        return pd.get_dummies(frame[list(names)].agg("-".join, axis=1)).to_numpy(dtype=float)

    others = [columns("task"), columns("in_pos", "out_pos"), columns("out_pos", "form")]
    kept, small = np.ones((len(frame), 1)), 0
    for part in [*others, columns("in_pos", "form")]:
        small = kept.shape[1]
        for column in part.T:
            wider = np.column_stack([kept, column])
            kept = wider if np.linalg.matrix_rank(wider) == wider.shape[1] else kept
    fit = sm.OLS(frame["score"].to_numpy(), kept).fit(cov_type="HC3", use_t=True)
    theirs = fit.f_test(np.eye(kept.shape[1])[small:])
    row = failed["in_pos:form"]
    assert row.df == kept.shape[1] - small == 8
    assert row.hc3_F == pytest.approx(float(np.squeeze(theirs.fvalue)), rel=1e-7)
    assert row.hc3_p == pytest.approx(float(theirs.pvalue), rel=1e-6)


def test_a_row_that_decides_a_parameter_alone_has_no_hc3_where_it_matters():
    """Level a4 has one row: it says nothing of a's error; b is tested as if the row were not there (statsmodels)."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(list(product(["a1", "a2", "a3"], ["b1", "b2"], range(4))), columns=["a", "b", "k"])
    frame = pd.concat([frame, pd.DataFrame({"a": ["a4"], "b": ["b1"], "k": [0]})], ignore_index=True)
    frame["y"] = rng.normal(size=len(frame))
    found = robust(frame, "y", ["a", "b"], permutations=99)
    assert found["a"].hc3_F is None and "leverage 1" in found["a"].reasons[0]
    assert "leverage 1" in found.explain() and found["a"].permutation_p is not None
    without = smf.ols("y ~ a + b", frame[frame["a"] != "a4"]).fit(cov_type="HC3", use_t=True)
    assert found["b"].hc3_F == pytest.approx(without.tvalues["b[T.b2]"] ** 2, rel=1e-8)


def _aligned_by_hand(frame, factors):
    """Wobbrock et al. 2011, balanced cells: residual + effect by inclusion and exclusion of means, ranks, ANOVA."""
    residual = frame["y"] - frame.groupby([*factors])["y"].transform("mean")
    found = {}
    formula = "*".join(f"C({f}, Sum)" for f in factors)
    for size in range(1, len(factors) + 1):
        for term in [t for t in product([0, 1], repeat=len(factors)) if sum(t) == size]:
            own = [f for f, used in zip(factors, term, strict=True) if used]
            effect = 0
            for inside in product([0, 1], repeat=len(own)):
                chosen = [f for f, used in zip(own, inside, strict=True) if used]
                mean = frame.groupby(chosen)["y"].transform("mean") if chosen else frame["y"].mean()
                effect = effect + (-1) ** (len(own) - len(chosen)) * mean
            ranks = stats.rankdata(np.round(residual + effect, 9))
            table = anova_lm(smf.ols(f"r ~ {formula}", frame.assign(r=ranks)).fit(), typ=2)
            row = table.loc[":".join(f"C({f}, Sum)" for f in own)]
            found[":".join(own)] = (row["F"], row["PR(>F)"])
    return found


@pytest.mark.parametrize("factors", [["a", "b"], ["a", "b", "c"]])
def test_aligned_ranks_equal_their_definition(factors):
    rng = np.random.default_rng(6)
    frame = pd.DataFrame(list(product("pq", "rst", "uv", range(3))), columns=["a", "b", "c", "k"])
    frame["y"] = rng.standard_t(2, size=len(frame)) + (frame["a"] == "q") * (frame["b"] == "s") * 3
    by_hand = _aligned_by_hand(frame, factors)
    found = robust(frame, "y", factors, interactions="all", permutations=99)
    for row in found.terms:
        assert [row.ranks_F, row.ranks_p] == pytest.approx(by_hand[row.term], rel=1e-8)
        assert row.ranks_df_error == 36 - int(np.prod([{"a": 2, "b": 3, "c": 2}[f] for f in factors]))


def test_aligned_ranks_take_blocks_out():
    """Blocks as far apart as may be leave the test as it is."""
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(list(product("pq", "rst", "uvwxyz")), columns=["a", "b", "task"])
    frame["y"] = rng.normal(size=len(frame))
    far = frame.assign(y=frame["y"] + 1000 * frame["task"].map("uvwxyz".index))
    one = robust(frame, "y", ["a", "b"], ["task"], "all", permutations=99)
    two = robust(far, "y", ["a", "b"], ["task"], "all", permutations=99)
    for term in ("a", "b", "a:b"):
        assert one[term].ranks_F == pytest.approx(two[term].ranks_F, rel=1e-9)
        assert one[term].ranks_df_error == 36 - 6 - 5


def test_aligned_ranks_are_refused_where_they_mean_nothing(failed):
    assert all(row.ranks_F is None for row in failed.terms)
    assert "31 of 75 have no response" in failed.explain()
    assert "two or three crossed factors, not 1" in robust(oracles.data("plantgrowth_oneway"), "weight", ["group"],
                                                            permutations=99).explain()  # fmt: skip
    frame = oracles.data("npk_blocks").assign(Z=lambda d: d["N"])
    four = robust(frame, "yield", ["N", "P", "K", "block"], permutations=99)
    assert "not 4" in four.explain()


def test_the_ordinary_f_stands_beside_and_agreement_is_said_with_numbers():
    """Moore: R's Type II p of the interaction is .0226, with HC3 .0712."""
    found = robust(oracles.data("moore_unbalanced"), "conformity", ["fcategory", "partner_status"], [], "all")
    known = {row["term"]: row["Pr(>F)"] for row in oracles.expected("moore_unbalanced")["type2"]}
    for row in found.terms:
        assert row.p == pytest.approx(known[row.term], rel=1e-8)
    assert [row.agree for row in found.terms] == [True, True, False]
    assert found.agreement.startswith(
        "The robust versions disagree with the F test at 0.05 on fcategory:partner_status"
    )
    assert "F p = .0226" in found.agreement and "HC3 p = .0712" in found.agreement
    assert "they agree on fcategory (F p = .7596" in found.agreement
    warp = robust(oracles.data("warpbreaks_balanced"), "breaks", ["wool", "tension"], [], "all")
    assert warp.agreement.startswith("The robust versions agree with the F test at 0.05: wool (F p = .0582")


def test_what_cannot_be_tested_is_none_and_said():
    between = pd.DataFrame({"task": list("uuvvwwxx"), "a": list("pppp") + list("qqqq"), "y": range(8)})
    between["y"] = between["y"] ** 1.5
    found = robust(between.assign(b=list("mnmnmnmn")), "y", ["a", "b"], ["task"], permutations=99)
    assert found["a"].permutation_p is None and found["a"].F is None
    assert "cannot be told apart" in found.explain()
    exact = pd.DataFrame({"a": list("ppqq"), "y": [1.0, 1.0, 2.0, 2.0]})
    assert robust(exact, "y", ["a"])["a"].tests == {}
    assert "cannot be said" in robust(exact, "y", ["a"]).agreement


def test_with_few_arrangements_it_is_said_that_permuting_cannot_decide():
    frame = pd.DataFrame({"task": list("uuvv"), "a": list("pqpq"), "y": [1.0, 2.1, 3.0, 4.4]})
    found = robust(frame, "y", ["a"], ["task"])
    assert found["a"].arrangements == 4 and found["a"].permutation_p == 0.5
    assert "smallest possible p is 0.25" in found.explain()


def test_results_are_plain_and_repeatable(failed):
    again = robust(oracles.data("adapter_failed"), "score", POSITIONS, ["task"], "all", permutations=199)
    other = robust(oracles.data("adapter_failed"), "score", POSITIONS, ["task"], "all", permutations=199, seed=1)
    ps = [[row.permutation_p for row in r.terms] for r in (failed, again, other)]
    assert ps[0] == ps[1] != ps[2]
    assert json.loads(json.dumps(failed.to_dict(), allow_nan=False))["n_missing"] == 45
    assert failed.to_frame()["ranks_F"].isna().all() and "in_pos" in failed.to_markdown()
    assert "45 rows without a score" in failed.explain()


def test_too_few_permutations_are_refused():
    with pytest.raises(InputFault, match="99"):
        robust(oracles.data("plantgrowth_oneway"), "weight", ["group"], permutations=20)


def _rates(make, studies, seed, **model):
    """Share of studies without an effect in which each test finds one."""
    rng = np.random.default_rng(seed)
    hits = {"F": 0, "HC3": 0, "permutation": 0}
    for _ in range(studies):
        tests = robust(make(rng), "y", ["a"], permutations=99, seed=int(rng.integers(1 << 30)), **model)["a"].tests
        for name in hits:
            hits[name] += tests[name] < 0.05 + 1e-9
    return {name: count / studies for name, count in hits.items()}


def test_hc3_keeps_its_level_where_small_groups_vary_more_and_f_does_not():
    def make(rng):
        n = {"p": 8, "q": 40, "r": 40}
        return pd.DataFrame(
            {"a": np.repeat(list(n), list(n.values())),
             "y": np.concatenate([rng.normal(0, 4 if k == "p" else 1, size) for k, size in n.items()])}
        )  # fmt: skip

    found = _rates(make, 200, 8)
    assert found["F"] > 0.2 and found["permutation"] > 0.2  # many times what they promise, as explain() says
    assert found["HC3"] < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200) + 0.015  # its own small-sample excess is below 1.5 %


def test_the_permutation_test_keeps_its_level_with_heavy_tails_within_tasks():
    def make(rng):
        frame = pd.DataFrame(list(product("uvwxy", "pqr", "kl")), columns=["task", "a", "seed"])
        return frame.assign(y=rng.standard_cauchy(len(frame)) + frame["task"].map("uvwxy".index) * 100)

    found = _rates(make, 200, 9, blocks=["task"])
    # 99 arrangements of exchangeable errors: exactly .05
    assert abs(found["permutation"] - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 200)


def test_friedman_equals_r():
    known = oracles.expected("adapter_friedman_race")
    found = friedman(oracles.data("adapter_empty_blocks"), "score", POSITIONS, ["task", "task:seed"])
    assert [found.statistic, found.df, found.p] == pytest.approx(known["friedman"], rel=1e-9)
    assert [found.W, found.blocks] == pytest.approx([known["kendall_W"], 12], rel=1e-10)
    sums = {name.replace(":", " "): rank * 12 for name, rank in found.ranks}
    assert sums == pytest.approx({row["cfg"]: row["rank_sum"] for row in known["rank_sums"]}, rel=1e-12)
    assert found.ranks[0][0] == "I2:O2:gated"
    # Iman & Davenport 1980, equation 3.2
    f = 11 * found.statistic / (12 * 44 - found.statistic)
    assert [found.F, found.p_F] == pytest.approx([f, stats.f.sf(f, 44, 44 * 11)], rel=1e-9)
    assert "Kendall's W = 0.44" in found.explain()


def test_friedman_leaves_out_and_names_incomplete_blocks():
    frame = pd.DataFrame(list(product("uvwx", "pqr")), columns=["task", "a"])
    frame["y"] = [1, 2, 3, 1, 3, 2, 1, 2, 3, 5, 4, 3.0]
    frame.loc[11, "y"] = np.nan
    found = friedman(frame, "y", "a", "task")
    theirs = stats.friedmanchisquare(*frame["y"].to_numpy().reshape(4, 3)[:3].T)
    assert found.statistic == pytest.approx(theirs.statistic) and found.left_out == ("x",)
    assert "left out" in found.explain() and "x" in found.explain()
    same = friedman(frame[frame["task"] != "v"], "y", "a", "task")
    assert abs(same.W - 1) < 1e-12 and same.F is None and "rank alike" in same.explain()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d[d["a"] != "p"], "three designs"),
        (lambda d: d[d["task"] == "u"], "two complete blocks"),
        (lambda d: d.assign(y=1.0), "nothing to rank"),
    ],
)
def test_friedman_refuses_what_it_cannot_rank(change, match):
    frame = pd.DataFrame(list(product("uvw", "pqr")), columns=["task", "a"]).assign(y=np.arange(9.0))
    with pytest.raises(InputFault, match=match):
        friedman(change(frame), "y", "a", "task")
    with pytest.raises(InputFault, match="name at least one"):
        friedman(frame, "y", "a", [])
