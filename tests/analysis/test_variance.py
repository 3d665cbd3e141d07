"""Variance components against R's lme4, the analysis of variance, written-out formulas and simulations of known "
"truth."""

import json
from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest

from adapters.faults import InputFault
from analysis import differences
from analysis.model import Design
from analysis.sample import read_sample
from analysis.strata import Strata
from analysis.variance import PICTURE_BLOCKS, variance_components, with_pictures
from analysis.variance_intervals import interval

TRUTH = {"task": 1.0, "task:seed": 0.25, "design:task": 0.16, "residual": 0.36}
PICTURES = {
    "task": 1.0,
    "task:seed": 0.25,
    "task:prompt": 0.5,
    "task:seed:prompt": 0.1,
    "task:seed:prompt:picture": 0.2,
    "design:task": 0.16,
    "design:task:seed": 0.2,
    "design:task:prompt": 0.12,
    "design:task:seed:prompt": 0.05,
    "residual": 0.4,
}


def trials(rng: np.random.Generator, designs: int = 8, tasks: int = 6, seeds: int = 3) -> pd.DataFrame:
    """Trials with the variances `TRUTH` and design means 0, .2, .4, …"""
    rows = list(product(range(designs), range(tasks), range(seeds)))
    frame = pd.DataFrame(rows, columns=["method", "task", "seed"])
    d, t, s = frame.to_numpy().T
    y = rng.normal(size=tasks)[t] + 0.5 * rng.normal(size=(tasks, seeds))[t, s]
    y += 0.4 * rng.normal(size=(designs, tasks))[d, t] + 0.6 * rng.normal(size=len(frame)) + 0.2 * d
    return frame.assign(y=y)


def pictures(rng: np.random.Generator, sizes: tuple[int, int, int, int, int] = (5, 4, 2, 3, 2)) -> pd.DataFrame:
    """Pictures with the variances `PICTURES`: designs, tasks, seeds, prompts, pictures of each prompt."""
    names = ["method", "task", "seed", "prompt", "picture"]
    frame = pd.DataFrame(list(product(*map(range, sizes))), columns=names)
    codes, size = (
        dict(zip(["design", *names[1:]], frame.to_numpy().T, strict=True)),
        dict(zip(["design", *names[1:]], sizes, strict=True)),
    )
    y = np.zeros(len(frame))
    for term, variance in PICTURES.items():
        columns = ["design", *names[1:]] if term == "residual" else term.split(":")
        y += np.sqrt(variance) * rng.normal(size=[size[c] for c in columns])[tuple(codes[c] for c in columns)]
    return frame.assign(y=y)


def test_balanced_rows_equal_r_s_reml():
    """Machines and workers in lme4: on balanced rows with all estimates positive both methods are the same."""
    known = oracles.expected("machines_mixed")["with_interaction"]
    got = variance_components(oracles.data("machines_mixed"), "score", "Machine", "Worker", trial="Worker")
    for name, row in zip(("design:Worker", "Worker", "residual"), known["varcorr"], strict=True):
        assert got[name].variance == pytest.approx(row["vcov"], rel=1e-4)
        assert got[name].reml == pytest.approx(row["vcov"], rel=1e-4)
    assert got.units == {"Worker": 6.0, "repetition": 3.0} and got.balanced
    # SE of emmeans' pairs of machines, from the same oracle
    assert got.difference_variance() ** 0.5 == pytest.approx(known["pairs"][0]["SE"], rel=1e-5)


def test_estimates_are_those_of_the_strata_and_negative_ones_are_said():
    frame = oracles.data("adapter_failed")
    factors = ["in_pos", "out_pos", "form"]
    got = variance_components(frame, "score", factors, ["task", "task:seed"])
    sample = read_sample(frame, "score", [*factors, "task", "seed"])
    random = [("task",), ("task", "seed"), (*factors, "task")]
    known = Strata(Design(sample), sample.y - sample.y.mean(), [tuple(factors)], random).variances()
    for own, name in (
        ("task", "task"),
        ("task:seed", "task:seed"),
        ("design:task", "in_pos:out_pos:form:task"),
        ("residual", "residual"),
    ):
        assert got[own].variance == pytest.approx(known[name], rel=1e-9)
    assert not got.balanced and "not balanced" in got.explain()
    assert all("approximate" in row.method for row in got.components)
    assert "45 rows without a score" in got.explain()
    negative = [row for row in got.components if row.variance < 0]
    assert len(negative) == 1 and negative[0].sd == negative[0].lower == negative[0].share == 0
    assert f"The estimate for {negative[0].component} is negative" in got.explain()


