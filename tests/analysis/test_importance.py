"""Dominance shares against orderings done by hand, closed forms, refits of copied rows, and simulations."""

import json
from itertools import permutations

import numpy as np
import oracles
import pandas as pd
import pytest
from matplotlib.figure import Figure
from statsmodels.formula.api import ols

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.dominance import Resampled, average_gain, explained, subsets
from analysis.importance_shares import importance
from analysis.model import Design
from analysis.resampling import all_rows, units
from analysis.sample import read_sample

TRANSFORMER = "the transformer positions"
FAILED = oracles.data("adapter_failed")


def _r_sq(frame: pd.DataFrame, response: str, factors: list[str], blocks: list[str]) -> float:
    """R² within blocks by dense dummy columns and numpy's least squares: nothing of the package is used."""

    def rest(columns: list[str]) -> float:
        dummies = [pd.get_dummies(frame[c].astype(str)).to_numpy(float) for c in columns]
        x = np.hstack([np.ones((len(frame), 1)), *dummies])
        y = frame[response].to_numpy()
        return float(np.square(y - x @ np.linalg.lstsq(x, y, rcond=1e-10)[0]).sum())

    return 1 - rest([*blocks, *factors]) / rest(blocks)


def _by_orderings(frame: pd.DataFrame, response: str, factors: list[str], blocks: list[str]) -> dict[str, float]:
    """Each factor's gain in R² averaged over all orderings written out (relaimpo's definition of lmg)."""
    gains = {f: [] for f in factors}
    for order in permutations(factors):
        for k, factor in enumerate(order):
            before, after = list(order[:k]), list(order[: k + 1])
            gains[factor].append(_r_sq(frame, response, after, blocks) - _r_sq(frame, response, before, blocks))
    return {f: float(np.mean(g)) for f, g in gains.items()}


def test_average_gain_is_the_mean_over_orderings_of_any_set_function():
    names, rng = ["a", "b", "c", "d"], np.random.default_rng(0)
    value = {s: rng.normal() for s in subsets(names)}
    orders = list(permutations(names))
    by_hand = [
        np.mean([value[frozenset(o[: o.index(n) + 1])] - value[frozenset(o[: o.index(n)])] for o in orders])
        for n in names
    ]
    assert average_gain(value, names) == pytest.approx(by_hand, rel=1e-12)


def test_orthogonal_factors_have_their_part_of_the_sums_of_squares():
    """Balanced two-way data (warpbreaks): R's sequential sums of squares are those of either order."""
    known = {row["term"]: row["Sum Sq"] for row in oracles.expected("warpbreaks_balanced")["type1"]}
    found = importance(oracles.data("warpbreaks_balanced"), "breaks", ["wool", "tension"], []).components[0]
    both = known["wool"] + known["tension"]
    assert found["wool"].share == pytest.approx(known["wool"] / both, rel=1e-10)
    assert found["tension"].share == pytest.approx(known["tension"] / both, rel=1e-10)


def test_two_factors_that_are_not_orthogonal_are_the_mean_of_both_orders():
    """statsmodels' sums of squares of the two orders, on the 16 transformer cells (full rank there)."""
    cells = oracles.published().query("input not in ['CA_c', 'Res_in', 'Res_out']")

    def rest(formula: str) -> float:
        return float(ols(f"score ~ {formula}", cells).fit().ssr)

    total, both = rest("1"), rest("C(input) + C(output)")
    by_hand = ((total - rest("C(input)")) + (rest("C(output)") - both)) / 2 / total
    found = importance(oracles.published(), "score", ["input", "output"], [], ("input", "output")).components[0]
    assert found.component == TRANSFORMER
    assert found["input"].of_within == pytest.approx(by_hand, rel=1e-10)
    assert found["output"].of_within == pytest.approx(1 - both / total - by_hand, rel=1e-10)


def test_three_factors_with_empty_cells_failed_runs_and_blocks_equal_orderings_by_numpy():
    factors = ["in_pos", "out_pos", "form"]
    part = importance(FAILED, "score", factors, ["task"], draws=50).components[0]
    by_hand = _by_orderings(FAILED[FAILED["score"].notna()], "score", factors, ["task"])
    assert {f.factor: f.of_within for f in part.factors} == pytest.approx(by_hand, rel=1e-9)
    assert part.r_sq == pytest.approx(sum(by_hand.values()), rel=1e-10)
    assert sum(f.share for f in part.factors) == pytest.approx(1, rel=1e-12)


