"""Plans: variances from a pilot against the table's mean squares, what a wished difference needs, and what is said."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from adapters.faults import InputFault
from analysis import anova
from analysis.power_design import power
from analysis.power_pilot import MeanSquare, Variances
from tests.analysis.plans import BALANCED, PAIR, POSITIONS, one_way, planned_rows


def _pilot(cells, tasks, seeds, sd, sd_task, seed=0):
    """Results in which every cell's effect differs from task to task."""
    rng = np.random.default_rng(seed)
    frame = planned_rows(cells, tasks, seeds)
    cell = frame[list(cells)].agg("|".join, axis=1) + frame["task"]
    frame["y"] = cell.map({c: rng.normal(0, sd_task) for c in cell.unique()}) + rng.normal(0, sd, len(frame))
    return frame


@pytest.mark.parametrize("error", ["residual", "task"])
@pytest.mark.parametrize("cells, pair", [(POSITIONS, PAIR), (BALANCED, None)])
def test_a_plan_like_its_pilot_has_the_pilot_s_mean_squares(cells, pair, error):
    frame = _pilot(cells, 5, 2, 0.5, 1.0)
    factors = list(cells)
    found = power(cells, factors, 5, 2, pilot=frame, response="y", error=error, pair=pair)
    table = anova(frame, "y", factors, ["task", "task:seed"], error=error, pair=pair)
    for row in found.terms:
        known = table[row.term].error
        assert row.error_sd**2 == pytest.approx(known.mean_sq, rel=1e-9), row.term
        # the interval of a variance that one mean square estimates
        ends = row.detectable * np.sqrt(known.df / chi2.ppf([0.95, 0.05], known.df))
        assert row.smallest_ci == pytest.approx(ends, rel=1e-6)


def test_variances_are_recovered_from_a_large_pilot_and_carry_over_to_other_seeds():
    frame = _pilot(POSITIONS, 100, 2, 0.5, 1.0)
    found = power(POSITIONS, ["input", "output"], 8, 5, pilot=frame, response="y", pair=PAIR)["pair"]
    # within three standard errors: 1.6 % of the one on 1,900 df, 1.7 % of the other on 1,881
    assert found.sd == pytest.approx(0.5, rel=0.048) and found.sd_task == pytest.approx(1.0, rel=0.051)
    assert found.error_sd == pytest.approx(np.sqrt(0.25 + 5), rel=0.05)
    known = power(POSITIONS, ["input", "output"], 8, 5, sd=0.5, sd_task=1.0, pair=PAIR)["pair"]
    assert found.smallest == pytest.approx(known.smallest, rel=0.05)


def test_a_pilot_with_lost_rows_and_other_seeds_still_serves():
    frame = _pilot(POSITIONS, 40, 2, 0.5, 1.0)
    frame.loc[frame.sample(frac=0.15, random_state=0).index, "y"] = np.nan
    row = power(POSITIONS, ["input", "output"], 40, 2, pilot=frame, response="y", pair=PAIR)["pair"]
    assert row.sd == pytest.approx(0.5, rel=0.05) and row.sd_task == pytest.approx(1.0, rel=0.1)


def test_without_repetitions_a_pilot_shows_a_sum_which_serves_as_many_seeds():
    frame = _pilot(POSITIONS, 6, 1, 0.5, 1.0)
    ask = {"factors": ["input", "output"], "pilot": frame, "response": "y", "pair": PAIR}
    found = power(POSITIONS, tasks=9, seeds=1, **ask)
    table = anova(frame, "y", ["input", "output"], ["task"], pair=PAIR)
    for row in found.terms:
        assert row.error_sd**2 == pytest.approx(table[row.term].error.mean_sq, rel=1e-9)
        assert row.sd is None and row.sd_task is None
    assert "only the sum" in found.explain()
    grid = found.grid_frame()
    assert grid[grid["seeds"] == 1]["smallest"].notna().all() and grid[grid["seeds"] > 1]["smallest"].isna().all()
    with pytest.raises(InputFault, match="one row for each design and task.*give --sd"):
        power(POSITIONS, tasks=9, seeds=2, **ask)
    apart = power(POSITIONS, tasks=9, seeds=2, sd=0.5, **ask)["pair"]
    assert apart.sd_task**2 == pytest.approx(table["pair"].error.mean_sq - 0.25, rel=1e-9)
    rest = power(POSITIONS, tasks=9, seeds=2, sd_task=0.5, **ask)["pair"]
    assert rest.sd**2 == pytest.approx(table["pair"].error.mean_sq - 0.25, rel=1e-9)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """The error of a plan with other seeds than its pilot's, from two mean squares, 1,000 times."""
    rng = np.random.default_rng(8)
    residual_df, df, load, planned_load = 60, 24, 2.0, 3.0
    truth, inside = 0.25 + planned_load * 0.5, 0
    for _ in range(1000):
        residual = 0.25 * rng.chisquare(residual_df) / residual_df
        square = MeanSquare((0.25 + load * 0.5) * rng.chisquare(df) / df, df, load)
        known = Variances(residual, residual_df, (square.value - residual) / load, square)
        value, satterthwaite = known.expected(planned_load)
        low, high = value * satterthwaite / chi2.ppf([0.95, 0.05], satterthwaite)
        inside += low < truth < high
    assert inside / 1000 == pytest.approx(0.9, abs=0.02)