def test_the_standard_error_of_a_difference_is_that_of_the_comparison_over_tasks():
    """And follows the written-out formula 2·(σ²(design:task)/tasks + σ²/(tasks·seeds)) for any numbers of them."""
    frame = trials(np.random.default_rng(2))
    got = variance_components(frame, "y", "method")
    table = differences(frame, "y", ["method"], ["0"], ["task", "task:seed"], error="task")
    assert got["design:task"].variance > 0
    assert got.difference_variance() ** 0.5 == pytest.approx(table["se"].iloc[0], rel=1e-9)
    between, left = got["design:task"].variance, got["residual"].variance
    assert got.difference_variance(task=20, seed=1) == pytest.approx(2 * (between / 20 + left / 20), rel=1e-12)
    assert got.difference_variance(seed=np.inf) == pytest.approx(2 * between / 6, rel=1e-12)
    budget = got.budget().set_index("buy")
    assert budget.loc["task", "gain"] == pytest.approx(0.5, rel=1e-12)
    assert budget.loc["seed", "gain"] == pytest.approx(left / 2 / (left + 3 * between), rel=1e-12)
    assert budget.loc["seed", "se_limit"] == pytest.approx((2 * between / 6) ** 0.5, rel=1e-12)
    assert (
        f"of its variance {got['residual'].in_difference:.0%}" in got.explain() or got["residual"].in_difference < 0.5
    )


def test_spread_of_designs_is_the_variance_of_their_means_less_noise():
    frame = trials(np.random.default_rng(4))
    got = variance_components(frame, "y", "method")["design"]
    means = frame.groupby("method")["y"].mean()
    cells = frame.groupby(["method", "task"])["y"].mean().unstack()
    left = cells.sub(cells.mean(axis=1), axis=0).sub(cells.mean(axis=0), axis=1) + cells.to_numpy().mean()
    error = np.square(left.to_numpy()).sum() / (7 * 5) / 6  # variance of a design's mean, in two-way arithmetic
    assert got.variance == pytest.approx(means.var(ddof=1) - error, rel=1e-9)
    assert got.lower < 0.2**2 * np.var(np.arange(8), ddof=1) < got.upper


@pytest.mark.parametrize(("studies", "least"), [(120, 0.88), pytest.param(1000, 0.93, marks=pytest.mark.slow)])
def test_simulated_trials_recover_their_variances_and_intervals_hold(studies, least):
    """Means within 3.5 standard errors of the truth; 95 % intervals hold it in nearly that many studies.

    Of 120 studies, 95 % intervals hold the truth in fewer than 88 % with a probability of .001; of 1000, 93 %, .003.
    """
    rng = np.random.default_rng(7)
    found = {name: [] for name in TRUTH}
    held = dict.fromkeys([*TRUTH, "design"], 0)
    truth = {**TRUTH, "design": 0.04 * np.var(np.arange(8), ddof=1)}
    for _ in range(studies):
        got = variance_components(trials(rng), "y", "method")
        for name in truth:
            held[name] += got[name].lower <= truth[name] <= got[name].upper
            if name in found:
                found[name].append(got[name].variance)
    for name, values in found.items():
        assert abs(np.mean(values) - TRUTH[name]) < 3.5 * np.std(values, ddof=1) / np.sqrt(studies), name
    assert all(count / studies >= least for count in held.values()), held
    # That of the designs' spread is conservative.
    assert studies < 1000 or all(held[name] / studies <= 0.975 for name in TRUTH), held
    assert held["design"] / studies <= 0.995, held


