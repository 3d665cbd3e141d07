"""Failures as outcomes: counted by hand, closed forms, scipy, and cases built so that the truth is known."""

import json
from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from adapters.faults import InputFault
from analysis import anova
from analysis.failed_trials import failures

POSITIONS = ["in_pos", "out_pos", "form"]
FRAME = oracles.data("adapter_failed")


@pytest.fixture(scope="module")
def found():
    return failures(FRAME, "score", POSITIONS, ["task", "task:seed"], permutations=199)


def _flattered(higher=True):
    """Design q is worse than p by 2 on every task, and fails on the three hardest; r is worse by 6 and never fails."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(list(product("pqr", range(8), range(2))), columns=["a", "task", "seed"])
    frame["score"] = 100 - 6 * frame["task"] - frame["a"].map({"p": 0, "q": 2, "r": 6}) + rng.normal(0, 0.2, len(frame))
    frame.loc[(frame["a"] == "q") & (frame["task"] > 4), "score"] = np.nan
    return frame if higher else frame.assign(score=-frame["score"])


def test_who_failed_is_counted_from_missing_scores_and_words_are_reported_only(found):
    """The oracle's description: 30 diverged at random, the rest one whole cell and one cell on one task."""
    lost = FRAME["score"].isna()
    assert (found.n, found.n_failed) == (540, int(lost.sum()))
    assert found.reasons == FRAME.loc[lost, "status"].value_counts().to_dict()
    assert found.never == ("I2:O4:mlp",)
    renamed = failures(FRAME.assign(status="done"), "score", POSITIONS, ["task"], permutations=99)
    assert renamed.n_failed == found.n_failed
    assert "Some trials are done but have no score" in renamed.explain()


def test_rates_have_exact_intervals(found):
    """Clopper and Pearson in closed form: quantiles of beta distributions."""
    rates = found.rates.set_index(["factor", "level"])
    assert set(found.rates["factor"]) == {"task", "seed", *POSITIONS}
    for (factor, level), row in rates.iterrows():
        own = FRAME[FRAME[factor] == level]["score"]
        n, k = len(own), int(own.isna().sum())
        assert (row["n"], row["failed"]) == (n, k) and row["rate"] == pytest.approx(k / n)
        assert row["lower"] == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0, abs=1e-9)
        assert row["upper"] == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k), abs=1e-9)
    assert "Clopper-Pearson" in found.explain()


def test_two_levels_without_blocks_are_fisher_s_exact_test():
    """With as many trials of both levels, all arrangements of the failures give Fisher's two-sided p."""
    for lost in ((5, 0), (4, 1), (3, 1)):
        frame = pd.DataFrame({"a": list("p" * 6 + "q" * 6), "y": 1.0 + np.arange(12)})
        frame.loc[[*range(lost[0]), *range(6, 6 + lost[1])], "y"] = np.nan
        test = failures(frame, "y", ["a"]).tests.iloc[0]
        theirs = stats.fisher_exact([[lost[0], 6 - lost[0]], [lost[1], 6 - lost[1]]])
        assert test["p"] == pytest.approx(theirs.pvalue, rel=1e-9)
        assert test["arrangements"] == 924 and test["exact"]  # 12! / (6! 6!)


def test_a_level_that_always_fails_is_found():
    frame = pd.DataFrame(list(product("pqr", range(4), range(2))), columns=["a", "task", "seed"])
    frame["y"] = np.arange(24.0) % 7
    frame.loc[frame["a"] == "r", "y"] = np.nan
    result = failures(frame, "y", ["a"], ["task"])
    assert result.tests.loc[0, "p"] == pytest.approx(1 / 5000)
    assert result.never == ("r",) and len(result.common_blocks) == 4
    assert (
        "Failure depends on a: from 0% (0 of 8; 0% to 37%) at p to 100% (8 of 8; 63% to 100%) at r" in result.explain()
    )


