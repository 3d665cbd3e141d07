"""The recommended design and its set: against R's comparisons with the best, and on studies whose truth is known."""

import json

import numpy as np
import oracles
import pandas as pd
import pytest

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis.compare import best
from analysis.recommend_rule import recommend
from analysis.recommended import CHOSEN, EXCLUDED

BLOCKS = ["task", "task:seed"]


def study(rng, effects, tasks=4, seeds=3, by_task=0.0, noise=0.1):
    """Trials of designs (level → mean), on tasks that differ by SD 1 and seeds that all designs share by SD .2."""
    rows = pd.DataFrame(
        [(level, f"t{t}", s) for level in effects for t in range(tasks) for s in range(seeds)],
        columns=["form", "task", "seed"],
    )
    of_task, of_seed = rng.normal(0, 1, tasks), rng.normal(0, 0.2, (tasks, seeds))
    task = rows["task"].str[1:].astype(int)
    own = {key: rng.normal(0, by_task) for key in rows.groupby(["form", "task"]).groups}
    rows["y"] = rows["form"].map(effects) + of_task[task] + of_seed[task, rows["seed"]]
    rows["y"] += [own[key] for key in zip(rows["form"], rows["task"], strict=True)] + rng.normal(0, noise, len(rows))
    return rows


def positions(rng, activations=("relu", "silu"), tasks=3, seeds=2, noise=0.1):
    """Trials of every valid pair with every activation; CA_out:FFN_in with silu is by far the best."""
    cells = [(i, o, a, f"t{t}", s) for i, o in PAIRS for a in activations for t in range(tasks) for s in range(seeds)]
    rows = pd.DataFrame(cells, columns=["input", "output", "activation", "task", "seed"])
    winner = (rows["input"] == "CA_out") & (rows["output"] == "FFN_in")
    rows["y"] = 2.0 * winner + 1.0 * (rows["activation"] == activations[-1]) + rng.normal(0, noise, len(rows))
    return rows


def verdicts(found):
    return dict(zip(found.designs["design"], found.designs["verdict"], strict=True))


def test_the_sets_are_those_of_r():
    """R's set of pairs at 95 %: with two parts of a design each is at 1 − (1 − .9)/2 = 95 %."""
    found = recommend(
        oracles.data("adapter_failed"), "score", ["in_pos", "out_pos", "form"], ["task"], ("in_pos", "out_pos"),
        "residual", level=0.9,
    )  # fmt: skip
    known = {row["level"] for row in oracles.expected("adapter_failed_mcb")["cell_in_out"] if row["could_be_best"]}
    assert [chosen.of for chosen in found.sets] == [("in_pos", "out_pos"), ("form",)]
    assert found.sets[0].level == pytest.approx(0.95)
    assert set(found.sets[0].may_be_best) == known
    assert found.n_failed == 45 and f"{found.levels['in_pos']}:{found.levels['out_pos']}" in known


def test_a_clear_best_is_recommended_alone_with_its_lead():
    rows = study(np.random.default_rng(0), {"a": 0.0, "b": 0.5, "c": 3.0, "d": 1.0})
    found = recommend(rows, "y", "form", BLOCKS)
    assert (found.chosen, found.may_be_best, found.levels) == ("c", ("c",), {"form": "c"})
    assert set(found.excluded) == {"a", "b", "d"} and all(why.startswith("not the best (p ") for why in
                                                          found.excluded.values())  # fmt: skip
    (lead,) = found.ahead
    assert lead["lower"] <= 2.0 <= lead["upper"] and lead["lower"] == 0  # Hsu's bound when one alone may be the best
    assert lead["estimate"] == pytest.approx(best(rows, "y", "form", ["form"], BLOCKS).rows.set_index("level").at[
        "c", "estimate"])  # fmt: skip
    assert found.designs["verdict"].tolist() == [CHOSEN] + [EXCLUDED] * 3
    assert found.error == "task" and "new levels of task, of which these 4 are a sample" in found.question