def test_the_order_in_which_factors_are_named_does_not_matter():
    once = importance(FAILED, "score", ["in_pos", "out_pos", "form"], ["task"], draws=200)
    again = importance(FAILED, "score", ["form", "out_pos", "in_pos"], ["task"], draws=200)
    for factor in ("in_pos", "out_pos", "form"):
        a, b = once.components[0][factor], again.components[0][factor]
        assert (a.share, a.corrected, *a.interval) == pytest.approx((b.share, b.corrected, *b.interval), rel=1e-9)


def test_omega_and_tests_are_those_of_the_anova_on_the_same_rows():
    part = importance(FAILED, "score", ["in_pos", "out_pos", "form"], ["task"], draws=50).components[0]
    table = anova(FAILED, "score", ["in_pos", "out_pos", "form"], ["task"])
    for row in part.factors:
        own = table[row.factor]
        assert (row.omega_sq, row.F, row.p) == (own.omega_sq, own.F, own.p_decisive)


@pytest.mark.parametrize("blocks", [["task"], ["task", "task:seed"], ["task", "seed"]])
def test_a_draw_is_the_fit_of_the_copied_rows_with_copies_as_tasks_of_their_own(blocks):
    """Products summed by weight against rows that are really copied, one block crossing the tasks included."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [(t, s, a, b) for t in "vwxyz" for s in range(3) for a in "abc" for b in "pq"],
        columns=["task", "seed", "a", "b"],
    )
    frame["y"] = rng.normal(size=len(frame)) + (frame["a"] == "a")
    frame = frame.sample(frac=0.8, random_state=1).reset_index(drop=True)
    weights = np.array([2, 0, 1, 1, 1])
    terms = [tuple(b.split(":")) for b in blocks]
    sample = read_sample(frame, "y", ["a", "b", "task", "seed"])
    drawn = units(sample, terms, ("task",))
    ours = Resampled(Design(sample), sample.y, ["a", "b"], terms, drawn).gains(weights[None].astype(float))[0]
    copies = [
        frame[frame["task"] == task].assign(task=f"{task}{copy}")
        for task, times in zip(sample.levels["task"], weights, strict=True)
        for copy in range(times)
    ]
    copied = pd.concat(copies, ignore_index=True)
    again = read_sample(copied, "y", ["a", "b", "task", "seed"])
    refit = average_gain(explained(Design(again), again.y, ["a", "b"], terms), ["a", "b"])
    assert ours == pytest.approx(refit, rel=1e-9)


def test_all_rows_as_one_unit_give_the_shares_of_the_sample():
    sample = read_sample(FAILED, "score", ["in_pos", "out_pos", "form", "task"])
    design, factors = Design(sample), ["in_pos", "out_pos", "form"]
    from_products = Resampled(design, sample.y, factors, [("task",)], all_rows(sample)).gains(np.ones((1, 1)))[0]
    fitted = average_gain(explained(design, sample.y, factors, [("task",)]), factors)
    assert from_products == pytest.approx(fitted, rel=1e-9)


def test_the_published_heat_map_is_read_within_components_and_its_one_way_tests_are_labelled():
    """F's recomputed on the 20 cells of arXiv 2303.18181, read off a figure to ±0.003 (so 2 % on F)."""
    found = importance(oracles.published(), "score", ["input", "output"], [], ("input", "output"))
    one_way = {o.factor: o for o in found.one_way}
    assert (one_way["input"].df, one_way["input"].df_error) == (9, 10)
    assert (one_way["output"].df, one_way["output"].df_error) == (6, 13)
    assert (pytest.approx(12.0, rel=0.02), pytest.approx(0.77, rel=0.02)) == (one_way["input"].F, one_way["output"].F)
    inside, resnet = found.components
    assert (inside.component, inside.n, resnet.n) == (TRANSFORMER, 16, 3)
    assert (inside["input"].df, inside["input"].df_error, inside["output"].df) == (6, 6, 3)
    assert (pytest.approx(11.7, rel=0.02), pytest.approx(0.79, rel=0.02)) == (inside["input"].F, inside["output"].F)
    # omega² = (F - 1)·d1/(F·d1 + d2 + 1)
    f = inside["input"].F
    assert inside["input"].omega_sq == pytest.approx((f - 1) * 6 / (f * 6 + 6 + 1), rel=1e-12)
    words = found.explain()
    assert "confounded: input F(9, 10) = 11.9, output F(6, 13) = 0.77" in words
    assert "No order of input, output is claimed, because task is in no block" in words
    assert "matters more" not in words
    assert "the text context has a single combination" in words
    assert resnet.r_sq == pytest.approx(1) and "as many parameters as rows" in " ".join(resnet.notes)


