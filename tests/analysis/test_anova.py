"""The table against R, NIST, statsmodels and closed forms."""

import json
import time

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import f as f_distribution
from scipy.stats import ncf
from statsmodels.stats.anova import anova_lm

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis import anova

POSITIONS = ["in_pos", "out_pos", "form"]
# name, response, factors, blocks, interactions, type, key of R's table
CASES = [
    ("adapter_failed", "score", POSITIONS, ["task"], "all", 2, "type2_car"),
    ("adapter_failed", "score", POSITIONS, ["task"], "all", 1, "type1"),
    ("adapter_empty_blocks", "score", POSITIONS, ["task"], "all", 2, "type2_car"),
    ("statsmodels_breaker", "y", ["a", "b", "f"], ["t"], ["a:b"], 2, "type2"),
    ("statsmodels_breaker", "y", ["a", "b", "f"], ["t"], ["a:b"], 1, "type1"),
    ("npk_blocks", "yield", ["N", "P", "K"], ["block"], "all", 1, "fixed_block_type1"),
    ("nutrition_empty", "gain", ["age", "group", "race"], [], "all", 2, "type2_car"),
    ("moore_unbalanced", "conformity", ["fcategory", "partner_status"], [], "all", 2, "type2"),
    ("moore_unbalanced", "conformity", ["fcategory", "partner_status"], [], "all", 3, "type3"),
    ("moore_unbalanced", "conformity", ["partner_status", "fcategory"], [], "all", 1, "type1_order_partner_first"),
    ("warpbreaks_balanced", "breaks", ["wool", "tension"], [], "all", 2, "type2"),
    ("warpbreaks_balanced", "breaks", ["wool", "tension"], [], "all", 3, "type3"),
    ("obrienkaiser_between", "value", ["treatment", "gender"], [], "all", 2, "type2"),
    ("obrienkaiser_between", "value", ["treatment", "gender"], [], "all", 3, "type3"),
]


@pytest.mark.parametrize(("name", "response", "factors", "blocks", "interactions", "type", "key"), CASES)
def test_the_table_equals_r(name, response, factors, blocks, interactions, type, key):
    table = anova(oracles.data(name), response, factors, blocks, interactions, type, "residual")
    rows = [row for row in oracles.expected(name)[key] if row["term"] != "(Intercept)"]
    residual = rows.pop()
    assert table.residual["df"] == residual["Df"]
    assert table.residual["sum_sq"] == pytest.approx(residual["Sum Sq"], rel=1e-9)
    assert len(table.terms) == len(rows)
    for row in rows:
        swapped = ":".join(reversed(row["term"].split(":")))
        term = table[row["term"] if row["term"] in [t.term for t in table.terms] else swapped]
        f = next(row[k] for k in ("F value", "F values") if k in row)
        assert term.df == row["Df"]
        assert (term.sum_sq, term.F, term.p) == pytest.approx((row["Sum Sq"], f, row["Pr(>F)"]), rel=1e-9)


def _equal(table, rows):
    for row in rows[:-1]:
        term = next(t for t in table.terms if set(t.term.split(":")) == set(row["term"].split(":")))
        assert term.df == row["Df"]
        if term.df:
            assert (term.sum_sq, term.F) == pytest.approx((row["Sum Sq"], row["F value"]), rel=1e-9)
    assert table.residual["df"] == rows[-1]["Df"]


@pytest.mark.parametrize("name", ["adapter_failed", "adapter_empty_blocks"])
def test_three_way_interactions_equal_car(name):
    known = oracles.expected(name)["three_way"]["type2"]
    crossed = ["in_pos:out_pos", "in_pos:form", "out_pos:form", "in_pos:out_pos:form"]
    _equal(anova(oracles.data(name), "score", POSITIONS, ["task"], crossed, error="residual"), known)


def test_an_interaction_confounded_with_blocks_has_no_df_and_blocks_lose_theirs():
    """npk: N:P:K is confounded with blocks, so that car gives it 0 df and blocks 4 of 5."""
    crossed = ["N:P", "N:K", "P:K", "N:P:K"]
    table = anova(oracles.data("npk_blocks"), "yield", ["N", "P", "K"], ["block"], crossed)
    assert (table["N:P:K"].df, table["N:P:K"].p) == (0, None)
    _equal(table, oracles.expected("npk_blocks")["fixed_block_type2"])