@pytest.mark.parametrize("tables", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_simulated_pictures_recover_their_variances(tables):
    """Means within 3.5 standard errors of the truth; the noise of scoring is what was put in."""
    rng = np.random.default_rng(9)
    found = {name: [] for name in PICTURES}
    noise = []
    for _ in range(tables):
        got = variance_components(pictures(rng), "y", "method", PICTURE_BLOCKS)
        for name in PICTURES:
            found[name].append(got[name].variance)
        assert got.evaluation is not None
        noise.append(got.evaluation.variance)
    for name, values in found.items():
        assert abs(np.mean(values) - PICTURES[name]) < 3.5 * np.std(values, ddof=1) / np.sqrt(tables), name
    assert set(found) == {row.component for row in got.components} - {"design"}
    truth = (PICTURES["design:task:prompt"] + PICTURES["design:task:seed:prompt"]) / 3 + PICTURES["residual"] / 6
    # Negative estimates count as 0, which lifts the mean a little.
    assert truth - 3.5 * np.std(noise) / np.sqrt(tables) < np.mean(noise) < 1.1 * truth


def test_evaluation_noise_and_units_of_pictures_by_hand():
    got = variance_components(pictures(np.random.default_rng(12)), "y", "method", PICTURE_BLOCKS)
    assert got.units == {"task": 4.0, "seed": 2.0, "prompt": 3.0, "picture": 2.0} and got.balanced
    v = {row.component: max(row.variance, 0) for row in got.components}
    judged = (v["design:task:prompt"] + v["design:task:seed:prompt"]) / 3 + v["residual"] / 6
    assert (got.evaluation.rows, got.evaluation.variance) == pytest.approx((6, judged), rel=1e-12)
    assert got.evaluation.share == pytest.approx(
        judged / (judged + v["design:task"] + v["design:task:seed"]), rel=1e-12
    )
    by_hand = (
        2
        / 4
        * (
            v["design:task"]
            + v["design:task:seed"] / 2
            + v["design:task:prompt"] / 3
            + v["design:task:seed:prompt"] / 6
            + v["residual"] / 12
        )
    )
    assert got.difference_variance() == pytest.approx(by_hand, rel=1e-12)
    assert "is evaluation noise: the mean of its 6 pictures" in got.explain()
    assert variance_components(trials(np.random.default_rng(0)), "y", "method").evaluation is None


def test_a_variance_not_told_from_0_is_bounded_in_words():
    """The standard error with the upper end of design:task in the written-out formula."""
    rng = np.random.default_rng(13)
    frame = trials(rng, tasks=3).assign(y=rng.normal(size=8 * 3 * 3))
    got = variance_components(frame, "y", "method")
    row = got["design:task"]
    assert row.lower == 0
    most = (2 * row.upper / 3 + 2 * got["residual"].variance / 9) ** 0.5
    assert f"may be as large as {row.upper:.3g}, which would make that standard error {most:.3g}" in got.explain()


def test_with_one_picture_a_prompt_the_finest_block_is_left_out_and_said():
    frame = pictures(np.random.default_rng(1), (5, 4, 2, 4, 1))
    got = variance_components(frame, "y", "method", PICTURE_BLOCKS)
    assert "picture" not in got.units and got.residual.startswith("design × task:seed:prompt")
    assert "one level of picture only" in got.explain()
    named = frame.assign(picture=frame["prompt"])
    assert (
        "task:seed:prompt:picture has one level only in each task:seed:prompt"
        in variance_components(named, "y", "method", PICTURE_BLOCKS).explain()
    )


def test_of_one_task_nothing_is_said_about_more_tasks():
    frame = pictures(np.random.default_rng(5))
    frame = frame[frame["task"] == 0]
    got = variance_components(frame, "y", "method", PICTURE_BLOCKS)
    assert list(got.units) == ["seed", "prompt", "picture"]
    assert "one level of task only ('0')" in got.explain() and "many tasks" not in got.explain()
    assert got.evaluation is not None and got.evaluation.rows == 6


def test_one_design_alone_has_components_but_no_difference():
    frame = trials(np.random.default_rng(3), designs=1, seeds=4)
    got = variance_components(frame, "y", "method")
    means = frame.groupby("task")["y"].mean()
    within = frame.groupby("task")["y"].var(ddof=1).mean()
    assert got["residual"].variance == pytest.approx(within, rel=1e-9)
    assert got["task"].variance == pytest.approx(means.var(ddof=1) - within / 4, rel=1e-9)
    assert np.isnan(got.difference_variance()) and "single design" in got.explain()
    alone = frame[frame["seed"] == 0]
    assert variance_components(alone, "y", "method", "task")["residual"].variance == pytest.approx(alone["y"].var())


def test_one_mean_square_has_the_exact_interval_and_a_sum_nearly_its_level():
    """χ² quantiles of 10 degrees of freedom from a table: 3.247 and 20.483."""
    low, high, _ = interval(np.array([1.0]), np.array([2.0]), np.array([10.0]), 0.95)
    assert (low, high) == pytest.approx((20 / 20.483, 20 / 3.247), rel=1e-4)
    rng = np.random.default_rng(6)
    df, truth = np.array([4.0, 9.0, 20.0]), np.array([2.0, 1.0, 0.5])
    held = 0
    for _ in range(1000):
        squares = truth * rng.chisquare(df) / df
        low, high, _ = interval(np.array([0.5, 0.5, -0.25]), squares, df, 0.95)
        held += low <= 0.5 * 2 + 0.5 * 1 - 0.25 * 0.5 <= high
    assert 0.93 <= held / 1000 <= 0.985


def test_pictures_of_a_store_are_joined_to_their_trials():
    trial = pd.DataFrame({"id": ["a", "b"], "method": ["x", "y"], "clip_i": [0.5, 0.6]})
    image = pd.DataFrame(
        [(i, k, f"p{k % 2}", 0.1 * k) for i in "ab" for k in (2, 0, 1, 3)], columns=["id", "index", "prompt", "clip_i"]
    )
    got = with_pictures(trial, image, "clip_i").sort_values(["id", "index"])
    assert got["picture"].tolist() == [0, 0, 1, 1] * 2 and len(got) == 8
    assert got["clip_i"].tolist() == pytest.approx([0, 0.1, 0.2, 0.3] * 2)
    with pytest.raises(InputFault, match="None of the trials"):
        with_pictures(trial.assign(id="c"), image, "clip_i")
    with pytest.raises(InputFault, match="no column 'prompt'"):
        with_pictures(trial, image.drop(columns="prompt"), "clip_i")


def test_words_json_and_figure():
    got = variance_components(trials(np.random.default_rng(2)), "y", "method")
    text = got.explain()
    for words in (
        "The variance of a single row's y",
        "Twice as many tasks",
        "Most is gained by more tasks",
        "no part of it",
    ):
        assert words in text, words
    document = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    assert [row["component"] for row in document["components"]] == ["design", *TRUTH]
    assert document["components"][1]["levels"] == 6 and document["evaluation"] is None
    assert sum(row["share"] for row in document["components"]) == pytest.approx(1)
    assert "design:task" in got.to_markdown()
    left, right = got.plot().axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["design", *TRUTH]
    assert [label.get_text() for label in right.get_yticklabels()] == ["as run", "twice the tasks", "twice the seeds"]


def test_wrong_calls_say_what_is_wrong():
    frame = trials(np.random.default_rng(0), 3, 2, 1)
    with pytest.raises(InputFault, match="No block"):
        variance_components(frame, "y", "method", [])
    with pytest.raises(InputFault, match="None of the blocks"):
        variance_components(frame.assign(task=0), "y", "method", ["task"])
    with pytest.raises(InputFault, match="no residual"):
        variance_components(frame.assign(method=range(6)), "y", "method", ["task"])
    with pytest.raises(InputFault, match="units are task, seed"):
        variance_components(trials(np.random.default_rng(0)), "y", "method").difference_variance(prompt=3)
    with pytest.raises(InputFault, match="reproduce y exactly"):
        variance_components(frame.assign(y=frame["task"] * 1.0), "y", "method", ["task"])