def test_lower_can_be_better():
    rows = study(np.random.default_rng(1), {"a": 0.0, "b": 0.1, "c": 0.3}, noise=0.2)
    up = recommend(rows, "y", "form", BLOCKS)
    down = recommend(rows.assign(y=-rows["y"]), "y", "form", BLOCKS, higher_is_better=False)
    assert (up.chosen, up.may_be_best) == (down.chosen, down.may_be_best)
    assert up.ahead[0]["upper"] == pytest.approx(down.ahead[0]["upper"])


def test_order_of_rows_and_units_of_the_score_change_nothing():
    rng = np.random.default_rng(2)
    rows = study(rng, {"a": 0.0, "b": 0.1, "c": 0.12, "d": -0.5}, noise=0.1)
    first = recommend(rows, "y", "form", BLOCKS)
    shuffled = rows.sample(frac=1, random_state=3)
    again = recommend(shuffled.assign(y=100 + 7 * shuffled["y"]), "y", "form", BLOCKS)
    assert again.chosen == first.chosen and set(again.may_be_best) == set(first.may_be_best)
    assert again.trial_sd == pytest.approx(7 * first.trial_sd)


def test_trial_sd_is_the_residual_of_the_planted_model():
    rows = study(np.random.default_rng(3), dict.fromkeys("abcdefgh", 0.0), tasks=8, seeds=5, by_task=0.5, noise=0.1)
    found = recommend(rows, "y", "form", BLOCKS)
    # 8·8·4 − 8·4 = 224 degrees of freedom: a standard error of 5 %
    assert found.trial_sd == pytest.approx(0.1, rel=0.15) and found.trial_sd_of.endswith("on its task")
    single = recommend(rows[rows["seed"] == 0], "y", "form", ["task"])
    assert single.trial_sd == pytest.approx(np.hypot(0.5, 0.1), rel=0.3) and "leaves" in single.trial_sd_of


# Failures


def test_a_design_does_not_win_by_failing_on_hard_tasks():
    """`lucky` leads where it succeeds, and fails on the three tasks where failing costs most."""
    rows = study(np.random.default_rng(4), {"a": 0.0, "b": 0.05, "lucky": 0.4}, tasks=6)
    hard = rows.groupby("task")["y"].mean().nlargest(3).index
    rows.loc[(rows["form"] == "lucky") & rows["task"].isin(hard), "y"] = np.nan
    assert best(rows, "y", "form", ["form"], BLOCKS, error="residual").may_be_best == ("lucky",)
    found = recommend(rows, "y", "form", BLOCKS, error="residual")
    assert found.chosen in ("a", "b") and found.n_failed == 9
    assert found.excluded["lucky"].startswith("9 of 18 trials failed")
    told = found.designs.set_index("design").loc["lucky"]
    assert told["failed"] == 9 and told["mean"] > told["counted"]
    assert "9 of 18 trials failed" in found.explain()


def test_failures_decide_between_designs_within_noise():
    rows = tied({"a": 1, "b": 1, "c": 1})
    rows.loc[rows.loc[rows["form"] == "a", "y"].idxmin(), "y"] = np.nan  # where failing costs least
    found = recommend(rows, "y", "form", BLOCKS)
    assert set(found.may_be_best) == {"a", "b", "c"} and found.n_failed == 1
    assert found.chosen == "c"  # the best mean without a failure
    assert found.designs.set_index("design").at["a", "reason"] == "more of its trials failed"


def test_a_design_that_always_failed_is_excluded_and_said():
    rows = study(np.random.default_rng(6), {"a": 0.0, "b": 0.5, "dead": 9.0})
    rows.loc[rows["form"] == "dead", "y"] = np.nan
    found = recommend(rows, "y", "form", BLOCKS)
    assert found.excluded["dead"] == "all 12 trials failed"


# What decides within noise


def tied(size):
    """Three designs whose means differ by less than noise, a ahead of c ahead of b, with sizes."""
    rows = study(np.random.default_rng(7), {"a": 0.0, "b": 0.0, "c": 0.0}, noise=0.1)
    for level, shift in {"a": 0.04, "b": 0.0, "c": 0.02}.items():
        mine = rows["form"] == level
        rows.loc[mine, "y"] += shift - rows.loc[mine, "y"].mean() + 1
    rows["parameters"] = rows["form"].map(size)
    return rows