def test_a_variance_below_0_is_taken_as_0_and_said():
    frame = next(
        frame for seed in range(50)
        if anova(frame := _pilot(BALANCED, 3, 4, 1.0, 0.0, seed), "y", ["a", "b"], ["task"])["a"].error.mean_sq < 0.6
    )  # fmt: skip
    found = power(BALANCED, ["a", "b"], 6, 4, pilot=frame, response="y")
    assert found["a"].sd_task == 0 and found["a"].error_sd == pytest.approx(found["a"].sd)
    assert "below 0 were taken as 0; raw: " in found.explain() and "a -" in found.explain()


def test_what_a_wished_difference_needs_is_the_least_that_reaches_the_power():
    """The grid holds every number of tasks from 2 to 12."""
    found = power(BALANCED, ["a", "b"], 6, 2, 0.6, 0.3, difference=0.75)
    grid = found.grid_frame()
    by_tasks = [row for row in found.needed if row.varied == "tasks"]
    assert len({row.tasks for row in by_tasks}) > 2 and all(row.tasks <= 12 for row in by_tasks)
    for row in by_tasks:
        line = grid.query("term == @row.term and seeds == @row.seeds and power >= 0.8")
        assert row.tasks == line["tasks"].min()
        assert row.trials == 15 * row.tasks * row.seeds

    three = power(BALANCED, ["a", "b"], 6, 3, 0.6, 0.3)["a"].smallest
    needed = power(BALANCED, ["a", "b"], 6, 2, 0.6, 0.3, difference=1.0001 * three).needed_frame()
    assert needed.query("term == 'a' and varied == 'seeds'")["seeds"].item() == 3
    never = power(BALANCED, ["a", "b"], 4, 2, 0.6, 0.3, difference=0.3).needed_frame()
    assert never.query("term == 'a' and varied == 'seeds'")["seeds"].isna().all()


def test_power_grows_with_tasks_and_more_seeds_do_not_replace_tasks():
    grid = power(BALANCED, ["a", "b"], 8, 2, 0.6, 0.3, difference=0.4).grid_frame()
    for _, line in grid.groupby(["term", "seeds"]):
        assert (line.sort_values("tasks")["power"].diff().dropna() > -1e-12).all()
        assert (line.sort_values("tasks")["smallest"].diff().dropna() < 1e-12).all()
    seeds = power(BALANCED, ["a", "b"], 4, 1000, 0.6, 0.3)["a"]
    assert seeds.smallest == pytest.approx(power(BALANCED, ["a", "b"], 4, 1, 1e-9, 0.3)["a"].smallest, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give --sd and --sd-task, or earlier results with --pilot"),
        ({"sd": 1.0}, "give --sd-task"),
        ({"sd_task": 1.0}, "give --sd,"),
        ({"error": "residual"}, "the SD of the residual: give --sd,"),
        ({"sd": 0, "sd_task": 1}, "sd must be a number above 0"),
        ({"sd": 1, "sd_task": -1}, "0 or more"),
        ({"sd": 1, "sd_task": 1, "difference": -2}, "above 0"),
        ({"sd": 1, "sd_task": 1, "target": 0.01}, "the power the larger one"),
        ({"sd": 1, "sd_task": 1, "error": "seed"}, "'auto', 'residual' or 'task'"),
        ({"sd": 1, "sd_task": 1, "tasks": 1, "error": "task"}, "two tasks or more"),
        ({"sd": 1, "sd_task": 1, "seeds": 0}, "0 seeds"),
        ({"pilot": _pilot(BALANCED, 1, 3, 1, 1), "response": "y"}, "pilot has 1 task"),
        ({"pilot": _pilot(BALANCED, 2, 2, 0, 0).assign(y=0.1), "response": "y"}, "do not vary"),
        ({"pilot": _pilot(BALANCED, 3, 1, 1, 1), "response": "y", "interactions": "all"}, "only the sum"),
        ({"pilot": _pilot(BALANCED, 3, 2, 1, 1).query("a == 'p' and b == 'x'"), "response": "y"}, "no factor of"),
        (
            {"pilot": _pilot(one_way(1, 1).assign(a="p", b="x"), 1, 1, 1, 1), "response": "y", "error": "residual"},
            "used up by the model",
        ),
        ({"pilot": _pilot(BALANCED, 1, 1, 1, 1)[:15], "response": "z"}, "no column 'z'"),
    ],
)
def test_power_is_refused_without_what_it_needs(given, said):
    with pytest.raises(InputFault, match=said):
        power(BALANCED, **{"factors": ["a", "b"], "tasks": 4, "seeds": 2, **given})