def _study(rng, tasks, a, b, by_task, residual, seeds=3):
    """Rows of a crossed design: effects of two factors, their variation by task, and noise."""
    y = a[None, :, None, None] + b[None, None, :, None] + rng.normal(size=(tasks, 1, 1, 1))
    y = y + by_task * rng.normal(size=(tasks, len(a), 1, 1)) + by_task * rng.normal(size=(tasks, 1, len(b), 1))
    y = y + residual * rng.normal(size=(tasks, len(a), len(b), seeds))
    index = pd.MultiIndex.from_product(
        [range(tasks), range(len(a)), range(len(b)), range(seeds)], names=["task", "a", "b", "seed"]
    )
    return pd.Series(y.ravel(), index=index, name="y").reset_index()


def test_no_order_is_claimed_of_factors_that_do_nothing_though_one_has_more_levels():
    """60 studies: the promised rate is below 2 %; quantiles of the plain shares would claim an order in most."""
    rng, claims, plain = np.random.default_rng(5), 0, 0
    for _ in range(60):
        frame = _study(rng, 5, np.zeros(8), np.zeros(2), 0.0, 0.6)
        found = importance(frame, "y", ["a", "b"], ["task"], draws=200)
        claims += found.components[0].differences[0].more is not None
        sample = read_sample(frame, "y", ["a", "b", "task"])
        drawn = units(sample, [("task",)], ("task",))
        gains = Resampled(Design(sample), sample.y, ["a", "b"], [("task",)], drawn).gains(drawn.weights(200, 0))
        low, high = np.quantile(gains[:, 0] - gains[:, 1], [0.025, 0.975])
        plain += low > 0 or high < 0
    assert claims <= 4  # 5 or more of 60 at a rate of 2 %: p = .01
    assert plain > 30


def test_known_importances_are_found_without_bias_and_the_order_is_named():
    """Truth: variance of a factor's effects over all variance within tasks; noise is a third of what is measured."""
    rng = np.random.default_rng(7)
    a, b = np.array([0.6, -0.2, -0.4, 0.0]), np.array([0.15, -0.15])
    by_task, residual, runs = 0.2, 0.6, 40
    noise = by_task**2 * (3 / 4 + 1 / 2) + residual**2 * (1 - 1 / 24)
    within = np.mean(a**2) + np.mean(b**2) + noise
    values, named, covered = [], 0, 0
    for _ in range(runs):
        part = importance(_study(rng, 8, a, b, by_task, residual), "y", ["a", "b"], ["task"], draws=200).components[0]
        values.append([part["a"].corrected, part["b"].corrected])
        low, high = part["a"].interval
        covered += low <= np.mean(a**2) / within <= high
        assert part.differences[0].more != "b"
        named += part.differences[0].more == "a"
    truth = np.array([np.mean(a**2), np.mean(b**2)]) / within
    error = np.std(values, axis=0) / np.sqrt(runs)
    assert (np.abs(np.mean(values, axis=0) - truth) < 4 * error + 0.005).all()
    assert covered >= 33  # nominal 95 %; 32 or fewer of 40: p < .001
    assert named >= 15


def test_the_order_is_named_in_words_only_where_the_interval_supports_it():
    rng = np.random.default_rng(2)
    clear = importance(_study(rng, 6, np.array([1.0, -1.0, 0]), np.zeros(2), 0.1, 0.3), "y", ["a", "b"], draws=300)
    assert clear.components[0].differences[0].more == "a"
    assert "a matters more than b" in clear.explain()
    open_ = importance(_study(rng, 6, np.array([0.3, -0.3]), np.array([0.3, -0.3]), 0.2, 0.3), "y", ["a", "b"])
    assert open_.components[0].differences[0].more is None
    assert "Between a and b no order can be claimed" in open_.explain()
    assert "matters more" not in open_.explain()


