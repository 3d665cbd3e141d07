"""Runs of a tuned study: its trials run under what was chosen and not before, and whatever fails is told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from study import Study, plan
from study.executors.local import LocalExecutor
from study.report import analyse, page, terms
from study.results import read_results
from study.trial import TrialResult
from tests.study import fakes
from tests.study.test_commands import call
from tests.study.test_kills import start, wait_until, workers_of
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

TUNED = {"done": TUNE - 2, "diverged": 2}
"""Full tuning diverges at the highest rate, ten times its best, on both tasks."""
STUDY = 5 * 2 * 2
"""Four adapters and full tuning, two tasks, two seeds."""
ALL = TUNE + STUDY + fakes.REFERENCES


@pytest.fixture(autouse=True)
def processes_find_the_packages_and_the_truth(monkeypatch, tmp_path):
    find_the_packages_and_the_truth(monkeypatch)
    monkeypatch.chdir(tmp_path)


def run(study: Study, **how):
    return study.run(executor=LocalExecutor(study.store, ["cpu"], command=fakes.COMMAND), **how)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        find_the_packages_and_the_truth(patch)
        study = study_of(root)
        outcome = run(study)
    assert outcome.tune == TUNED and outcome.counts == {"done": STUDY + fakes.REFERENCES}
    assert (outcome.failed, outcome.waiting, outcome.impossible) == ([], 0, [])
    return root


@pytest.fixture
def finished(run_once, tmp_path):
    """A study of its own for each test that was tuned and ran to its end; ids do not depend on folders."""
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    return study_of(tmp_path)


def test_the_best_rate_of_each_method_is_found_and_every_design_of_it_trained_with_it(finished):
    assert chosen(finished) == BEST
    rows = finished.results()
    assert len(rows) == STUDY and set(rows["role"]) == {"study"}
    rates = rows["protocol_json"].map(lambda text: json.loads(text)["learning_rate"])
    assert rates.tolist() == [BEST[method] for method in rows["method"]]
    # At its best rate the fake score is 1.
    assert set(rows["clip_i"]) == {1.0}


def test_the_first_design_of_a_group_stands_for_it_on_every_task_seed_and_grid_point(finished):
    rows = finished.results("tune")
    assert len(rows) == TUNE and set(rows["role"]) == {"tune"} and set(rows["seed"]) == {0}
    assert set(rows["task"]) == {"subject/ham", "subject/ant"}
    first = next(design for design in finished.config.space.designs if design["method"] == "adapter")
    designs = {json.dumps(json.loads(text), sort_keys=True) for text in rows["design_json"]}
    assert designs == {json.dumps(first, sort_keys=True), '{"method": "full"}'}
    protocols = [json.loads(text) for text in rows["protocol_json"]]
    assert sorted({protocol["learning_rate"] for protocol in protocols}) == RATES
    assert {protocol["steps"] for protocol in protocols} == {3}, "what is not tuned is the study's"


def test_trials_that_wait_count_as_planned_and_missing(tmp_path):
    study = study_of(tmp_path)
    status = study.status()
    assert (status["planned"], status["missing"], status["waiting"]) == (STUDY, STUDY, STUDY)
    assert (status["tune"]["planned"], status["tune"]["missing"]) == (TUNE, TUNE)
    assert status["by_factor"]["method"]["full"] == {
        "planned": 4, "done": 0, "diverged": 0, "pruned": 0, "failed": 0, "out_of_memory": 0, "missing": 4,
    }  # fmt: skip
    assert status["next"]["id"] == study.tune_trials[0].id and status["next"]["tunes"] == {"learning_rate": 3e-4}

    for trial in study.tune_trials:
        commit(study, trial, None if trial.design["method"] == "full" else truth(trial),
               "failed" if trial.design["method"] == "full" else "done")  # fmt: skip
    status = study.status()
    assert (status["planned"], status["missing"], status["waiting"]) == (STUDY, STUDY, 4)
    assert status["tune"]["failed"] == TUNE // 2
    assert status["next"]["id"] in {trial.id for trial in study.trials}, "what need not wait is next"
    for trial in study.trials:
        commit(study, trial, 0.5)
    told = call("status", str(tmp_path / "fake.yaml"))
    assert told.returncode == 0, told.stderr
    assert "tuning: 8 of 16 (8 failed)" in told.stdout and "4 missing trials of fake wait for tuning" in told.stdout
    assert "next: method=full on subject/rex, seed 0, waits for tuning" in told.stdout
    status = json.loads(call("status", str(tmp_path / "fake.yaml"), "--json").stdout)
    assert status["next"]["id"] is None and status["missing"] == 4


def test_limit_counts_tune_trials_and_study_trials_together(tmp_path):
    study = study_of(tmp_path)
    assert run(study, limit=3).tune == {"done": 3, "missing": TUNE - 3}
    assert len(study.store.rows()) == 3
    outcome = run(study, limit=TUNE)
    assert outcome.tune == TUNED and outcome.counts["done"] == 3
    assert run(study).counts == {"done": STUDY + fakes.REFERENCES}
    assert study.store.attempts()["attempt"].tolist() == [1] * ALL
    assert chosen(study) == BEST


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
def test_killed_at_any_moment_the_same_rows_are_there_in_the_end(tmp_path, monkeypatch):
    study, store = study_of(tmp_path), tmp_path / "store"
    file = tmp_path / "fake.yaml"
    monkeypatch.setenv("FAKE_SECONDS", "0.05")

    def rows() -> int:
        return len(list((store / "trials").glob("*.parquet")))

    # In the middle of the tuning, at its end, and among the study's trials.
    for least in (TUNE // 2, TUNE - 1, TUNE + 3):
        driver = start(file, 2)
        assert wait_until(lambda least=least: rows() >= least)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert wait_until(lambda: not workers_of(store)), "workers outlived their driver"
    assert rows() < ALL, "no kill came while trials were running"
    driver = start(file, 2)
    wait_until(lambda: workers_of(store))
    for worker in workers_of(store)[:1]:
        os.kill(worker, signal.SIGKILL)
    out, told = driver.communicate(timeout=60)
    assert json.loads(out) == {"done": STUDY + fakes.REFERENCES}, told
    attempts = study.store.attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in (*study.tune_trials, *study.trials))
    assert len(attempts) == ALL and chosen(study) == BEST


def test_a_failed_tune_trial_holds_its_group_back_until_it_is_run_again(tmp_path):
    study = study_of(tmp_path)
    broken = next(trial for trial in study.tune_trials if trial.design["method"] == "full")
    commit(study, broken, None, "failed")
    outcome = run(study)
    assert (
        outcome.tune == {"done": TUNE - 3, "diverged": 2, "failed": 1}
        and outcome.waiting == 4 == outcome.counts["missing"]
    )
    assert [(trial.id, reason) for trial, reason in outcome.failed] == [(broken.id, "as told")]
    assert f"<p>failed: {broken.label()}: as told</p>" in outcome._repr_html_()
    assert set(study.results()["method"]) == {"adapter"}
    ended = call("run", str(tmp_path / "fake.yaml"))
    assert ended.returncode == 1 and "(4 of them wait for tuning)" in ended.stderr, ended.stderr
    assert "failed: full lr 0.0003 · subject/ham · seed 0" in ended.stderr
    # `failed` runs the trials that failed and no others; then a plain run goes on.
    assert run(study, only="failed").counts["missing"] == 4
    assert run(study).counts == {"done": STUDY + fakes.REFERENCES}
    assert len(study.store.attempts()) == ALL + 1


def test_a_group_whose_every_point_diverged_is_told_and_the_others_run(tmp_path):
    study = study_of(tmp_path)
    fill(study, lambda trial: None if trial.design["method"] == "adapter" else truth(trial))
    outcome = run(study)
    assert outcome.counts == {"done": 4 + fakes.REFERENCES, "missing": 16} and outcome.waiting == 0
    (told,) = outcome.impossible
    assert "16 trials of method=adapter" in told and "8 of 8 diverged" in told
    ended = call("run", str(tmp_path / "fake.yaml"))
    assert ended.returncode == 1 and f"cannot be run: {told}" in ended.stderr
    status = study.status()
    assert status["impossible"] == [told] and status["next"] is None and status["waiting"] == 0
    assert "cannot be run" in call("status", str(tmp_path / "fake.yaml")).stdout
    # A wider grid is a new plan for the same store: only its new points are missing, and then the group runs.
    wider = study_of(tmp_path, tune=tune(grid={"learning_rate": [*RATES, 1e-5]}))
    assert wider.status()["tune"]["missing"] == 2 * 2
    assert run(wider).impossible == [] and chosen(wider) == {"adapter": 1e-5, "full": BEST["full"]}


def test_dry_run_tells_groups_grid_trials_and_time(tmp_path):
    study = study_of(tmp_path, protocol_by={"method": {"full": {"learning_rate": 7e-5}}})
    file = str(tmp_path / "fake.yaml")
    said = call("run", file, "--dry-run").stdout
    for words in (
        "tuning by method, on subject/ham, subject/ant, seeds 0:",
        "  method=adapter: learning_rate 0.0003, 0.001, 0.003, 0.01; tried on method=adapter input=SA_in",
        "for 4 designs",
        "not tuned: 1 design with nothing to train, or set by hand",
        "tune trials: 8 (4 grid points × 2 tasks × 1 seed)",
        "estimated time: unknown",
    ):
        assert words in said, words
    assert not (tmp_path / "store").exists()
    for trial in study.tune_trials:
        columns = {"pack_seconds": 60.0, "device": "cpu"}
        study.store.commit(TrialResult(trial, "done", "", {"clip_i": truth(trial)}, columns), "fake")
    said = call("run", file, "--dry-run").stdout
    assert "    chosen: learning_rate 0.003" in said and f"already in the store: 8 of {8 + STUDY + 4}" in said
    # All are trained as long as the tune trials were, whatever their learning rate: a minute each.
    assert f"estimated time: {STUDY + fakes.REFERENCES} min" in said


def test_time_of_trials_that_wait_is_counted(tmp_path):
    study = study_of(tmp_path)
    first = study.tune_trials[0]
    columns = {"pack_seconds": 60.0, "device": "cpu"}
    study.store.commit(TrialResult(first, "done", "", {"clip_i": 0.5}, columns), "fake")
    said = call("run", str(tmp_path / "fake.yaml"), "--dry-run").stdout
    assert f"already in the store: 1 of {ALL}" in said and f"estimated time: {ALL - 1} min" in said


def test_trials_of_a_gpu_say_nothing_of_the_time_on_a_cpu(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    columns = {"pack_seconds": 1.0, "device": "NVIDIA H100 80GB HBM3"}
    study.store.commit(TrialResult(study.tune_trials[0], "done", "", {"clip_i": 0.5}, columns), "fake")
    rows = study.store.rows()
    for driver, known in ((None, False), ("/usr/bin/nvidia-smi", True)):
        monkeypatch.setattr(plan, "driver", lambda found=driver: found)
        assert (plan.seconds(study.config, study.tune_trials, rows) is not None) == known


def test_rows_of_the_tuning_are_left_out_of_an_analysis(finished):
    assert len(finished.store.rows()) == ALL
    assert len(read_results(finished.store.folder)) == STUDY
    told = call("anova", str(finished.store.folder), "--response", "clip_i", "--factors", "method", "--json")
    assert json.loads(told.stdout)["n"] == STUDY, told.stderr


def test_a_study_of_methods_is_analysed_by_design_and_its_report_shows_the_tuning(tmp_path):
    study = study_of(tmp_path)
    fill(
        study,
        lambda trial: fakes.score_at(trial.protocol.learning_rate, {**BEST, "full": 1e-2}[trial.design["method"]]),
    )
    numbers = np.random.default_rng(0)
    for trial in study.trials:
        commit(study, trial, 0.5 + 0.3 * (trial.design["method"] == "full") + numbers.normal(0, 0.01))
    # Input, output and width exist under one method only, so the design as a whole is the factor.
    assert terms(study) == (["design"], ["task", "task:seed"], None)
    table = analyse(study)
    assert table["design"].df == len(study.config.space.designs) - 1 and table["design"].p < 1e-6
    text = re.sub(r"\s+", " ", page(study))
    assert "What was tuned first" in text and "subject/ham, subject/ant" in text
    assert (
        "method full: the best that was tried, learning_rate 0.01, lies on the edge of the grid; widen the grid."
        in text
    )
    assert text.count("widen the grid") == 1
    assert text.count("1.000 ●") == 2, "each method's best scores 1 in the fake world"


def test_planning_a_tuned_study_never_imports_torch(finished):
    code = (
        "import sys\nfrom study import Study\n"
        f"study = Study.load({str(finished.store.folder.parent / 'fake.yaml')!r})\n"
        "study.status(); study.tuned(); study.trials\nassert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