def test_estimable_and_nominal_df_and_the_empty_cells_are_named():
    table = anova(oracles.data("statsmodels_breaker"), "y", ["a", "b", "f"], ["t"], ["a:b"])
    term = table["a:b"]
    assert (term.df, term.df_nominal, term.estimable) == (3, 9, False)
    assert sorted(term.aliased) == sorted(f"a=a{i}:b=b{j}" for i in range(4) for j in range(4) if j < i)
    assert table["a"].estimable and table["a"].aliased == ()


def _lre(ours: float, certified: str) -> float:
    """Correct digits: −log10 of the relative error."""
    off = abs(ours / float(certified) - 1)
    return 16.0 if off == 0 else -np.log10(off)


NAMES = ["AtmWtAg", "SiRstv", *(f"SmLs0{k}" for k in range(1, 10))]


@pytest.mark.parametrize("name", NAMES)
def test_nist_certified_values_to_the_ceiling_of_float64(name):
    if not (oracles.NIST / "nist").is_dir():
        pytest.skip(f"the NIST data sets are not at {oracles.NIST / 'nist'}")
    known = json.loads((oracles.NIST / "nist_certified.json").read_text())["datasets"][name]
    table = anova(pd.read_csv(oracles.NIST / "nist" / f"{name}.csv"), "y", ["group"])
    assert (table["group"].df, table.residual["df"]) == (known["between"]["df"], known["within"]["df"])
    # What the best two-pass formula reaches on data rounded to float64; at 12 digits and more rounding is luck.
    ceiling = min(12.5, known["observed_LRE"]["centered_two_pass"] - 0.1)
    assert _lre(table["group"].F, known["F"]) >= ceiling
    assert _lre(table["group"].sum_sq, known["between"]["ss"]) >= min(ceiling, 12.5) - 0.7
    assert _lre(table.residual["sum_sq"], known["within"]["ss"]) >= min(ceiling, 12.5) - 0.7


def test_statsmodels_agrees_where_it_is_right():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [(a, b, c) for a in "xyz" for b in "uv" for c in "pqrs" for _ in range(3)], columns=list("abc")
    )
    frame["y"] = rng.normal(size=len(frame)) + frame["a"].map({"x": 0, "y": 1, "z": 2})
    table = anova(frame, "y", ["a", "b", "c"], interactions="all")
    theirs = anova_lm(smf.ols("y ~ (a + b + c)**2", frame).fit(), typ=2)
    for term in table.terms:
        row = theirs.loc[term.term]
        assert (term.df, term.sum_sq, term.F) == pytest.approx((row["df"], row["sum_sq"], row["F"]), rel=1e-10)


def test_the_published_heat_map():
    """F of the published cells, recomputed by others from less rounded values (their printed digits, so 2 %)."""
    frame = oracles.published()
    one_way = anova(frame, "score", ["input"])["input"]
    assert (one_way.df, one_way.error.df) == (9, 10)
    assert (one_way.F, one_way.p) == (pytest.approx(12.0, rel=0.02), pytest.approx(2.9e-4, rel=0.06))
    out = anova(frame, "score", ["output"])["output"]
    assert (out.df, out.error.df, out.F, out.p) == (6, 13, pytest.approx(0.77, abs=5e-3), pytest.approx(0.60, abs=0.01))
    inside = frame[~frame["input"].isin(["CA_c", "Res_in", "Res_out"])]
    table = anova(inside, "score", ["input", "output"])
    assert (table["input"].df, table["output"].df, table.residual["df"]) == (6, 3, 6)
    read, written = table["input"], table["output"]
    assert (read.F, read.p) == (pytest.approx(11.7, rel=0.02), pytest.approx(0.0043, rel=0.06))
    assert (written.F, written.p) == (pytest.approx(0.79, abs=5e-3), pytest.approx(0.54, abs=5e-3))


