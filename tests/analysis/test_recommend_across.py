"""One design for all backbones or one for each: against closed forms, and on studies whose truth is known."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis import anova
from analysis.declared import across_interactions, default_interactions
from analysis.recommend_across_rule import recommend_across
from analysis.recommended import CHOSEN, EXCLUDED

PAIRS = [(i, o) for i in ("SA_in", "CA_in", "CA_out") for o in ("FFN_in", "Trans_out")]


def trials(seed, effects, tasks=6, noise=0.1, by_task=0.1):
    """Every pair on two backbones; `effects`: (backbone, input) → mean. Inputs vary by task too, alike on backbones."""
    rng = np.random.default_rng(seed)
    cells = [(b, i, o, f"t{t}") for b in ("unet", "dit") for i, o in PAIRS for t in range(tasks)]
    rows = pd.DataFrame(cells, columns=["backbone", "input", "output", "task"])
    of_task = rng.normal(0, 1, tasks)
    own = {key: rng.normal(0, by_task) for key in rows.groupby(["input", "task"]).groups}
    rows["y"] = [effects.get((row.backbone, row.input), 0.0) for row in rows.itertuples()]
    rows["y"] += [own[row.input, row.task] + of_task[int(row.task[1:])] for row in rows.itertuples()]
    rows["y"] += 0.7 * (rows["backbone"] == "unet") + rng.normal(0, noise, len(rows))
    return rows


def across(rows, **more):
    return recommend_across(rows, "y", "backbone", ["input", "output"], ["task"], ("input", "output"), **more)


CROSSED = {("unet", "SA_in"): 2.0, ("dit", "CA_out"): 2.0, ("unet", "CA_out"): -2.0}
SAME = {("unet", "SA_in"): 2.0, ("dit", "SA_in"): 2.0}


def test_where_the_best_input_differs_by_backbone_each_has_a_recommendation_of_its_own():
    found = across(trials(0, CROSSED))
    assert found.apart and found.interacting == ("input:backbone",) and found.best_differs
    assert found.on("unet").levels["input"] == "SA_in" and found.on("dit").levels["input"] == "CA_out"
    assert all(each.level == pytest.approx(0.975) for each in found.each.values())
    said = found.explain()
    assert said.startswith("Effects depend on the backbone, on new levels of task: input × backbone (F(2, 10) = ")
    assert "The best design is not the same on every backbone" in said and "On dit, by its own trials:" in said
    json.dumps(found.to_dict(), allow_nan=False)


def test_where_effects_are_the_same_one_design_is_recommended_and_absence_is_not_claimed():
    found = across(trials(0, SAME))
    assert not found.apart and found.interacting == () and not found.best_differs
    assert found.on("unet") is found.on("dit") is found.average and found.average.levels["input"] == "SA_in"
    verdict = " ".join(found.verdict())
    assert "No effect is shown to depend on the backbone" in verdict and "does not show that none does" in verdict
    assert "It is not shown that the best design differs" in verdict


@pytest.mark.slow
def test_without_an_interaction_backbones_are_parted_as_rarely_as_promised():
    """Two tests at 5 % each: of 40 studies more than 10 are parted with probability < .002 (binomial, p = .0975)."""
    assert sum(across(trials(seed, SAME, tasks=5)).apart for seed in range(40)) <= 10


def test_the_average_is_that_of_paired_differences_of_means_over_backbones():
    rows = trials(3, SAME)
    rows = rows[rows["output"].eq("FFN_in") & rows["input"].isin(["SA_in", "CA_in"])]
    found = recommend_across(rows, "y", "backbone", "input", ["task"])
    by = rows.groupby(["task", "input"])["y"].mean().unstack()
    gap = by["SA_in"] - by["CA_in"]
    half = t_distribution.ppf(0.95, len(gap) - 1) * gap.std() / np.sqrt(len(gap))  # Hsu's of two is one-sided
    (lead,) = found.average.ahead
    assert lead["estimate"] == pytest.approx(gap.mean())
    # It alone may be the best, so the lower end is 0.
    assert (lead["lower"], lead["upper"]) == pytest.approx((0.0, gap.mean() + half), rel=1e-3)
    (there,) = found.average_on("dit")["leads"]
    alone = rows[rows["backbone"] == "dit"].groupby(["task", "input"])["y"].mean().unstack()
    assert there["estimate"] == pytest.approx((alone["SA_in"] - alone["CA_in"]).mean())


def test_a_design_that_one_backbone_lacks_is_compared_on_the_other_only():
    rows = trials(1, SAME | {("unet", "CA_out"): 9.0})
    found = across(rows[~(rows["backbone"].eq("dit") & rows["input"].eq("CA_out"))])
    assert found.on("unet").levels["input"] == ("CA_out" if found.apart else "SA_in")
    assert set(found.average.designs["input"]) == {"SA_in", "CA_in"}
    assert found.each["unet"].levels["input"] == "CA_out" and len(found.each["dit"].designs) == 4
    input_ = next(term for term in found.terms if term["term"] == "input:backbone")
    assert (input_["df"], input_["df_nominal"]) == (1, 2)


def test_without_a_common_design_each_has_its_own_and_it_is_said_what_cannot_be_tested():
    rows = trials(2, SAME)
    own = rows["backbone"].eq("unet") == rows["input"].eq("SA_in")
    found = across(rows[own])
    assert found.apart and found.average is None and "no design was run on every backbone" in found.average_fault
    assert "input:backbone" in found.untested
    assert "input × backbone cannot be tested: no two of its levels" in found.explain()


def test_a_failure_on_one_backbone_is_one_of_the_average():
    rows = trials(4, SAME)
    bad = rows["backbone"].eq("dit") & rows["input"].eq("SA_in") & rows["output"].eq("FFN_in") & rows["task"].eq("t0")
    found = across(rows.assign(y=rows["y"].mask(bad)))
    own = found.average.designs.set_index("design")
    assert found.average.n_failed == 1 and own.loc["SA_in:FFN_in", "failed"] == 1
    assert found.each["unet"].n_failed == 0 and found.each["dit"].n_failed == 1


def test_a_backbone_with_one_design_has_none_to_choose_and_the_other_is_recommended():
    rows = trials(5, CROSSED)
    found = across(rows[rows["backbone"].eq("unet") | (rows["input"].eq("SA_in") & rows["output"].eq("FFN_in"))])
    assert list(found.each) == ["unet"] and "Nothing varies" in found.faults["dit"]
    assert found.on("dit") is None and "dit has no recommendation of its own" in found.explain()


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda rows: rows[rows["backbone"] == "dit"], "one backbone"),
     (lambda rows: rows.drop(columns="backbone"), "must be a column")],
)  # fmt: skip
def test_what_is_no_comparison_of_backbones_is_a_fault(change, told):
    with pytest.raises(InputFault, match=told):
        across(change(trials(0, SAME)))


def test_the_average_design_is_excluded_where_its_own_trials_say_so():
    found = across(trials(6, {("unet", "SA_in"): 3.0, ("dit", "SA_in"): 1.0, ("dit", "CA_in"): 2.0}))
    assert found.average.levels["input"] == "SA_in"
    assert found.average_on("dit")["verdict"] == EXCLUDED and found.average_on("unet")["verdict"] != EXCLUDED
    assert {found.each[name].designs.iloc[0]["verdict"] for name in found.each} == {CHOSEN}


def test_the_pair_is_tested_as_means_over_backbones_are_with_interactions_in_the_model():
    """Balanced rows: the split-plot F of the pair is that of the rows averaged over the backbones."""
    rows = trials(7, CROSSED)
    given = {"blocks": ["task"], "pair": ("input", "output")}
    crossed = default_interactions(rows, "y", ["input", "output", "backbone"])
    assert crossed == across_interactions(["input", "output", "backbone"]) == ["input:backbone", "output:backbone"]
    table = anova(rows, "y", ["input", "output", "backbone"], interactions=crossed, **given)
    means = rows.groupby(["input", "output", "task"], as_index=False)["y"].mean()
    for term in ("pair", "input", "output", "input:output"):
        own, expected = table[term], anova(means, "y", ["input", "output"], **given)[term]
        assert (own.F, own.df, own.error.df) == (pytest.approx(expected.F), expected.df, expected.error.df)
        assert not own.error.approximate


def test_interactions_are_in_the_default_only_where_there_are_several_backbones():
    rows = trials(0, SAME)
    assert default_interactions(rows[rows["backbone"] == "dit"], "y", ["input", "backbone"]) == []
    assert default_interactions(rows, "y", ["input", "output"]) == []
