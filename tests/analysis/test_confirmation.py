"""A chosen design against others on new tasks: paired t, Holm and non-inferiority against independent oracles."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from adapters.faults import InputFault
from analysis.confirmation import chance, confirm
from analysis.confirmation_result import SHRINKS

OTHERS = ["lora", "dora", "full"]


def trials(numbers: np.random.Generator, means: dict[str, float], tasks: int = 6, seeds: int = 2, between=0.05):
    """Rows of designs with true means; tasks have effects of their own, and so has each design on each task."""
    rows = []
    for task, effect in enumerate(numbers.normal(0, 0.2, tasks)):
        own = numbers.normal(0, between, len(means))
        for (design, mean), extra in zip(means.items(), own, strict=True):
            for seed in range(seeds):
                y = mean + effect + extra + numbers.normal(0, 0.02)
                rows.append({"compared": design, "task": f"t{task}", "seed": seed, "clip_i": y})
    return pd.DataFrame(rows)


def frame_of(seed: int = 0, **how) -> pd.DataFrame:
    return trials(np.random.default_rng(seed), {"mine": 0.6, "lora": 0.55, "dora": 0.6, "full": 0.61}, **how)


def compare(frame, **how):
    return confirm(frame, "clip_i", "compared", "mine", **how)


# Student's sleep data, as in R's ?sleep; R's documentation prints t.test(extra ~ group, data = sleep, paired = TRUE):
# t = -4.0621, df = 9, p-value = 0.002833, interval -2.4598858 to -0.7001142, mean difference -1.58.
SLEEP = [
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
]


def test_paired_t_is_rs_on_students_sleep():
    frame = pd.DataFrame(
        [(drug, person, extra) for drug, row in enumerate(SLEEP, 1) for person, extra in enumerate(row)],
        columns=["group", "task", "extra"],
    )
    row = confirm(frame, "extra", "group", "1").rows.iloc[0]
    assert (row["against"], row["tasks"], row["df"]) == ("2", 10, 9)
    assert row["t"] == pytest.approx(-4.0621, abs=5e-5) and row["p"] == pytest.approx(0.002833, abs=5e-7)
    assert row["lower"] == pytest.approx(-2.4598858, abs=5e-8) and row["upper"] == pytest.approx(-0.7001142, abs=5e-8)
    assert row["difference"] == pytest.approx(-1.58, abs=1e-12) and row["better"] == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tasks, seeds", [(3, 1), (6, 2), (11, 3)])
def test_numbers_are_those_of_scipy_and_statsmodels_on_means_over_seeds(seed, tasks, seeds):
    frame = frame_of(seed, tasks=tasks, seeds=seeds)
    found = compare(frame, reference="full", margin=0.02)
    means = frame.groupby(["task", "compared"])["clip_i"].mean().unstack()
    raw = []
    for other, row in zip(OTHERS, found.rows.to_dict("records"), strict=True):
        oracle = stats.ttest_rel(means["mine"], means[other])
        raw.append(oracle.pvalue)
        assert row["against"] == other and row["df"] == tasks - 1
        assert row["t"] == pytest.approx(oracle.statistic, rel=1e-9) and row["p"] == pytest.approx(raw[-1], rel=1e-9)
        d = (means["mine"] - means[other]).to_numpy()
        assert (row["lower"], row["upper"]) == pytest.approx(DescrStatsW(d).tconfint_mean(), rel=1e-9)
        assert row["better"] == (d > 0).sum() and row["mean"] == pytest.approx(means[other].mean())
    assert found.rows["p_adjusted"].tolist() == pytest.approx(multipletests(raw, method="holm")[1], rel=1e-9)
    # Non-inferiority: the closed form of the one-sided bound, and statsmodels' one-sided test of −margin.
    d = (means["mine"] - means["full"]).to_numpy()
    bound = d.mean() - stats.t.ppf(0.95, tasks - 1) * d.std(ddof=1) / np.sqrt(tasks)
    assert found.noninferior.bound == pytest.approx(bound, rel=1e-9)
    assert found.noninferior.p == pytest.approx(DescrStatsW(d).ttest_mean(-0.02, "larger")[1], rel=1e-9)
    assert found.noninferior.shown is bool(bound > -0.02) is bool(found.noninferior.p < 0.05)


def test_holm_by_hand():
    # Three differences with t tests at p = a < b < c: adjusted 3a, max(3a, 2b), max(that, c), at most 1.
    found = compare(frame_of(3))
    p = np.sort(found.rows["p"])
    expected = np.minimum(np.maximum.accumulate(p * [3, 2, 1]), 1)
    assert np.sort(found.rows["p_adjusted"]) == pytest.approx(expected)


@pytest.mark.parametrize("tasks", [1, 2])
def test_fewer_than_three_tasks_are_described_and_not_tested(tasks):
    found = compare(frame_of(tasks=tasks), reference="full", margin=0.02)
    assert not found.tested and found.rows[["p", "p_adjusted", "lower", "upper", "t"]].isna().all(axis=None)
    assert found.rows["difference"].notna().all() and found.noninferior.shown is None and found.noninferior.p is None
    told = found.explain()
    assert "too few" in told and "described, not tested" in told and "cannot be said" in told
    assert "p =" not in told and "interval" not in told and "better on" in told
    assert json.loads(found.to_json())["rows"][0]["p"] is None


def test_differences_that_do_not_vary_are_not_tested():
    frame = frame_of()
    same = frame[frame["compared"] == "mine"].assign(compared="lora", clip_i=lambda rows: rows["clip_i"] - 0.01)
    found = compare(pd.concat([frame[frame["compared"].isin(["mine", "dora"])], same]))
    row = found.rows.set_index("against").loc["lora"]
    assert row["difference"] == pytest.approx(0.01) and np.isnan(row["p"]) and np.isnan(row["p_adjusted"])
    assert "Against lora" in found.explain() and "not tested" in found.explain()
    # Holm's family is what is tested: dora's one p is its own.
    other = found.rows.set_index("against").loc["dora"]
    assert other["p_adjusted"] == other["p"]


def test_task_and_seed_effects_cancel_and_the_order_of_rows_does_not_matter():
    frame = frame_of()
    shifts = {(task, seed): 10 * k for k, (task, seed) in enumerate(frame.groupby(["task", "seed"]).groups)}
    shifted = frame.assign(
        clip_i=frame["clip_i"] + [shifts[key] for key in zip(frame["task"], frame["seed"], strict=True)]
    )
    columns = ["difference", "t", "p", "p_adjusted", "lower", "upper"]
    before = compare(frame).rows.set_index("against")[columns]
    assert compare(shifted).rows.set_index("against")[columns].to_numpy() == pytest.approx(before.to_numpy(), rel=1e-6)
    mixed = compare(frame.sample(frac=1, random_state=1)).rows.set_index("against")[columns]
    assert mixed.loc[before.index].to_numpy() == pytest.approx(before.to_numpy(), rel=1e-9)


def test_seeds_are_paired_where_one_was_not_run():
    frame = frame_of()
    less = frame[~((frame["compared"] == "lora") & (frame["task"] == "t0") & (frame["seed"] == 1))]
    # On t0 the difference is that of seed 0 alone, not of unlike seeds.
    at = frame[(frame["task"] == "t0") & (frame["seed"] == 0)].set_index("compared")["clip_i"]
    assert compare(less).differences.loc["t0", "lora"] == pytest.approx(at["mine"] - at["lora"])
    assert compare(less).differences.loc["t1":].equals(compare(frame).differences.loc["t1":])


def fail(frame: pd.DataFrame, design: str, task: str, seed: int) -> pd.DataFrame:
    at = (frame["compared"] == design) & (frame["task"] == task) & (frame["seed"] == seed)
    assert at.sum() == 1
    return frame.assign(clip_i=frame["clip_i"].mask(at))


def test_a_task_with_a_failure_counts_for_no_pair_it_belongs_to_and_the_worst_value_is_tried():
    whole = frame_of()
    frame = fail(whole, "lora", "t2", 1)
    found = compare(frame, reference="full", margin=0.02)
    rows = found.rows.set_index("against")
    assert rows["tasks"].to_dict() == {"lora": 5, "dora": 6, "full": 6} and rows.loc["lora", "failed"] == 1
    assert found.n_failed == 1 and np.isnan(found.differences.loc["t2", "lora"])
    # Oracles: scipy without the task, and scipy with the worst value in place of the failure.
    for some, row in (
        (frame[frame["task"] != "t2"], rows.loc["lora"]),
        (frame.fillna({"clip_i": frame["clip_i"].min()}), found.worst_rows.set_index("against").loc["lora"]),
    ):
        means = some.groupby(["task", "compared"])["clip_i"].mean().unstack()
        assert row["p"] == pytest.approx(stats.ttest_rel(means["mine"], means["lora"]).pvalue, rel=1e-9)
    told = found.explain()
    assert "1 of 48 trials have no clip_i (lora 1)" in told and f"({found.worst:.4f})" in told
    assert {"difference_worst", "p_adjusted_worst"} <= set(found.to_frame())


def test_a_verdict_that_failures_could_turn_is_taken_back():
    numbers = np.random.default_rng(0)
    frame = trials(numbers, {"mine": 0.9, "lora": 0.8, "full": 0.9, "poor": 0.3}, between=0.01)
    before = compare(frame, reference="full", margin=0.06)
    assert before.noninferior.shown and "mine is better" in before.explain() and before.worst is None
    # Its failures on two tasks leave the others as they are; at the worst value, one of poor's, it loses there.
    broken = fail(fail(frame, "mine", "t0", 0), "mine", "t1", 0)
    found = compare(broken, reference="full", margin=0.06)
    assert found.noninferior.shown is True and found.noninferior_worst.shown is False
    told = found.explain()
    assert "Non-inferiority to full is not claimed" in told and "(mine 2)" in told
    assert "is non-inferior" not in told and "mine is better" not in told.split("Against poor")[0]
    assert "lora" in found.unsure and "no verdict, since it depends on how failures count" in told
    assert before.unsure == () and json.loads(found.to_json())["unsure"] == list(found.unsure)


@pytest.mark.parametrize("tasks", [3, 6, 20])
def test_chance_of_non_inferiority_is_the_power_of_statsmodels(tasks):
    frame = frame_of()
    means = frame.groupby(["task", "compared"])["clip_i"].mean().unstack()
    effect = 0.03 / (means["mine"] - means["full"]).std(ddof=1)
    expected = TTestPower().power(effect, tasks, 0.05, alternative="larger")
    found = chance(frame, "clip_i", "compared", "mine", "full", 0.03, tasks)
    assert found == pytest.approx(expected, rel=1e-6) and 0.05 < found < 1


def test_chance_is_unknown_without_enough_tasks_or_one_of_the_two():
    frame = frame_of()
    for some, tasks in (
        (frame, 2), (frame.iloc[:0], 6), (frame[frame["compared"] != "full"], 6), (frame_of(tasks=2), 6),
        (frame.assign(clip_i=np.nan), 6),
    ):  # fmt: skip
        assert chance(some, "clip_i", "compared", "mine", "full", 0.03, tasks) is None


def test_a_design_that_always_failed_has_no_difference():
    frame = frame_of()
    frame = frame.assign(clip_i=frame["clip_i"].mask(frame["compared"] == "dora"))
    found = compare(frame)
    assert found.rows.set_index("against").loc["dora", "tasks"] == 0
    assert "Against dora: no task where all trials of both have a clip_i" in found.explain()
    assert json.loads(found.to_json())["rows"][1]["difference"] is None


def test_earlier_trials_are_shown_beside_and_change_no_number():
    frame, earlier = frame_of(), frame_of(1).assign(task=lambda rows: "old " + rows["task"])
    earlier = earlier[earlier["compared"] != "dora"]
    plain, found = compare(frame), compare(frame, earlier=earlier)
    pd.testing.assert_frame_equal(plain.rows, found.rows)
    means = earlier.groupby(["compared", "task"])["clip_i"].mean().groupby("compared").mean()
    assert found.earlier.mean == pytest.approx(means["mine"]) and found.earlier.tasks == 6
    expected = {"lora": means["mine"] - means["lora"], "full": means["mine"] - means["full"]}
    assert found.earlier.differences == pytest.approx(expected)
    assert found.explain().count(SHRINKS) == 2 and SHRINKS not in plain.explain()
    shown = found.to_frame().set_index("against")["difference_earlier"]
    assert shown["lora"] == pytest.approx(expected["lora"]) and np.isnan(shown["dora"])
    assert compare(frame, earlier=earlier[earlier["compared"] == "lora"]).earlier is None
    assert compare(frame, earlier=earlier.iloc[:0]).earlier is None


@pytest.mark.slow
def test_what_is_chosen_for_being_high_shrinks():
    """Twenty equal designs: the best of a study looks better than it is there, and not on the new tasks."""
    there, here = [], []
    for seed in range(40):
        numbers = np.random.default_rng(seed)
        names = {f"d{k}": 0.5 for k in range(20)}
        study = trials(numbers, {**names, "lora": 0.5}, between=0.05)
        means = study[study["compared"] != "lora"].groupby("compared")["clip_i"].mean()
        best = str(means.idxmax())
        new = trials(numbers, {best: 0.5, "lora": 0.5}, between=0.05)
        found = confirm(new, "clip_i", "compared", best, earlier=study)
        there.append(found.earlier.differences["lora"])
        here.append(found.rows["difference"].iloc[0])
    # The truth is 0. The largest of 20 means of SD s lies 1.867 s up on average (normal order statistics).
    s = np.sqrt((0.05**2 + 0.02**2 / 2) / 6)
    assert np.mean(there) == pytest.approx(1.867 * s, abs=4 * s * np.sqrt(2 / 40))
    assert abs(np.mean(here)) < 4 * s * np.sqrt(2 / 40)


@pytest.mark.slow
def test_intervals_cover_families_hold_and_non_inferiority_errs_as_often_as_it_may():
    """The truth is known: equal designs, and full better by exactly the margin."""
    count, covered, wrong, claimed = 500, 0, 0, 0
    for seed in range(count):
        numbers = np.random.default_rng([7, seed])
        frame = trials(numbers, {"mine": 0.5, "lora": 0.5, "dora": 0.5, "full": 0.52})
        found = compare(frame, reference="full", margin=0.02)
        rows = found.rows.set_index("against")
        covered += int(rows.loc["lora", "lower"] <= 0 <= rows.loc["lora", "upper"])
        wrong += bool((rows.loc[["lora", "dora"], "p_adjusted"] < 0.05).any())
        claimed += bool(found.noninferior.shown)
    # Binomial bounds that a right method leaves once in 10,000 runs.
    assert stats.binomtest(covered, count, 0.95).pvalue > 1e-4
    assert stats.binomtest(claimed, count, 0.05).pvalue > 1e-4
    assert stats.binomtest(wrong, count, 0.05, "greater").pvalue > 1e-4


def test_sentences_have_their_numbers():
    found = compare(frame_of(), reference="full", margin=0.02, notes=["A note."])
    told = found.explain()
    rows = found.rows.set_index("against")
    assert told.startswith("mine was compared with lora, dora and full on 6 tasks, paired by task")
    for other in OTHERS:
        row = rows.loc[other]
        for number in (f"{row['difference']:+.4f}", f"{row['lower']:+.4f}", f"{row['upper']:+.4f}", f"{row['t']:.2f}"):
            assert number in told
    assert f"{found.noninferior.bound:+.4f}" in told and "−0.02" in told and told.endswith("A note.")
    assert found.to_markdown() and "<table" in found._repr_html_()
    data = json.loads(found.to_json())
    assert data["noninferior"]["margin"] == 0.02 and len(data["differences"]) == 6 and data["chosen"] == "mine"


def test_the_figure_shows_every_difference_zero_and_the_margin():
    figure = compare(frame_of(), reference="full", margin=0.02).plot()
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == OTHERS
    assert {text.get_text() for text in ax.texts} == {"equal", "margin"}


@pytest.mark.parametrize(
    "how, word",
    [
        ({"reference": "full"}, "goes with a margin"),
        ({"margin": 0.02}, "goes with a margin"),
        ({"reference": "full", "margin": 0}, "above 0"),
        ({"reference": "full", "margin": float("nan")}, "above 0"),
        ({"reference": "vpt", "margin": 0.02}, "'vpt' is no level of compared; there are mine, lora, dora, full"),
        ({"reference": "mine", "margin": 0.02}, "to be compared with other designs"),
        ({"level": 95}, "probability"),
        ({"task": "subject"}, "no column 'subject'"),
    ],
)
def test_faults(how, word):
    with pytest.raises(InputFault, match=word):
        compare(frame_of(), **how)


def test_faults_of_rows():
    frame = frame_of()
    with pytest.raises(InputFault, match="'hers' is no level"):
        confirm(frame, "clip_i", "compared", "hers")
    with pytest.raises(InputFault, match="compared with other designs"):
        compare(frame[frame["compared"] == "mine"])
    with pytest.raises(InputFault, match="no value in any"):
        compare(frame.assign(clip_i=np.nan))
    with pytest.raises(InputFault, match="'task' has no value in 1 rows"):
        compare(frame.assign(task=frame["task"].where(frame.index > 0), clip_i=frame["clip_i"].where(frame.index > 0)))


def test_where_lower_is_better_everything_is_mirrored():
    """Oracle: the same numbers with their signs changed are the same comparison."""
    frame = frame_of(1).assign(clip_i=lambda rows: rows["clip_i"].mask(rows.index == 9))
    mirror = frame.assign(clip_i=-frame["clip_i"])
    how = {"reference": "full", "margin": 0.05}
    high, low = compare(frame, **how), compare(mirror, **how, higher_is_better=False)
    assert low.worst == -high.worst
    for one, other in ((high.rows, low.rows), (high.worst_rows, low.worst_rows)):
        assert one["better"].tolist() == other["better"].tolist()
        np.testing.assert_allclose(one["difference"], -other["difference"])
        np.testing.assert_allclose(one["p_adjusted"], other["p_adjusted"])
    for one, other in ((high.noninferior, low.noninferior), (high.noninferior_worst, low.noninferior_worst)):
        assert (one.shown, one.p) == (other.shown, pytest.approx(other.p)) and one.bound == pytest.approx(-other.bound)
    told = low.explain()
    assert "the difference to full is below " in told and "the margin is +0.05" in told
    better = compare(mirror.assign(clip_i=lambda rows: rows["clip_i"] - (rows["compared"] == "mine")),
                     higher_is_better=False)  # fmt: skip
    assert "mine is better" in better.explain() and "mine is worse" not in better.explain()