def _paper_design(rng: np.random.Generator, tasks: int = 3, seeds: int = 2) -> pd.DataFrame:
    rows = [(i, o, f"t{t}", s) for i, o in PAIRS for t in range(tasks) for s in range(seeds)]
    return pd.DataFrame(rows, columns=["input", "output", "task", "seed"]).assign(y=rng.normal(size=len(rows)))


def test_the_pair_is_split_by_component():
    table = anova(
        _paper_design(np.random.default_rng(0)), "y", ["pair"], ["task", "task:seed"], error="residual",
        pair=("input", "output"),
    )  # fmt: skip
    assert [(r.term, r.role, r.df) for r in table.terms] == [
        ("task", "block", 2), ("task:seed", "block", 3), ("pair", "factor", 19), ("component", "component", 2),
        ("input", "factor", 7), ("output", "factor", 4), ("input:output", "interaction", 6),
    ]  # fmt: skip
    assert (table["input"].df_nominal, table["output"].df_nominal, table["input:output"].df_nominal) == (9, 6, 54)
    assert len(table["input"].aliased) == 2 and len(table["input:output"].aliased) == 48
    assert table.residual["df"] == 120 - 1 - 2 - 3 - 19
    groups = table.components[0]["components"]
    assert [g["cells"] for g in groups] == [16, 3, 1]
    assert "transformer" in groups[0]["name"] and "ResNet" in groups[1]["name"] and "context" in groups[2]["name"]


def test_pair_and_component_rows_equal_one_way_sums_of_squares():
    """Balanced and with blocks orthogonal to the pairs, both are the between-groups sums of squares by hand."""
    frame = _paper_design(np.random.default_rng(1))
    frame["family"] = ["c" if i == "CA_c" else "r" if i.startswith("Res") else "t" for i in frame["input"]]
    table = anova(frame, "y", [], ["task", "task:seed"], pair=("input", "output"))
    for row, by in (("pair", ["input", "output"]), ("component", ["family"])):
        groups = frame.groupby(by)["y"]
        by_hand = (groups.count() * (groups.mean() - frame["y"].mean()) ** 2).sum()
        assert table[row].sum_sq == pytest.approx(by_hand, rel=1e-10)
    # Components contain no position contrast, so the parts add up once each is adjusted for the ones before it.
    first = anova(
        frame, "y", ["input", "output"], ["task", "task:seed"], ["input:output"], type=1, error="residual"
    )
    parts = [first[t].sum_sq for t in ("input", "output", "input:output")]
    assert sum(parts) == pytest.approx(table["pair"].sum_sq, rel=1e-10)


def test_the_component_row_comes_without_asking_where_cells_fall_apart():
    table = anova(_paper_design(np.random.default_rng(2)), "y", ["input", "output"], ["task"])
    assert table["component"].df == 2 and table["input"].df == 7
    connected = anova(oracles.data("adapter_failed"), "score", POSITIONS)
    assert "component" not in [r.term for r in connected.terms]
    assert [c["count"] for c in connected.components] == [1]


def test_a_factor_tied_to_the_component_has_no_df_of_its_own():
    frame = _paper_design(np.random.default_rng(2))
    frame["form"] = np.where(frame["input"].str.startswith("Res"), "convolution", "bottleneck")
    form = anova(frame, "y", ["input", "output", "form"], ["task"])["form"]
    assert (form.df, form.df_nominal, form.F, form.p, form.estimable) == (0, 1, None, None, False)
    assert form.aliased == ("form=convolution",)


PAIR_TERMS = ("pair", "component", "input", "output", "input:output")


def _share_below(base: pd.DataFrame, mean: np.ndarray, runs: int, rng: np.random.Generator) -> dict[str, float]:
    """Share of simulated studies in which each term of the pair's split has p < 5 %."""
    block = base.groupby(["task", "seed"]).ngroup().to_numpy()
    below = dict.fromkeys(PAIR_TERMS, 0)
    for _ in range(runs):
        y = mean + rng.normal(size=len(base)) + 3 * rng.normal(size=block.max() + 1)[block]
        table = anova(
            base.assign(y=y), "y", [], ["task", "task:seed"], error="residual", pair=("input", "output")
        )
        for term in below:
            p = table[term].p
            assert p is not None
            below[term] += p < 0.05
    return {term: count / runs for term, count in below.items()}