def test_auto_is_the_table_s_default_and_the_words_have_their_numbers():
    found = power(POSITIONS, ["input", "output"], 8, 2, 0.02, 0.01, pair=PAIR, difference=0.05)
    assert found.error == "task"
    words = found.explain()
    row = found["input"]
    assert f"input: two levels must differ by {row.smallest:.3g} or more" in words
    assert "input:output: one combination must lie" in words and "(7 of 9 degrees of freedom are estimable)" in words
    assert "lower bound decides" in words and "320 trials (20 designs × 8 tasks × 2 seeds)" in words
    alone = power(POSITIONS, ["input", "output"], 1, 2, 0.02, 0.01, pair=PAIR)
    assert alone.error == "residual" and "was not used" in alone.explain()


def test_nothing_is_left_to_test_with_is_said_and_is_no_number():
    found = power(POSITIONS, ["input", "output"], 1, 1, 0.02, pair=PAIR, difference=0.1)
    assert found["pair"].smallest is None and found["pair"].power is None
    assert "No degree of freedom is left to test pair" in found.explain()
    assert found.plot().axes


def test_a_nested_factor_and_a_single_level():
    cells = pd.DataFrame([("lora", "4"), ("lora", "16"), ("vpt", None), ("full", None)], columns=["method", "rank"])
    found = power(cells.assign(init="zero"), ["method", "rank", "init"], 5, 2, 1, 1, nested={"rank": "method"})
    assert [(r.term, r.df) for r in found.terms] == [("method", 2), ("rank(method)", 1), ("init", 0)]
    assert next(p for p in found.pairs if p.of == "rank(method)").pairs == 1
    assert "init has a single level" in found.explain()


def test_the_result_is_frames_json_and_a_figure():
    found = power(BALANCED, ["a", "b"], 4, 2, 0.6, 0.3, difference=1.0, interactions="all")
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["terms"][0]["smallest"] == found["a"].smallest
    assert list(found.to_frame()["term"]) == ["a", "b", "a:b"] and "| a |" in found.to_markdown()
    assert set(found.needed_frame()["varied"]) == {"tasks", "seeds"} and len(found.pairs_frame()) == 3
    figure = found.plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"{t}, difference 1" for t in ("a", "b", "a:b")]
    line = figure.axes[0].lines[0]
    grid = found.grid_frame().query("term == 'a' and seeds == 1")
    assert line.get_xdata().tolist() == grid["tasks"].tolist()
    assert line.get_ydata().tolist() == pytest.approx(grid["power"].tolist())


def test_a_factor_named_design_is_told_from_the_designs_as_wholes():
    cells = pd.DataFrame([(b, d) for b in "xy" for d in "pqr"], columns=["backbone", "design"])
    frame = _pilot(cells, 6, 2, 0.5, 1.0)
    found = power(cells, ["backbone", "design"], 6, 2, pilot=frame, response="y")
    table = anova(frame, "y", ["backbone", "design"], ["task", "task:seed"])
    assert found["design"].error_sd ** 2 == pytest.approx(table["design"].error.mean_sq, rel=1e-9)
    assert [(pair.of, pair.levels) for pair in found.pairs] == [("backbone", 2), ("design", 3), ("whole design", 6)]
