"""Several scores: Holm over scores, Pareto-optimality against enumeration, trends against scipy and statsmodels."""

import json
from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from adapters.faults import InputFault
from analysis import anova
from analysis.front import on_front
from analysis.pareto_optimal import pareto, undominated
from analysis.several_scores import several
from analysis.size_slopes import size_trend

POSITIONS = ["in_pos", "out_pos", "form"]
FRAME = oracles.data("adapter_empty_blocks")
BETTER = {"score": "higher", "score2": "lower"}


def _study(seed=0, tasks=3, designs=6):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(list(product("abcdefgh"[:designs], range(tasks), range(2))), columns=["d", "task", "seed"])
    return frame.assign(good=rng.normal(size=len(frame)), bad=rng.normal(size=len(frame)))


def test_every_score_has_its_table_and_p_is_holm_adjusted_over_scores():
    frame = FRAME.assign(third=FRAME["score"] + 40 * FRAME["score2"])
    scores = ["score", "score2", "third"]
    found = several(frame, scores, POSITIONS, ["task", "task:seed"], ["in_pos:form"])
    for term in [*POSITIONS, "in_pos:form"]:
        tables = [anova(frame, s, POSITIONS, ["task", "task:seed"], ["in_pos:form"])[term] for s in scores]
        own = found.terms[found.terms["term"] == term].set_index("response")
        assert own.loc[scores, "p"].tolist() == pytest.approx([t.p_decisive for t in tables])
        theirs = multipletests([t.p_decisive for t in tables], method="holm")[1]
        assert own.loc[scores, "p_holm"].tolist() == pytest.approx(theirs.tolist())
    assert set(found.terms["role"]) == {"factor", "interaction"} and len(found.terms) == 4 * 3
    assert "form makes a difference to" in found.explain() and "each tested against task" in found.explain()


def test_holm_counts_only_scores_on_which_a_term_could_be_tested():
    """R's p.adjust leaves NA out of the count (p_adjust oracle); here one score is constant within every cell."""
    frame = _study(tasks=4).assign(flat=lambda d: d["d"].map("abcdef".index).astype(float))
    found = several(frame, ["good", "bad", "flat"], ["d"], ["task"], error="residual").terms.set_index("response")
    assert np.isnan(found.loc["flat", "p_holm"])
    theirs = multipletests(found.loc[["good", "bad"], "p"].tolist(), method="holm")[1]
    assert found.loc[["good", "bad"], "p_holm"].tolist() == pytest.approx(theirs.tolist())
    words = several(frame, ["good", "bad", "flat"], ["d"], ["task"], error="residual").explain()
    assert "d could not be tested on flat." in words


def test_scores_missing_in_different_rows_are_said():
    frame = _study(tasks=4)
    frame.loc[3, "bad"] = np.nan
    assert "48 rows of good, 47 rows of bad" in several(frame, ["good", "bad"], ["d"], ["task"]).explain()
    with pytest.raises(InputFault, match="each once"):
        several(frame, ["good", "good"], ["d"])


def test_undominated_rows_equal_the_definition():
    rng = np.random.default_rng(1)
    gains = rng.integers(0, 4, size=(40, 3)).astype(float)  # ties on purpose
    by_hand = [not any((other >= own).all() and (other > own).any() for other in gains) for own in gains]
    assert undominated(gains).tolist() == by_hand


def test_probabilities_are_those_of_all_ways_to_draw_the_tasks():
    """Three tasks: the 27 draws, one by one; 20,000 random draws must come within four standard errors."""
    frame = _study()
    cells = frame.groupby(["d", "task"])[["good", "bad"]].mean()
    values = cells.to_numpy().reshape(6, 3, 2)
    exact = np.zeros(6)
    for draw in product(range(3), repeat=3):
        means = values[:, list(draw)].mean(axis=1) * [1, -1]
        exact += [not any((o >= m).all() and (o > m).any() for o in means) for m in means]
    exact /= 27
    found = pareto(frame, {"good": "higher", "bad": "lower"}, "d", draws=20000).designs.set_index("design")
    ours = found.loc[list("abcdef"), "probability"].to_numpy()
    assert (np.abs(ours - exact) < 4 * np.sqrt(exact * (1 - exact) / 20000) + 1e-3).all()
    assert found.loc[list("abcdef"), "good"].to_numpy() == pytest.approx(values[:, :, 0].mean(axis=1))
    now = values.mean(axis=1) * [1, -1]
    optimal = [not any((o >= m).all() and (o > m).any() for o in now) for m in now]
    assert found.loc[list("abcdef"), "optimal"].tolist() == optimal


def test_a_design_better_everywhere_is_certain_and_one_worse_everywhere_impossible():
    frame = _study(tasks=5)
    frame.loc[frame["d"] == "a", "good"] += 100
    frame.loc[frame["d"] == "a", "bad"] -= 100
    found = pareto(frame, {"good": "higher", "bad": "lower"}, ["d"])
    assert found.optimal == ["a"] and found.designs["probability"].tolist() == [1, 0, 0, 0, 0, 0]
    other = pareto(frame, {"good": "lower", "bad": "higher"}, ["d"]).designs.set_index("design")
    assert other.loc["a", "probability"] == 0
    assert "1 of 6 designs: a (probability 1.00)" in found.explain()


def test_parameters_may_be_one_of_the_scores():
    found = pareto(FRAME, {"score": "higher", "params": "lower"}, POSITIONS)
    means = FRAME.groupby(POSITIONS)[["score", "params"]].mean()
    front = on_front(means["params"], means["score"])
    assert set(found.optimal) == {":".join(key) for key in front.index[front]}
    assert {"in_pos", "out_pos", "form"} < set(found.designs.columns)