def test_without_an_effect_five_percent_of_studies_are_called_significant():
    """Null studies of the paper's 20 pairs with block effects; bound: three binomial standard errors around 5 %."""
    rng = np.random.default_rng(7)
    base, runs = _paper_design(rng, tasks=2), 200
    shares = _share_below(base, np.zeros(len(base)), runs, rng)
    assert all(abs(share - 0.05) < 3 * np.sqrt(0.05 * 0.95 / runs) for share in shares.values()), shares


def test_the_power_is_the_noncentral_f_s():
    """An input effect of known size: rejections of `pair` and `input` as their noncentral F says, `output` at 5 %."""
    rng = np.random.default_rng(8)
    base, runs = _paper_design(rng, tasks=2), 100
    mean = 1.2 * (base["input"] == "CA_out").to_numpy()
    residual = 80 - 1 - 1 - 2 - 19
    shares = _share_below(base, mean, runs, rng)
    # λ: the sum of squares the term has when there is no noise (σ = 1), by projections on indicator columns.
    of_output = pd.get_dummies(base["output"]).to_numpy(float)
    left = mean - of_output @ np.linalg.lstsq(of_output, mean, rcond=None)[0]
    centred = mean - mean.mean()
    for term, df, noncentrality in (("pair", 19, centred @ centred), ("input", 7, left @ left), ("output", 4, 0.0)):
        critical = f_distribution.ppf(0.95, df, residual)
        power = ncf.sf(critical, df, residual, noncentrality) if noncentrality else 0.05
        assert abs(shares[term] - power) < 3 * np.sqrt(power * (1 - power) / runs), (term, shares[term], power)


def test_order_of_rows_columns_and_names_of_levels_do_not_matter():
    frame = oracles.data("adapter_failed")
    shuffled = frame.sample(frac=1, random_state=1)
    shuffled["form"] = shuffled["form"].map({"linear": 2.5, "mlp": 10.0, "gated": 1.0})
    one = anova(frame, "score", POSITIONS, ["task"], "all")
    two = anova(shuffled, "score", ["form", "out_pos", "in_pos"], ["task"], "all")
    pairs = [("form", "form"), ("in_pos:out_pos", "out_pos:in_pos"), ("in_pos:form", "form:in_pos")]
    for a, b in pairs:
        assert (one[a].df, one[a].sum_sq, one[a].p) == pytest.approx((two[b].df, two[b].sum_sq, two[b].p), rel=1e-10)


def test_blocks_may_be_nested_with_names_of_their_own():
    """Seeds 0, 1 in each task, or named apart: the same space, so the same table."""
    frame = _paper_design(np.random.default_rng(5))
    apart = frame.assign(seed=frame["task"] + "/" + frame["seed"].astype(str))
    one = anova(frame, "y", ["input"], ["task", "task:seed"])
    two = anova(apart, "y", ["input"], ["task", "task:seed"])
    assert one["task:seed"].df == one["task:seed"].df_nominal == two["task:seed"].df == two["task:seed"].df_nominal == 3
    assert two["task:seed"].sum_sq == pytest.approx(one["task:seed"].sum_sq, rel=1e-12)


def test_json_has_the_documented_names_and_null_for_what_cannot_be_tested():
    table = anova(oracles.published(), "score", ["input", "output"], interactions="all")
    document = json.loads(table.to_json())
    assert list(document) == [
        "response", "n", "n_missing", "type", "error", "question", "terms", "residual", "components", "notes", "ci",
    ]  # fmt: skip
    names = [
        "term", "role", "df", "df_nominal", "sum_sq", "mean_sq", "F", "p", "p_conservative", "epsilon", "error",
        "partial_eta_sq", "partial_eta_sq_ci", "omega_sq", "epsilon_sq", "estimable", "aliased",
    ]  # fmt: skip
    for term in document["terms"]:
        assert list(term) == names
        assert list(term["error"]) == ["term", "df", "mean_sq", "approximate"]
        assert term["F"] is None and term["p"] is None and term["partial_eta_sq_ci"] is None
    assert document["residual"] == {"df": 0, "sum_sq": 0.0}
    assert any("no residual" in note for note in document["notes"])
    assert list(table.to_frame().columns) == names
    assert "cannot be tested" in table.explain()


