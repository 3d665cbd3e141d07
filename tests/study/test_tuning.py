"""Tuning: what is tried, what is chosen, and what is trained with it."""

import json
import math
import random
import shutil

import pytest

from adapters.faults import InputFault
from study import Study, config, plan
from study.trial import Pack, Trial
from tests.study import fakes
from tests.study.tunings import (
    BEST,
    RATES,
    TUNE,
    chosen,
    commit,
    fill,
    find_the_packages_and_the_truth,
    study_of,
    truth,
    tune,
)


@pytest.fixture(autouse=True)
def processes_find_the_packages_and_the_truth(monkeypatch, tmp_path):
    find_the_packages_and_the_truth(monkeypatch)
    monkeypatch.chdir(tmp_path)


def test_the_untuned_backbone_is_not_tuned_even_as_a_design_of_the_study(tmp_path):
    study = study_of(tmp_path, factors={"method": ["none", "adapter", "full"]}, tune=tune(by=["width"]))
    # Without a width are full and none; full stands for them.
    assert study.tuned()["width"].unique().tolist() == ["2", "4", "absent"]
    assert {trial.design["method"] for trial in study.tune_trials} == {"adapter", "full"}
    # Before anything is tuned, the trials of the untuned backbone are known: it is trained with nothing.
    assert [trial.design for trial in study.trials] == [{"method": "none"}] * 2 * 2
    assert {trial.protocol.learning_rate for trial in study.trials} == {study.config.protocol.learning_rate}


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_highest_mean_over_tasks_of_means_over_seeds_whatever_the_order_of_rows(tmp_path, seed):
    study = study_of(tmp_path, tune=tune(seeds=3))
    random_scores = random.Random(seed)
    fill(study, lambda trial: random_scores.random())
    rows = study.results("tune")
    # Oracle: pandas on the rows.
    rates = rows["protocol_json"].map(lambda text: json.loads(text)["learning_rate"])
    by_task = rows.groupby(["method", rates, "task"])["clip_i"].mean()
    means = by_task.groupby(level=[0, 1]).mean()
    assert chosen(study) == {method: means[method].idxmax() for method in BEST}
    table = study.tuned().set_index(["method", "learning_rate"])["clip_i"]
    assert table.sort_index().tolist() == pytest.approx(means.sort_index().tolist(), rel=1e-12)
    shuffled = study.store.rows().sample(frac=1, random_state=seed)
    assert study.choices(shuffled) == study.choices()


def test_of_equal_points_the_one_declared_first_is_chosen(tmp_path):
    study = study_of(tmp_path, tune=tune(grid={"learning_rate": [1e-2, 3e-4, 1e-3]}))
    fill(study, lambda trial: 0.5 if trial.protocol.learning_rate != 1e-2 else 0.4)
    assert chosen(study) == {"adapter": 3e-4, "full": 3e-4}


def test_several_keys_are_crossed(tmp_path):
    study = study_of(tmp_path, tune=tune(grid={"learning_rate": [1e-3, 1e-2], "steps": [5, 10, 20]}))
    fill(study, lambda trial: -abs(trial.protocol.steps - 10) - trial.protocol.learning_rate)
    frame = study.tuned()
    assert len(frame) == 2 * 6
    best = frame[frame["chosen"]]
    assert best[["learning_rate", "steps"]].values.tolist() == [[1e-3, 10]] * 2
    assert best["at_edge"].tolist() == [True, True], "1e-3 is the least of two"
    assert {trial.protocol.steps for trial in study.trials if trial.role == "study"} == {10}


@pytest.mark.parametrize("best, edge", [(3e-4, True), (1e-3, False), (3e-3, False), (1e-2, True)])
def test_a_choice_at_the_end_of_the_grid_is_told(tmp_path, best, edge):
    # The order of declaration is not the order of size.
    study = study_of(tmp_path, tune=tune(grid={"learning_rate": [1e-3, 1e-2, 3e-4, 3e-3], "sampler": ["ddim"]}))
    fill(study, lambda trial: fakes.score_at(trial.protocol.learning_rate, best))
    frame = study.tuned()
    assert frame[frame["chosen"]]["at_edge"].tolist() == [edge] * 2
    assert not frame[~frame["chosen"]]["at_edge"].any()


def test_a_grid_point_with_a_diverged_trial_is_not_eligible(tmp_path):
    study = study_of(tmp_path)
    # On one of the two tasks the highest rate diverges; on the other it has the highest score of all.
    fill(
        study,
        lambda t: None if (t.protocol.learning_rate, t.task) == (1e-2, "subject/ant") else t.protocol.learning_rate,
    )
    assert chosen(study) == {"adapter": 3e-3, "full": 3e-3}
    row = study.tuned().query("method == 'full' and learning_rate == 0.01").iloc[0]
    assert (row["planned"], row["done"], row["diverged"]) == (2, 1, 1) and math.isnan(row["clip_i"])


def test_what_is_set_by_hand_leaves_the_grid(tmp_path):
    by_hand = {"method": {"full": {"learning_rate": 7e-5}}}
    study = study_of(tmp_path, protocol_by=by_hand)
    assert {trial.design["method"] for trial in study.tune_trials} == {"adapter"}
    # Full tuning waits for nothing.
    assert {trial.protocol.learning_rate for trial in study.trials if trial.design["method"] == "full"} == {7e-5}
    fill(study, truth)
    assert set(study.tuned()["method"]) == {"adapter"}
    rates = {t.design["method"]: t.protocol.learning_rate for t in study.trials if t.role == "study"}
    assert rates == {"adapter": BEST["adapter"], "full": 7e-5}

    grid = {"learning_rate": RATES, "batch": [1, 2]}
    both = study_of(tmp_path, protocol_by=by_hand, tune=tune(grid=grid))
    tried = {(t.design["method"], t.protocol.learning_rate, t.protocol.batch) for t in both.tune_trials}
    assert tried == {("full", 7e-5, 1), ("full", 7e-5, 2), *(("adapter", r, b) for r in RATES for b in (1, 2))}