@pytest.mark.parametrize(
    ("tasks", "blocks", "said"),
    [
        (["v", "w"], ["task"], "there are 2 levels of task, fewer than 3"),
        (["v"], ["task"], "there is 1 level of task"),
        (["v", "w", "x"], [], "task is in no block"),
    ],
)
def test_without_three_tasks_there_is_no_interval_and_it_is_said(tasks, blocks, said):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(t, a, b) for t in tasks for a in "ab" for b in "pqr"] * 2, columns=["task", "a", "b"])
    found = importance(frame.assign(y=rng.normal(size=len(frame))), "y", ["a", "b"], blocks)
    part = found.components[0]
    assert part["a"].share is not None and part["a"].corrected is None and part["a"].interval is None
    assert part.differences == () and found.resampled is None
    assert said in found.explain()


def test_what_falls_apart_further_is_split_further():
    """a:b falls into two components, and within one of them a:c falls into two again."""
    cells = [("a1", "b1", "c1"), ("a2", "b1", "c1"), ("a2", "b2", "c1"), ("a3", "b2", "c2"), ("a4", "b2", "c2")]
    cells += [("a5", "b3", "c1"), ("a6", "b3", "c1"), ("a6", "b4", "c1")]
    frame = pd.DataFrame([(*cell, t) for cell in cells for t in "xyz"], columns=["a", "b", "c", "task"])
    frame["y"] = np.random.default_rng(0).normal(size=len(frame))
    parts = importance(frame, "y", ["a", "b", "c"], draws=50).components
    assert sorted(tuple(part["a"].levels) for part in parts) == [("a1", "a2"), ("a3", "a4"), ("a5", "a6")]
    assert parts[-1].constant == {"b": "b2", "c": "c2"}


def test_factors_that_cannot_be_told_apart_fully_are_named():
    """c is the sum of a and b: every pair is connected, but one direction is in all three."""
    rows = [(a, b, a + b, t) for a in range(3) for b in range(3) for t in "xyz"]
    frame = pd.DataFrame(rows, columns=["a", "b", "c", "task"])
    frame["y"] = frame["a"] + np.random.default_rng(0).normal(size=len(frame))
    part = importance(frame, "y", ["a", "b", "c"], draws=50).components[0]
    assert any("determine 7 of the 8 degrees of freedom" in note for note in part.notes)
    by_hand = _by_orderings(frame, "y", ["a", "b", "c"], ["task"])
    assert {f.factor: f.of_within for f in part.factors} == pytest.approx(by_hand, rel=1e-9)


def test_a_response_that_does_not_vary_within_blocks_is_said():
    frame = pd.DataFrame([(a, t) for a in "uv" for t in "xyz"], columns=["a", "task"])
    frame["y"] = frame["task"].map({"x": 1.1, "y": 2.3, "z": 0.7})
    found = importance(frame, "y", ["a"])
    assert found.components[0]["a"].share is None and found.components[0].r_sq is None
    assert "does not vary within the blocks" in found.explain()


def test_result_as_frame_json_words_and_figure():
    found = importance(FAILED, "score", ["in_pos", "out_pos", "form"], ["task"], draws=100)
    frame = found.to_frame()
    assert frame["factor"].tolist() == ["in_pos", "out_pos", "form"]
    assert ((frame["lower"] < frame["corrected"]) & (frame["corrected"] < frame["upper"])).all()
    assert len(found.differences()) == 3
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["one_way"]["label"] == "confounded"
    assert document["components"][0]["differences"][0]["more"] in ("in_pos", "out_pos", None)
    assert "45 rows without a score were left out" in found.explain()
    assert isinstance(found.plot(), Figure)


def test_the_same_seed_gives_the_same_numbers():
    one, two = (importance(FAILED, "score", ["in_pos", "form"], ["task"], draws=100, seed=4) for _ in range(2))
    assert one == two
    assert importance(FAILED, "score", ["in_pos", "form"], ["task"], draws=100, seed=5) != one


def test_wrong_calls_say_what_is_wrong():
    frame = pd.DataFrame({c: ["u", "v", "u"] for c in "abcdefghi"} | {"y": [1.0, 2.0, 3.0], "task": list("xyz")})
    with pytest.raises(InputFault, match="may be 8, not 9"):
        importance(frame, "y", list("abcdefghi"))
    with pytest.raises(InputFault, match="a single level"):
        importance(frame.assign(a="u"), "y", ["a"])
    with pytest.raises(InputFault, match="between 0 and 1"):
        importance(frame, "y", ["a"], level=95)
    with pytest.raises(InputFault, match="no column"):
        importance(frame, "y", ["nope"])