def test_of_designs_within_noise_the_smallest_is_named():
    found = recommend(tied({"a": 1000, "b": 500, "c": 800}), "y", "form", BLOCKS, parameters="parameters")
    assert set(found.may_be_best) == {"a", "b", "c"} and found.chosen == "b"
    reasons = found.designs.set_index("design")["reason"]
    assert reasons["b"] == "" and "more parameters" in reasons["a"]


def test_sizes_that_hardly_differ_do_not_decide():
    found = recommend(tied({"a": 1050, "b": 1000, "c": 1010}), "y", "form", BLOCKS, parameters="parameters")
    assert found.chosen == "a"


def test_without_sizes_the_best_mean_is_named():
    assert recommend(tied({"a": 1, "b": 1, "c": 1}), "y", "form", BLOCKS).chosen == "a"


def test_size_does_not_decide_beyond_one_sd_of_a_trial():
    """With three trials a design, differences of more than one SD of a trial are within noise."""
    rows = study(np.random.default_rng(16), {"a": 0.0, "b": 0.0, "c": 0.0}, tasks=3, seeds=1)
    sd = recommend(rows, "y", "form", ["task"]).trial_sd
    for lag, named in ((0.8, "b"), (1.3, "a")):
        for level, shift in {"a": 0.0, "b": -lag * sd, "c": -0.1 * sd}.items():
            mine = rows["form"] == level
            rows.loc[mine, "y"] += shift - rows.loc[mine, "y"].mean()
        rows["parameters"] = rows["form"].map({"a": 1000, "b": 10, "c": 1000})
        found = recommend(rows, "y", "form", ["task"], parameters="parameters")
        assert found.trial_sd == pytest.approx(sd) and set(found.may_be_best) == {"a", "b", "c"}
        assert found.chosen == named


def test_another_score_decides_only_where_it_is_shown_to_differ():
    rows = tied({"a": 1000, "b": 500, "c": 500})
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 0.1, len(rows))
    clear = rows.assign(prompt=noise + rows["form"].map({"a": 1.0, "b": 0.0, "c": 1.0}))
    found = recommend(clear, "y", "form", BLOCKS, scores={"prompt": "higher"}, parameters="parameters")
    assert found.chosen == "c" and found.designs.set_index("design").at["b", "reason"] == "worse in prompt"
    turned = recommend(clear, "y", "form", BLOCKS, scores={"prompt": "lower"}, parameters="parameters")
    assert turned.chosen == "b"
    unclear = rows.assign(prompt=noise)
    assert recommend(unclear, "y", "form", BLOCKS, scores={"prompt": "higher"}, parameters="parameters").chosen in "bc"
    empty = rows.assign(prompt=np.nan)
    found = recommend(empty, "y", "form", BLOCKS, scores={"prompt": "higher"})
    assert found.chosen == "a" and "prompt has no value" in found.explain()


# Several factors


def test_pair_and_activation_are_chosen_each_on_its_own_and_were_run_together():
    found = recommend(positions(np.random.default_rng(9)), "y", ["input", "output", "activation"], BLOCKS,
                      ("input", "output"))  # fmt: skip
    assert found.chosen == "CA_out:FFN_in, silu"
    assert found.levels == {"input": "CA_out", "output": "FFN_in", "activation": "silu"}
    assert [part["level"] for part in found.ahead] == ["CA_out:FFN_in", "silu"]
    assert [chosen.level for chosen in found.sets] == pytest.approx([0.975, 0.975])
    assert len(found.designs) == 40
    told = found.explain()
    assert "100 of 140 combinations" in told and "interactions between" in told
    # 10 inputs × 7 outputs × 2 activations, of which 20 pairs × 2 are valid