def test_a_tuned_value_supersedes_the_protocol_and_another_key_set_by_hand_stays(tmp_path):
    study = study_of(
        tmp_path, protocol={"steps": 3, "learning_rate": 0.5}, protocol_by={"method": {"full": {"steps": 9}}}
    )
    fill(study, truth)
    found = {
        (t.design["method"], t.protocol.learning_rate, t.protocol.steps) for t in study.trials if t.role == "study"
    }
    assert found == {("adapter", BEST["adapter"], 3), ("full", BEST["full"], 9)}
    assert {t.protocol.steps for t in study.tune_trials if t.design["method"] == "full"} == {9}


def test_every_level_of_the_keys_makes_a_group_and_a_missing_key_is_a_level(tmp_path):
    study = study_of(tmp_path, tune=tune(by=["method", "width"]))
    best = {2: 1e-2, 4: 3e-4, None: 1e-3}
    fill(study, lambda trial: fakes.score_at(trial.protocol.learning_rate, best[trial.design.get("width")]))
    frame = study.tuned()
    found = frame[frame["chosen"]][["method", "width", "learning_rate"]].values.tolist()
    assert found == [["adapter", "2", 1e-2], ["adapter", "4", 3e-4], ["full", "absent", 1e-3]]
    rates = {(t.design.get("width"), t.protocol.learning_rate) for t in study.trials if t.role == "study"}
    assert rates == set(best.items())


def test_every_backbone_is_tuned_on_its_own(tmp_path):
    fakes.folders(tmp_path)
    shutil.copytree(tmp_path / "pipe", tmp_path / "other")
    (tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(fakes.weights("other"))
    study = study_of(tmp_path, backbone=["pipe", "other"])
    assert len(study.tune_trials) == 2 * TUNE == len({trial.id for trial in study.tune_trials})
    best = {"pipe": 1e-3, "other": 1e-2}
    for trial in study.tune_trials:
        if trial.backbone == "pipe":
            commit(study, trial, fakes.score_at(trial.protocol.learning_rate, best["pipe"]))
    assert {trial.backbone for trial in study.trials if trial.role == "study"} == {"pipe"}, "the other one waits"
    for trial in study.tune_trials:
        if trial.backbone == "other":
            commit(study, trial, fakes.score_at(trial.protocol.learning_rate, best["other"]))
    assert {(t.backbone, t.protocol.learning_rate) for t in study.trials if t.role == "study"} == set(best.items())
    frame = study.tuned()
    assert frame[frame["chosen"]]["backbone"].tolist() == ["pipe", "pipe", "other", "other"]


def test_a_study_without_the_section_has_an_empty_table_and_no_tune_trials(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    assert study.tuned().empty and study.tune_trials == [] and study.results("tune").empty
    assert study.status()["tune"]["planned"] == 0 and study.status()["waiting"] == 0
    with pytest.raises(InputFault, match="expected one of study, reference, tune"):
        study.results("tuned")


def test_tune_trials_survive_json_and_their_weights_are_not_kept(tmp_path):
    study = study_of(tmp_path, keep="all")
    fill(study, truth)
    for trials, keep in ((study.tune_trials, "none"), (study.trials, "all")):
        for pack in plan.packs(study.config, trials, {}, "/store", workers=2):
            assert pack.keep == keep and Pack.from_json(pack.to_json()) == pack
            assert [t.tunes for t in Pack.from_json(pack.to_json()).trials] == [t.tunes for t in pack.trials]


def test_role_and_what_is_tuned_are_not_part_of_a_trials_identity(tmp_path):
    trial = study_of(tmp_path).tune_trials[0]
    again = Trial(trial.backbone, trial.design, "x", trial.seed, trial.protocol, backbone_hash=trial.backbone_hash,
                  task_hash=trial.task_hash)  # fmt: skip
    assert trial.id == again.id


@pytest.mark.parametrize(
    "design, tunes, expected",
    [
        ({"method": "full"}, ("learning_rate",), "full lr 0.003 · subject/x · seed 0"),
        ({"method": "m", "rank": 4, "fast": True, "slow": False}, (), "m rank 4 fast · subject/x · seed 0"),
        ({"method": "m", "part": "up"}, (), "m part up · subject/x · seed 0"),
        ({"method": "m", "budget": 0.0075}, ("steps",), "m budget 0.75% steps 200 · subject/x · seed 0"),
        ({"method": "m", "budget": 1500}, (), "m budget 1500 · subject/x · seed 0"),
        (
            {"method": "adapter", "input": "CA_out", "output": "FFN_in", "activation": "relu", "scale": 1, "width": 2},
            ("learning_rate", "batch"),
            "CA_out→FFN_in relu 1 lr 0.003 batch 2 · subject/x · seed 0",
        ),
    ],
)  # fmt: skip
def test_label_says_what_is_trained_and_what_is_tried(design, tunes, expected):
    protocol = config.Protocol(learning_rate=3e-3)
    assert Trial("b", design, "subject/x", 0, protocol, "tune", tunes=tunes).label() == expected