def test_rows_without_a_response_are_counted():
    table = anova(oracles.data("adapter_failed"), "score", POSITIONS)
    assert (table.n, table.n_missing) == (495, 45)


def test_the_question_says_what_the_answer_holds_for():
    table = anova(oracles.data("adapter_failed"), "score", ["form"], ["task"], error="residual")
    assert table.error == "residual"
    assert "these 4 tasks" in table.question and "not on new tasks" in table.question
    table = anova(oracles.data("adapter_failed"), "score", ["form"], ["task"])
    assert table.error == "task" and "new levels of task" in table.question
    assert any("--error residual answers for these tasks" in note for note in table.notes)
    one = anova(oracles.data("moore_unbalanced"), "conformity", ["fcategory"])
    assert one.error == "residual" and "task" not in one.question


def test_a_response_without_noise_or_spread_gives_no_f():
    frame = pd.DataFrame({"a": list("xxyy"), "y": [1e6 + 0.1] * 2 + [1e6 + 0.2] * 2, "z": [3.0] * 4})
    for response in ("y", "z"):
        table = anova(frame, response, ["a"])
        assert table["a"].F is None and table["a"].p is None
        assert any("no residual to test" in note for note in table.notes)


def test_a_factor_of_one_level_is_said_and_not_tested():
    table = anova(oracles.data("adapter_failed").assign(scale=1), "score", ["form", "scale"])
    assert (table["scale"].df, table["scale"].p) == (0, None)
    assert any("scale has the single level '1'" in note for note in table.notes)


FAULTS = [
    ({"response": "nope", "factors": ["form"]}, "no column 'nope'"),
    ({"response": "status", "factors": ["form"]}, "holds text"),
    ({"response": "score", "factors": ["form", "nope"]}, "no column 'nope'"),
    ({"response": "score", "factors": []}, "No factor"),
    ({"response": "score", "factors": ["score"]}, "cannot be a factor"),
    ({"response": "score", "factors": ["form", "form"]}, "named twice"),
    ({"response": "score", "factors": ["form"], "blocks": ["form:task"]}, "is a factor already"),
    ({"response": "score", "factors": ["form"], "blocks": ["task", "task"]}, "named twice"),
    ({"response": "score", "factors": ["form", "in_pos"], "interactions": ["form:task"]}, "different factors"),
    ({"response": "score", "factors": ["form"], "type": 4}, "1, 2 or 3"),
    ({"response": "score", "factors": ["form"], "blocks": ["task"], "type": 3}, "Type III is offered"),
    ({"response": "score", "factors": ["form"], "nested": {"nope": "form"}}, "cannot be nested"),
    ({"response": "score", "factors": ["form"], "error": "nope"}, "nor a declared block"),
    ({"response": "score", "factors": POSITIONS, "interactions": "all", "type": 3}, "Type III"),
    ({"response": "score", "factors": ["hole"]}, "no value"),
    ({"response": "infinite", "factors": ["form"]}, "infinite"),
    ({"response": "empty", "factors": ["form"]}, "no value in any"),
]


@pytest.mark.parametrize(("call", "words"), FAULTS)
def test_wrong_calls_say_what_is_wrong(call, words):
    frame = oracles.data("adapter_failed")
    frame = frame.assign(hole=[None, *["x"] * (len(frame) - 1)], empty=np.nan, infinite=np.inf)
    with pytest.raises(InputFault, match=words):
        anova(frame, **call)


def test_fewer_rows_than_parameters():
    frame = pd.DataFrame({"a": list("xyz"), "b": list("uvw"), "y": [1.0, 2.0, 4.0]})
    with pytest.raises(InputFault, match="3 rows with a y are fewer than the model's 5 parameters"):
        anova(frame, "y", ["a", "b"])


def test_twenty_thousand_rows_in_seconds():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 20, (20_000, 2)), columns=["a", "b"]).assign(y=rng.normal(size=20_000))
    start = time.perf_counter()
    table = anova(frame, "y", ["a", "b"], interactions="all")
    assert time.perf_counter() - start < 5  # 0.1 s on an idle core; the bound allows for a busy machine
    assert table.residual["df"] == 20_000 - 400
