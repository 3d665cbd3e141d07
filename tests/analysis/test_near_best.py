"""Shares of settings near the best, task by task: against numbers worked out by hand, scipy, and simulated truth."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from adapters.faults import InputFault
from analysis import settings_near_best
from analysis.settings_near_best import near_best

# Scores by method, task and setting. Within .1 of the task's best of the method: lora 1, 2, 1 of 4; krona 3, 4, 2.
SCORES = {
    "lora": {"x": [0.80, 0.65, 0.5, 0.2], "y": [0.70, 0.65, 0.5, 0.2], "z": [0.60, 0.45, 0.4, 0.1]},
    "krona": {"x": [0.70, 0.65, 0.62, 0.2], "y": [0.60, 0.58, 0.55, 0.51], "z": [0.70, 0.69, 0.4, 0.5]},
}


def _frame(scores=SCORES) -> pd.DataFrame:
    rows = [
        {"method": method, "lr": ("1e-4", "1e-3")[k // 2], "rank": (4, 16)[k % 2], "task": task, "seed": 0, "y": y}
        for method, tasks in scores.items()
        for task, values in tasks.items()
        for k, y in enumerate(values)
    ]
    return pd.DataFrame(rows)


def _found(frame: pd.DataFrame, **options):
    return near_best(frame, "y", ["lr", "rank"], **{"against": "lora", "within": 0.1, **options})


def _row(found, method: str):
    return found.rows.set_index("method").loc[method]


def test_shares_are_counted_on_each_task_and_averaged():
    found = _found(_frame())
    shares = found.by_task.pivot(index="method", columns="task", values="share")
    assert shares.loc["lora"].tolist() == [1 / 4, 2 / 4, 1 / 4]
    assert shares.loc["krona"].tolist() == [3 / 4, 4 / 4, 2 / 4]
    assert _row(found, "krona")["share"] == pytest.approx(9 / 12)
    assert _row(found, "lora")["share"] == pytest.approx(4 / 12)
    # The best of both is .8, .7, .7: within .1 of it lie 1, 2, 1 settings of lora and 1, 1, 2 of krona.
    overall = found.by_task.pivot(index="method", columns="task", values="share_overall")
    assert overall.loc["lora"].tolist() == [1 / 4, 2 / 4, 1 / 4]
    assert overall.loc["krona"].tolist() == [1 / 4, 1 / 4, 2 / 4]
    spread = {method: np.mean([np.std(v, ddof=1) for v in tasks.values()]) for method, tasks in SCORES.items()}
    assert found.rows.set_index("method")["sd"].to_dict() == pytest.approx(spread)


def test_methods_are_compared_by_the_paired_t_test_over_tasks():
    scores = {**SCORES, "tlora": {"x": [0.8, 0.8, 0.8, 0.8], "y": [0.7, 0.6, 0.2, 0.1], "z": [0.5, 0.2, 0.2, 0.1]}}
    found = _found(_frame(scores))
    own = found.contrasts[found.contrasts["measure"] == "share"].set_index("method")
    for method, shares in (("krona", [3 / 4, 4 / 4, 2 / 4]), ("tlora", [4 / 4, 2 / 4, 1 / 4])):
        test = ttest_rel(shares, [1 / 4, 2 / 4, 1 / 4])
        ends = test.confidence_interval(0.95)
        row = own.loc[method]
        assert (row["t"], row["p"], row["lower"], row["upper"]) == pytest.approx(
            (test.statistic, test.pvalue, ends.low, ends.high), rel=1e-9
        )
    smaller, larger = sorted(own["p"])  # Holm's correction of two, by hand
    assert sorted(own["p_adjusted"]) == pytest.approx([min(2 * smaller, 1), max(2 * smaller, larger)])


def test_the_curve_counts_at_every_distance_and_ends_with_all_settings_that_did_not_fail():
    frame = _frame()
    found = _found(frame)
    for of in ("own", "overall"):
        line = found.curve[(found.curve["of"] == of) & (found.curve["method"] == "krona")]
        assert (line["share"].diff().dropna() >= 0).all()
        column = {"own": "share", "overall": "share_overall"}[of]
        at = line.iloc[np.argmin(np.abs(line["within"] - 0.1))]
        assert at["share"] == pytest.approx(_row(found, "krona")[column])
    wide = _found(frame, within=1.0).curve
    assert (wide[wide["within"] >= 1]["share"] == 1).all()
    assert isinstance(found.plot(), Figure)


def test_what_is_added_to_a_task_changes_nothing_and_what_stretches_scores_stretches_the_distance():
    frame = _frame()
    plain = _found(frame)
    moved = _found(frame.assign(y=frame["y"] + frame["task"].map({"x": 0.0, "y": 5.0, "z": -2.0})))
    pd.testing.assert_frame_equal(plain.rows, moved.rows)
    pd.testing.assert_frame_equal(plain.contrasts, moved.contrasts)
    wide = _found(frame.assign(y=3 * frame["y"]), within=0.3)
    shares = [column for column in plain.rows if "share" in column]
    pd.testing.assert_frame_equal(plain.rows[shares], wide.rows[shares])
    lowest = _found(frame.assign(y=-frame["y"]), higher_is_better=False)
    pd.testing.assert_frame_equal(plain.contrasts, lowest.contrasts)


def test_names_and_order_do_not_matter_and_swapping_the_methods_turns_the_sign():
    frame = _frame()
    plain = _found(frame)
    shuffled = _found(frame.sample(frac=1, random_state=0))
    assert _row(shuffled, "krona")["share"] == _row(plain, "krona")["share"]
    swapped = _found(frame, against="krona")
    assert swapped.contrasts["difference"].tolist() == pytest.approx((-plain.contrasts["difference"]).tolist())
    assert swapped.contrasts["p"].tolist() == pytest.approx(plain.contrasts["p"].tolist())
    renamed = _found(frame.assign(method=frame["method"].replace({"krona": "a", "lora": "b"})), against="b")
    assert renamed.contrasts["difference"].tolist() == plain.contrasts["difference"].tolist()


def test_a_setting_that_failed_is_not_near_the_best_and_counts_as_the_worst_in_the_spread():
    frame = _frame()
    failed = frame["y"].where(~((frame["method"] == "krona") & (frame["task"] == "y") & (frame["y"] == 0.58)))
    found = _found(frame.assign(y=failed), within=10)
    shares = found.by_task.pivot(index="method", columns="task", values="share")
    assert shares.loc["krona"].tolist() == [1, 3 / 4, 1] and shares.loc["lora"].tolist() == [1, 1, 1]
    spread = found.by_task.set_index(["method", "task"])["sd"]
    assert spread["krona", "y"] == pytest.approx(np.std([0.60, 0.2, 0.55, 0.51], ddof=1))  # .2 is the worst on y
    assert _row(found, "krona")["failed"] == 1 and "1 of krona" in found.explain()
    lost = _found(frame.assign(y=frame["y"].where(frame["method"] == "lora")))
    assert _row(lost, "krona")["share"] == 0 == _row(lost, "krona")["share_overall"]


def test_seeds_are_averaged_within_a_setting_and_task():
    frame = _frame()
    pair = [frame.assign(y=frame["y"] + 0.3, seed=1), frame.assign(y=frame["y"] - 0.3, seed=2)]
    pd.testing.assert_frame_equal(_found(pd.concat(pair)).rows, _found(frame).rows)


def test_without_tasks_enough_or_variation_there_is_no_interval_and_it_is_said():
    frame = _frame()
    for tasks, words in (("x", "there is 1 task"), ("xy", "there are 2 tasks")):
        found = _found(frame[frame["task"].isin(list(tasks))])
        assert found.contrasts[["lower", "upper", "t", "p", "p_adjusted"]].isna().all(axis=None)
        assert words in found.explain() and "no test" in found.explain()
        assert isinstance(found.plot(), Figure)
    alike = _found(frame.assign(y=frame["y"].where(frame["method"] == "krona", 0.5)), within=0.001)
    assert np.isnan(_row(alike, "lora")["share_lower"])  # all settings of lora are its best, on every task
    assert json.loads(json.dumps(alike.to_dict(), allow_nan=False))["rows"][0]["share_lower"] is None


def test_methods_may_have_settings_of_their_own_and_it_is_said():
    frame = _frame()
    bare = frame[(frame["method"] == "lora") & (frame["rank"] == 4)].assign(method="bitfit", rank=np.nan)
    found = _found(pd.concat([frame, bare]))
    assert found.rows.set_index("method")["settings"].to_dict() == {"lora": 4, "krona": 4, "bitfit": 2}
    assert "not run on the same settings" in found.explain()
    assert "not run on the same settings" not in _found(frame).explain()


def test_wrong_calls_say_what_is_wrong():
    frame = _frame()
    with pytest.raises(InputFault, match="'dora'; the column 'method' has lora, krona"):
        _found(frame, against="dora")
    with pytest.raises(InputFault, match="to be compared with 'lora'"):
        _found(frame[frame["method"] == "lora"])
    with pytest.raises(InputFault, match="distance above 0"):
        _found(frame, within=0)
    with pytest.raises(InputFault, match="no column 'learning_rate'"):
        near_best(frame, "y", ["learning_rate"], "lora", 0.1)
    with pytest.raises(InputFault, match="1 of 24 settings × tasks have no row, the first of them krona:1e-3:16 on z"):
        _found(frame.iloc[:-1])
    with pytest.raises(InputFault, match="--where task=x,y"):
        _found(frame.iloc[:-1])
    with pytest.raises(InputFault, match="neither can be among the settings"):
        near_best(frame, "y", ["lr", "task"], "lora", 0.1)


def _study(rng: np.random.Generator, tasks: int, widths: dict[str, float]) -> pd.DataFrame:
    """Bells over ten rates whose peak moves from task to task; a wide one has many settings near its best."""
    rates = np.linspace(-2, 2, 10)
    parts = []
    for method, width in widths.items():
        peaks = rng.normal(0, 0.5, size=(tasks, 1))
        y = np.exp(-(((rates - peaks) / width) ** 2)) + 0.05 * rng.normal(size=(tasks, 10))
        lr, task = np.tile(np.arange(10), tasks), np.repeat(np.arange(tasks), 10)
        parts.append(pd.DataFrame({"method": method, "lr": lr, "task": task, "y": y.ravel()}))
    return pd.concat(parts, ignore_index=True)


def _compared(frame: pd.DataFrame) -> pd.Series:
    found = near_best(frame, "y", "lr", "lora", 0.25)
    return found.contrasts[found.contrasts["measure"] == "share"].iloc[0]


@pytest.fixture
def alone(monkeypatch):
    """With two methods there is nothing to correct for, and statsmodels' correction takes most of the time."""
    monkeypatch.setattr(settings_near_best, "holm", lambda p: p)


def test_the_interval_of_the_difference_holds_the_truth_as_often_as_it_says(alone):
    """200 studies of five tasks, the truth from one of 4,000; nominal 95 %, three standard errors are 4.6 points."""
    widths, rng = {"lora": 1.0, "krona": 2.0}, np.random.default_rng(0)
    truth = _compared(_study(rng, 4000, widths))["difference"]
    rows = [_compared(_study(rng, 5, widths)) for _ in range(200)]
    assert truth > 0.1
    assert 0.904 <= np.mean([row["lower"] <= truth <= row["upper"] for row in rows]) <= 0.996


def test_methods_that_do_not_differ_are_said_to_in_one_study_of_twenty(alone):
    """200 studies; three standard errors of 5 % are 4.6 points. Without a difference in any task there is no p."""
    rng = np.random.default_rng(1)
    p = np.array([_compared(_study(rng, 5, {"lora": 1.5, "krona": 1.5}))["p"] for _ in range(200)])
    assert np.isnan(p).sum() < 10 and 0.004 <= (p < 0.05).mean() <= 0.096