def test_hard_tasks_alone_do_not_make_failure_depend_on_a_design():
    """Tasks fail at rates from 0 to .9, designs alike, some tasks tried with one design more often: p is level."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(150):
        frame = pd.DataFrame(list(product("pq", range(4), range(4))), columns=["a", "task", "seed"])
        frame = frame[(frame["a"] == "p") | (frame["task"] < 2) | (frame["seed"] < 2)]
        frame = frame.assign(
            y=np.where(rng.random(len(frame)) < frame["task"] * 0.3, np.nan, rng.normal(size=len(frame)))
        )
        test = failures(frame, "y", ["a"], ["task"], permutations=99, error="residual").tests.iloc[0]
        hits.append(test["p"] <= 0.05 if not test["reason"] else False)
    assert np.mean(hits) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("higher", [True, False])
def test_a_design_does_not_win_by_failing_on_hard_tasks(higher):
    result = failures(_flattered(higher), "score", ["a"], ["task"], higher_is_better=higher)
    table = result.to_frame().set_index("design")
    assert result.leaders == {"mean": "q", "common": "p", "worst": "p"}  # by what succeeded q looks best
    assert result.winner is None and result.changes and result.rivals == ("p",)
    assert result.common_blocks == tuple("01234") and result.other_blocks == tuple("567")
    assert table.loc["p", "shared"] == 5
    assert abs(table.loc["p", "against_leader"]) == pytest.approx(2, abs=0.3)
    assert list(table.index)[0] == "p"
    words = result.explain()
    assert "none may be called so on what succeeded alone" in words
    assert "Better than q where both succeeded: p (by" in words
    assert "All compared designs succeeded in 5 of 8 cells of task (0, 1, 2, 3, 4); the best there is p" in words


def test_a_design_that_wins_in_every_way_is_named():
    frame = _flattered().assign(score=lambda d: d["score"] + 20 * (d["a"] == "p"))
    result = failures(frame, "score", ["a"], ["task"])
    assert result.winner == "p" and not result.rivals
    assert (
        "p stays the best design with failures counted and no design is better where both succeeded" in result.explain()
    )


def test_designs_are_compared_where_all_of_them_succeeded(found):
    """By hand: units of task and seed in which every design but the one that never succeeded has a score."""
    design = FRAME[POSITIONS].agg(":".join, axis=1)
    wide = FRAME.assign(design=design, unit=FRAME["task"] + ":" + FRAME["seed"]).pivot(
        index="unit", columns="design", values="score"
    )
    wide = wide.drop(columns="I2:O4:mlp")
    units = wide.index[wide.notna().all(axis=1)]
    assert list(found.common_blocks) == list(units) and len(found.other_blocks) == 12 - len(units)
    table = found.to_frame().set_index("design")
    assert table.loc[wide.columns, "common"].to_numpy() == pytest.approx(wide.loc[units].mean().to_numpy())
    leader = found.leaders["mean"]
    both = wide.sub(wide[leader], axis=0)
    assert table.loc[wide.columns, "against_leader"].to_numpy() == pytest.approx(both.mean().to_numpy(), abs=1e-9)
    assert (table.loc[wide.columns, "shared"] == both.notna().sum()).all()
    assert table.loc["I2:O4:mlp", ["mean", "common"]].isna().all()
    assert table.loc["I2:O4:mlp", "worst"] == FRAME["score"].min() == found.worst


def test_a_block_with_one_failed_seed_is_not_where_a_design_succeeded():
    frame = _flattered()
    frame.loc[(frame["a"] == "r") & (frame["task"] == 0) & (frame["seed"] == 1), "score"] = np.nan
    assert failures(frame, "score", ["a"], ["task"]).common_blocks == tuple("1234")


def test_designs_that_never_meet_are_said():
    frame = pd.DataFrame(list(product("pq", range(4))), columns=["a", "task"]).assign(y=np.arange(8.0))
    frame.loc[[0, 1, 6, 7], "y"] = np.nan
    result = failures(frame, "y", ["a"], ["task"], error="residual")
    assert result.common_blocks == () and result.winner is None
    assert "In none of the 4 cells of task" in result.explain()
    assert "never succeeded together in a cell of task" in result.explain()
    assert "no analysis of variance: 4 rows" in result.explain()  # 1 mean, 3 tasks, 1 level of a
    assert np.isnan(result.decisions.loc[0, "p"]) and result.decisions.loc[0, "p_worst"] > 0


def test_the_worst_value_takes_the_place_of_failures_in_a_second_analysis(found):
    filled = anova(FRAME.fillna({"score": FRAME["score"].min()}), "score", POSITIONS, ["task", "task:seed"])
    plain = anova(FRAME, "score", POSITIONS, ["task", "task:seed"])
    for _, row in found.decisions.iterrows():
        assert row["F"] == pytest.approx(plain[row["term"]].F) and row["F_worst"] == pytest.approx(
            filled[row["term"]].F
        )
        assert row["p_worst"] == pytest.approx(filled[row["term"]].p_decisive)
    assert list(found.decisions["term"]) == POSITIONS


def test_a_decision_that_rests_on_leaving_failures_out_is_named():
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(list(product("pq", range(6), range(4))), columns=["a", "task", "seed"])
    frame["y"] = rng.normal(size=len(frame))
    frame.loc[(frame["a"] == "q") & (frame["seed"] < 2), "y"] = np.nan
    result = failures(frame, "y", ["a"], ["task"], error="residual")
    row = result.decisions.iloc[0]
    assert row["p"] > 0.05 > row["p_worst"] and row["changes"]
    assert "Decisions at 0.05 that change with failures at the worst value: a (p = " in result.explain()


def test_a_column_may_mark_failures_that_have_a_score():
    frame = _flattered()
    marked = frame.assign(score=frame["score"].fillna(1e6), broken=frame["score"].isna())
    one, two = failures(frame, "score", ["a"], ["task"]), failures(marked, "score", ["a"], ["task"], failed="broken")
    pd.testing.assert_frame_equal(one.designs, two.designs)
    assert one.tests.equals(two.tests) and one.worst == two.worst
    with pytest.raises(InputFault, match="must hold True or False"):
        failures(marked.assign(broken="yes"), "score", ["a"], ["task"], failed="broken")


def test_a_nested_factor_is_tested_within_its_parent():
    rng = np.random.default_rng(3)
    designs = [("lora", 4), ("lora", 16), ("adapter", None)]
    rows = [(*design, task, seed) for design in designs for task in range(6) for seed in range(3)]
    frame = pd.DataFrame(rows, columns=["method", "rank", "task", "seed"])
    frame["y"] = rng.normal(size=len(frame))
    frame.loc[(frame["rank"] == 16) & (frame["seed"] > 0), "y"] = np.nan
    result = failures(frame, "y", ["method", "rank"], ["task"], nested={"rank": "method"}, error="residual")
    test = result.tests.set_index("factor")
    assert test.loc["rank", "p"] < 0.01 and test.loc["rank", "df"] == 1
    assert set(result.designs["design"]) == {"lora:4", "lora:16", "adapter:(absent)"}
    assert "Failure depends on rank: from 0%" in result.explain()


def test_without_failures_that_is_said_and_with_nothing_else_it_is_refused():
    whole = oracles.data("adapter_empty_blocks")
    none = failures(whole, "score", POSITIONS, ["task"])
    assert none.n_failed == 0 and none.worst is None and not none.decisions["changes"].any()
    assert none.explain() == "None of 540 trials failed: every one has a score."
    assert (none.tests["reason"] == "no trial failed").all()
    with pytest.raises(InputFault, match="All 540 trials failed"):
        failures(whole.assign(score=np.nan), "score", POSITIONS, ["task"])
    with pytest.raises(InputFault, match="no column"):
        failures(whole, "score", ["colour"])


def test_the_result_is_plain(found):
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["winner"] == found.winner and len(document["designs"]) == 45
    never = next(row for row in document["designs"] if row["design"] == "I2:O4:mlp")
    assert never["mean"] is None and never["against_leader"] is None
    assert isinstance(found.plot(), Figure) and "against_leader" in found.to_markdown()