def test_with_two_tasks_there_is_no_probability():
    found = pareto(_study(tasks=2), {"good": "higher", "bad": "lower"}, "d")
    assert found.designs["probability"].isna().all() and found.designs["optimal"].any()
    assert "no probability can be given" in found.explain() and "probability " not in found.explain().split("\n")[0]
    assert isinstance(found.plot(), Figure)


def test_a_design_gains_nothing_by_failing_where_it_is_hard():
    """On the last task every score is low; a fails there, so that task is used for none."""
    frame = _study(tasks=5)
    frame.loc[frame["task"] == 4, "good"] -= 50
    frame.loc[(frame["d"] == "a") & (frame["task"] == 4) & (frame["seed"] == 1), "good"] = np.nan
    frame = pd.concat([frame, frame[frame["d"] == "b"].assign(d="z", bad=np.nan)])
    found = pareto(frame, {"good": "higher", "bad": "lower"}, "d")
    assert found.left_out == ("4",) and found.never == ("z",) and found.tasks == tuple("0123")
    kept = frame[(frame["task"] < 4) & (frame["d"] != "z")].groupby("d")["good"].mean()
    assert found.designs.set_index("design")["good"].to_dict() == pytest.approx(kept.to_dict())
    assert "Left out, since some design lacks a score there: 4." in found.explain()


def test_draws_are_repeatable_and_the_result_is_plain():
    one, same, other = (pareto(FRAME, BETTER, POSITIONS, draws=200, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one.designs, same.designs)
    assert not one.designs["probability"].equals(other.designs["probability"])
    document = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert len(document["designs"]) == 45 and document["scores"] == BETTER
    assert isinstance(one.plot(), Figure) and "probability" in one.to_markdown()


@pytest.mark.parametrize(
    ("scores", "match"),
    [({"good": "higher"}, "two scores or more"), ({"good": "higher", "bad": "less"}, "bad: 'less'"),
     ({"good": "higher", "worse": "lower"}, "no column 'worse'"), ({"good": "higher", "d": "lower"}, "text")],
)  # fmt: skip
def test_wrong_calls_say_what_is_wrong(scores, match):
    with pytest.raises(InputFault, match=match):
        pareto(_study(), scores, "task" if "d" in scores else "d", task="seed")


def test_a_factor_that_a_design_does_not_have_is_absent():
    frame = _study(designs=3).assign(rank=lambda d: d["d"].map({"a": 4, "b": 16}), parameters=lambda d: d["d"].map(ord))
    found = pareto(frame, {"good": "higher", "bad": "lower"}, ["d", "rank"])
    assert set(found.designs["design"]) == {"a:4", "b:16", "c:(absent)"}
    assert len(size_trend(frame, "good", ["d", "rank"]).designs) == 3
    named = pareto(frame.rename(columns={"d": "design"}), {"good": "higher", "bad": "lower"}, "design").designs
    assert sorted(named["design"]) == list("abc") and named.columns.is_unique


def test_designs_without_a_common_task_are_refused_with_a_way_out():
    frame = _study(tasks=2, designs=3)
    frame.loc[(frame["d"] == "a") & (frame["task"] == 0), "good"] = np.nan
    frame.loc[(frame["d"] == "b") & (frame["task"] == 1), "good"] = np.nan
    with pytest.raises(InputFault, match=r"such as a \(complete in 1 of 2\)"):
        pareto(frame, {"good": "higher", "bad": "lower"}, "d")


def test_a_trend_over_designs_equals_statsmodels():
    found = size_trend(FRAME, "score", POSITIONS, "params")
    means = FRAME.groupby(POSITIONS)[["score", "params"]].mean().assign(x=lambda d: np.log10(d["params"]))
    fit = smf.ols("score ~ x", means).fit()
    assert [found.slope, found.lower, found.upper, found.p] == pytest.approx(
        [fit.params["x"], *fit.conf_int().loc["x"], fit.pvalues["x"]], rel=1e-8
    )
    assert found.df == 43
    slopes = [stats.linregress(np.log10(own["params"]), own["score"]).slope for _, own in FRAME.groupby("task")]
    interval = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert [found.slope_tasks, found.lower_tasks, found.upper_tasks] == pytest.approx(
        [np.mean(slopes), interval.low, interval.high], rel=1e-8
    )
    assert (found.designs["front"] == on_front(found.designs["parameters"], found.designs["score"])).all()
    assert found.designs["front"].any() and "Designs differ in more than size" in found.explain()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["df"] == 43
    assert isinstance(found.plot(), Figure)


def test_a_known_trend_is_in_its_interval_and_two_tasks_give_no_claim_about_new_ones():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(list(product(range(30), "uv")), columns=["d", "task"])
    frame["parameters"] = 10 ** (3 + frame["d"] / 10)
    frame["y"] = -2 * np.log10(frame["parameters"]) + rng.normal(0, 0.5, len(frame))
    found = size_trend(frame, "y", "d", higher_is_better=False)
    assert found.lower < -2 < found.upper and found.upper - found.lower < 1
    assert np.isnan(found.slope_tasks) and "nothing can be said of the trend on new ones" in found.explain()
    assert found.designs.loc[found.designs["y"].idxmin(), "front"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.assign(parameters=d["seed"] + 1), "differs between rows of one design"),
        (lambda d: d.assign(parameters=0), "above 0"),
        (lambda d: d.assign(parameters=7), "two sizes or more"),
    ],
)
def test_a_trend_that_cannot_be_fitted_is_refused(change, match):
    with pytest.raises(InputFault, match=match):
        size_trend(change(_study()), "good", "d")