def test_levels_never_run_together_are_compared_as_whole_designs():
    rows = positions(np.random.default_rng(10))
    winner = (rows["input"] == "CA_out") & (rows["output"] == "FFN_in") & (rows["activation"] == "silu")
    found = recommend(rows[~winner], "y", ["input", "output", "activation"], BLOCKS, ("input", "output"))
    assert found.chosen == "CA_out:FFN_in, relu"  # 2 + 0, where any other pair has at most 0 + 1
    assert "never run together" in found.explain()
    assert [chosen.of for chosen in found.sets] == [("whole design",)]


# What cannot be said


def test_one_task_claims_nothing_of_new_ones():
    rows = study(np.random.default_rng(11), {"a": 0.0, "b": 1.0}, tasks=1)
    found = recommend(rows, "y", "form", ["task:seed"])
    assert found.error == "residual" and any("nothing is said of new ones" in each for each in found.not_tested)
    assert found.on_these_tasks == found.may_be_best


def test_few_tasks_leave_every_design_and_the_set_on_these_tasks_is_given_beside():
    rows = study(np.random.default_rng(12), {"a": 0.0, "b": 0.1, "c": 0.25}, tasks=2, seeds=8, by_task=0.1, noise=0.05)
    found = recommend(rows, "y", "form", BLOCKS)
    assert set(found.may_be_best) == {"a", "b", "c"} and found.on_these_tasks == ("c",)
    told = found.explain()
    assert "No design could be excluded" in told and "On the tasks that were run" in told
    assert recommend(rows, "y", "form", BLOCKS, error="residual").may_be_best == ("c",)


def test_without_any_noise_to_measure_there_is_no_interval_and_the_best_mean_is_named():
    rows = pd.DataFrame({"form": ["a", "b", "c"], "y": [0.1, 0.3, 0.2], "size": [1, 9, 1]})
    found = recommend(rows, "y", "form", parameters="size")
    assert found.chosen == "b" and found.trial_sd is None
    assert found.ahead[0]["lower"] is None and set(found.may_be_best) == {"a", "b", "c"}
    assert "Nothing measures the SD" in found.explain()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.assign(y=np.nan), "has no value in any of the"),
        (lambda rows: rows.drop(columns="y"), "no column 'y'"),
        (lambda rows: rows.assign(form="a"), "Nothing varies"),
        (lambda rows: rows.assign(y=rows["y"].where(rows["form"] == "a")), "Nothing varies"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(change, said):
    rows = study(np.random.default_rng(13), {"a": 0.0, "b": 1.0})
    with pytest.raises(InputFault, match=said):
        recommend(change(rows), "y", "form", BLOCKS)


def test_a_direction_that_is_none_is_refused():
    rows = study(np.random.default_rng(14), {"a": 0.0, "b": 1.0}).assign(z=1.0)
    with pytest.raises(InputFault, match="'higher' or 'lower'"):
        recommend(rows, "y", "form", BLOCKS, scores={"z": "up"})


# The promise


def test_the_truly_best_is_in_the_set_and_the_lead_s_interval_holds_the_truth():
    """Planted truth, 150 studies of 6 designs on 5 tasks, the designs' differences varying by task.

    At 95 % fewer than 134 of 150 have a probability below .002 (binomial).
    """
    rng = np.random.default_rng(15)
    inside = held = 0
    for _ in range(150):
        effects = dict(zip("abcdef", rng.normal(0, 0.2, 6), strict=True))
        found = recommend(study(rng, effects, tasks=5, seeds=2, by_task=0.15, noise=0.1), "y", "form", BLOCKS)
        top = max(effects, key=effects.__getitem__)
        inside += top in found.may_be_best
        others = max(value for level, value in effects.items() if level != found.chosen)
        held += found.ahead[0]["lower"] <= effects[found.chosen] - others <= found.ahead[0]["upper"]
    assert inside >= 134 and held >= 134


def test_the_result_is_a_table_a_document_and_a_figure():
    found = recommend(tied({"a": 1000, "b": 500, "c": 800}), "y", "form", BLOCKS, parameters="parameters")
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["chosen"] == "b" and document["designs"][0]["verdict"] == CHOSEN
    assert found.to_markdown().count("\n") == 1 + 3 and "b" in found._repr_html_()
    assert verdicts(found)["b"] == CHOSEN
    figure = found.plot()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
