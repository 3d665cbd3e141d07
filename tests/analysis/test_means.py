"""Means and differences against R's emmeans and arithmetic."""

import numpy as np
import oracles
import pandas as pd
import pytest

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis import cell_means, differences, marginal_means

FACTORS = ["in_pos", "out_pos", "form"]
R = ["emmean", "SE", "df", "lower.CL", "upper.CL"]
OURS = ["mean", "se", "df", "lower", "upper"]
FRAME = oracles.data("adapter_failed")
KNOWN = oracles.expected("adapter_failed")


def _equal(ours: pd.DataFrame, theirs: list[dict], keys: list[str]) -> None:
    ours = ours.set_index(keys)
    given = [row for row in theirs if row["emmean"] != "NA"]
    assert int(ours["estimable"].sum()) == len(given)
    for row in given:
        key = row[keys[0]] if len(keys) == 1 else tuple(row[k] for k in keys)
        assert ours.loc[key, OURS].tolist() == pytest.approx([row[c] for c in R], rel=1e-9)


@pytest.mark.parametrize("factor", ["in_pos", "form"])
def test_additive_means_equal_emmeans(factor):
    ours = marginal_means(FRAME, "score", factor, FACTORS, ["task"], over="levels", error="residual")
    _equal(ours, KNOWN["additive"][f"emm_{factor}"]["means"], [factor])


def test_means_in_an_interaction_model_equal_emmeans_and_the_forbidden_have_no_row():
    ours = marginal_means(
        FRAME, "score", ["in_pos", "out_pos"], FACTORS, ["task"], "all", over="levels", error="residual"
    )
    assert len(ours) == 15
    _equal(ours, KNOWN["emm_in_out"], ["in_pos", "out_pos"])


def test_what_is_not_estimable_is_nan_as_in_emmeans():
    ours = marginal_means(FRAME, "score", "in_pos", FACTORS, ["task"], "all", over="levels", error="residual")
    _equal(ours, KNOWN["emm_in_pos_interaction_model"], ["in_pos"])
    assert ours.loc[~ours["estimable"], ["mean", "se", "lower", "upper"]].isna().all(axis=None)


def test_cell_means_adjust_for_blocks_as_emmeans():
    additive = FRAME.assign(cell=FRAME["in_pos"] + ":" + FRAME["out_pos"])
    ours = marginal_means(additive, "score", "cell", ["cell", "form"], ["task"], over="levels", error="residual")
    _equal(ours, KNOWN["cellmeans"]["emm_cell"], ["cell"])


def test_means_over_valid_cells_are_averages_of_cell_means():
    """In a model of all cells, the mean over the cells of a level is the plain average of its cell means."""
    frame = FRAME[FRAME["form"] == "linear"]
    cells = cell_means(frame, "score", ["in_pos", "out_pos"], ["task"])
    ours = marginal_means(frame, "score", "in_pos", ["in_pos", "out_pos"], ["task"], ["in_pos:out_pos"])
    by_hand = cells.groupby("in_pos")["mean"].mean()
    assert ours.set_index("in_pos")["mean"].to_dict() == pytest.approx(by_hand.to_dict(), rel=1e-12)


def test_cell_means_without_blocks_are_plain_means():
    ours = cell_means(FRAME, "score", ["form"])
    by_hand = FRAME.groupby("form")["score"].mean()
    assert ours.set_index("form")["mean"].to_dict() == pytest.approx(by_hand.to_dict(), rel=1e-12)


def test_levels_of_different_components_have_no_additive_mean_but_every_pair_has():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(i, o, t) for i, o in PAIRS for t in "abc"], columns=["input", "output", "task"])
    frame["y"] = rng.normal(size=len(frame))
    means = marginal_means(frame, "y", "input", ["input", "output"], ["task"], over="levels", error="residual")
    assert not means["estimable"].any()
    assert cell_means(frame, "y", ["input", "output"], ["task"])["estimable"].all()
    assert len(cell_means(frame, "y", ["input", "output"], ["task"])) == 20


def test_differences_equal_r_s_contrasts():
    """Tukey's table of emmeans, of which the estimate and its standard error do not depend on the adjustment."""
    frame = FRAME.assign(form=FRAME["form"])
    ours = differences(frame, "score", ["form"], ["linear"], ["task"])
    cells = cell_means(frame, "score", ["form"], ["task"]).set_index("form")["mean"]
    for _, row in ours.iterrows():
        assert row["difference"] == pytest.approx(cells[row["form"]] - cells["linear"], rel=1e-10)
    wool = differences(oracles.data("warpbreaks_balanced"), "breaks", ["wool", "tension"], ["A", "L"])
    by_hand = oracles.data("warpbreaks_balanced").groupby(["wool", "tension"])["breaks"].agg(["mean", "var"])
    for _, row in wool.iterrows():
        assert row["difference"] == pytest.approx(
            by_hand["mean"][row["wool"], row["tension"]] - by_hand["mean"]["A", "L"], rel=1e-10
        )
        # balanced: standard error of a difference of two means of nine, pooled variance
        assert row["se"] == pytest.approx(np.sqrt(by_hand["var"].mean() * 2 / 9), rel=1e-10)
        assert row["df"] == 54 - 6


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(InputFault, match="not among the factors"):
        marginal_means(FRAME, "score", "task", FACTORS)
    with pytest.raises(InputFault, match="'cells' or 'levels'"):
        marginal_means(FRAME, "score", "form", FACTORS, over="rows")
    with pytest.raises(InputFault, match="does not occur"):
        differences(FRAME, "score", ["in_pos", "out_pos"], ["I4", "O0"])
