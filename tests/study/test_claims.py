"""Several workers and drivers on one store: who holds a trial, who may take it, and whose result stays."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import study.commit
from study.atomic import put_new
from study.claims import Claims
from study.commit import digest
from study.config import Protocol
from study.executors import slurm_jobs
from study.executors.local import LocalExecutor
from study.process import Judge, Process
from study.store import Store
from study.study import Study
from study.trial import Trial, TrialResult
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
FORK = multiprocessing.get_context("fork")
DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "scale": 0.5, "width": 2}
ME = Process.of(os.getpid())


def trial(seed: int) -> Trial:
    return Trial("b", DESIGN, "subject/rex", seed, Protocol(), backbone_hash="b", task_hash="t")


def result(seed: int, shade: int) -> TrialResult:
    """A result all of whose parts say who made it."""
    return TrialResult(
        trial(seed),
        "done",
        scores={"clip_i": float(shade)},
        images=[{"prompt": "p", "prompt_index": 0, "picture_seed": 0, "clip_i": float(shade)}],
        pictures=[np.full((4, 4, 3), shade, np.uint8)],
        curves=[{"step": 0, "loss": float(shade)}],
        adapter={"weight": torch.full((2,), float(shade))},
    )


WRITERS = 5


def slowly(call, chance: random.Random):
    """Let others in before a change of names, half of the time."""

    def changed(*arguments, **named):
        if chance.random() < 0.5:
            time.sleep(chance.random() / 500)
        return call(*arguments, **named)

    return changed


def contend(folder: Path, shade: int, seeds: range, barrier, won) -> None:
    torch.set_num_threads(1)
    chance = random.Random(shade)
    os.link, os.rename, os.fsync = slowly(os.link, chance), slowly(os.rename, chance), lambda descriptor: None
    for seed in seeds:
        made = result(seed, shade)
        barrier.wait(60)
        won[seed * WRITERS + shade - 1] = Store(folder).commit(made, keep="all")


def shade_of(store: Store, seed: int) -> set[float]:
    """Who made each part of what the store has of a trial."""
    from safetensors.numpy import load_file

    id = trial(seed).id
    (row,) = store.attempts().query("id == @id").to_dict("records")
    (image,) = store.images().query("id == @id").to_dict("records")
    (point,) = store.curves().query("id == @id").to_dict("records")
    weights = load_file(store.adapter(id) / "adapter.safetensors")
    picture = np.asarray(Image.open(store.folder / image["file"]))
    values = {value for tensor in weights.values() for value in tensor.ravel().tolist()}
    return {row["clip_i"], image["clip_i"], point["loss"], *picture.ravel().tolist(), *values}


def test_of_several_that_commit_one_trial_at_once_the_first_row_wins_with_all_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("study.store.save_weights", save_weights)
    store, seeds = Store(tmp_path / "store"), range(30)
    barrier, won = FORK.Barrier(WRITERS), FORK.Array("b", WRITERS * len(seeds))
    shades = range(1, WRITERS + 1)
    processes = [FORK.Process(target=contend, args=(store.folder, shade, seeds, barrier, won)) for shade in shades]
    for each in processes:
        each.start()
    for each in processes:
        each.join(240)
    assert {each.exitcode for each in processes} == {0}
    for seed in seeds:
        told = won[WRITERS * seed : WRITERS * seed + WRITERS]
        assert sum(told) == 1, "one of them is told that the row is its own"
        assert shade_of(store, seed) == {told.index(1) + 1.0}
    assert list(store.folder.rglob("*.part")) == []


def save_weights(folder: Path, result: TrialResult, row: dict) -> None:
    from safetensors.torch import save_file

    save_file(result.adapter, folder / "adapter.safetensors")


@pytest.mark.parametrize("stopped_at", range(4), ids=["pictures", "images", "curves", "row"])
def test_whoever_was_stopped_between_two_of_its_files_changes_nothing_of_the_winner(tmp_path, monkeypatch, stopped_at):
    """As a node does that was cut off while it wrote, and goes on when another has done the trial."""
    store = Store(tmp_path / "store")
    kinds, seen = ["pictures", "images", "curves", "trials"], []

    def other_goes_first(part, path):
        if len(seen) == stopped_at:
            seen.append(path)
            monkeypatch.setattr("study.commit.put_new", put_new)
            assert store.commit(replace_adapter(result(0, 1)))
        else:
            seen.append(path)
        return put_new(part, path)

    monkeypatch.setattr("study.commit.put_new", other_goes_first)
    assert store.commit(replace_adapter(result(0, 2))) is False
    assert seen[-1].parent.name == kinds[stopped_at] or seen[-1].parent.parent.name == kinds[stopped_at]
    (row,) = store.rows().to_dict("records")
    (image,) = store.images().to_dict("records")
    (point,) = store.curves().to_dict("records")
    picture = np.asarray(Image.open(store.folder / image["file"]))
    assert {row["clip_i"], image["clip_i"], point["loss"], *picture.ravel().tolist()} == {1.0}
    assert list(store.folder.rglob("*.part")) == []


def replace_adapter(made: TrialResult) -> TrialResult:
    made.adapter = None
    return made


def test_second_result_is_discarded_when_the_first_was_merged_since(tmp_path):
    store = Store(tmp_path / "store")
    for seed in range(2):
        store.commit(replace_adapter(result(seed, 1)))
    store.compact()
    assert store.has(trial(0).id, 1)
    assert store.commit(replace_adapter(result(0, 2))) is False
    assert store.rows()["clip_i"].tolist() == [1.0, 1.0]
    assert np.asarray(Image.open(store.pictures(trial(0).id) / "000.webp")).max() == 1


def test_failed_commit_leaves_what_was_there(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    store.commit(replace_adapter(result(0, 1)))
    before = {path: digest(path) for path in store.folder.rglob("*") if path.is_file()}

    def full(part, table, pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study.commit, "_fill_row", full)
    with pytest.raises(OSError, match="No space"):
        store.commit(replace_adapter(result(0, 2)), attempt=2)
    assert {path: digest(path) for path in store.folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def claims(tmp_path):
    return Claims(tmp_path / "claims")


def held(claims: Claims, process: Process, id: str = "a") -> None:
    """Let another process hold a trial."""
    assert claims._put(id, 1, claims._last(id, 1)[0] + 1, process)


def grab(folder: Path, count: int, barrier, got) -> None:
    claims = Claims(folder)
    for place in range(count):
        barrier.wait(60)
        got[place] = claims.take(str(place), 1) is None
    barrier.wait(60)  # nobody ends before the others are through: a dead one's claims may be taken


def test_two_processes_that_race_for_claims_get_each_once(tmp_path):
    barrier, count = FORK.Barrier(2), 100
    got = [FORK.Array("b", count) for _ in range(2)]
    processes = [FORK.Process(target=grab, args=(tmp_path / "claims", count, barrier, mine)) for mine in got]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)
    assert [each.exitcode for each in processes] == [0, 0]
    assert [a + b for a, b in zip(got[0][:], got[1][:], strict=True)] == [1] * count


def test_claim_is_ours_until_released_and_alive_holders_keep_theirs(claims):
    assert claims.take("a", 1) is None and claims.take("a", 1) is None
    assert claims.holder("a", 1) == ME
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        other = Process.of(sleeper.pid)
        held(claims, other, "b")
        assert claims.take("b", 1) == other
    finally:
        sleeper.kill()
        sleeper.wait()
    assert claims.take("b", 1) is None, "it is dead, and this machine can tell"
    claims.release("b", 1)
    assert claims.holder("b", 1) is None


def test_number_that_another_process_has_now_does_not_keep_a_claim(claims):
    held(claims, replace(ME, start=ME.start - 1))
    assert claims.take("a", 1) is None


def test_process_of_another_machine_is_left_alone_unless_asked(claims):
    other = replace(ME, host="far", machine="m", boot="b")
    held(claims, other)
    assert claims.take("a", 1) == other
    assert Claims(claims.folder, take_over=True).take("a", 1) is None


def test_what_a_dead_process_held_can_be_freed_for_those_who_cannot_tell(claims):
    other = replace(ME, host="far", machine="m", boot="b")
    held(claims, other)
    claims.free(other)
    assert claims.take("a", 1) is None


def test_process_of_this_machine_before_it_was_started_again_is_dead():
    assert Judge().alive(replace(ME, boot="another")) is (False if ME.machine else None)


def test_jobs_are_judged_by_squeue_where_the_cluster_and_the_user_are_the_same(monkeypatch):
    far = replace(ME, host="n1", machine="m", boot="b", cluster="c", job="7_1")
    monkeypatch.setattr(slurm_jobs, "cluster", lambda: "c")
    answer = [slurm_jobs.Job("7_1", "n", "RUNNING")]
    monkeypatch.setattr(slurm_jobs, "mine", lambda: answer)
    assert Judge().alive(far) is True
    assert Judge().alive(replace(far, job="8")) is False
    assert Judge().alive(replace(far, cluster="d")) is None
    assert Judge().alive(replace(far, user=far.user + 1)) is None
    monkeypatch.setattr(slurm_jobs, "mine", lambda: None)
    assert Judge().alive(far) is None, "SLURM does not answer"


def test_earlier_start_of_ones_own_job_is_dead(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    earlier = replace(Process.of(os.getpid()), host="n1", boot="b", restart=1)
    assert Judge().alive(earlier) is False


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"host": "a"}', "\0\0"])
def test_claim_that_cannot_be_read_holds_nothing(claims, garbage):
    claims.folder.mkdir()
    (claims.folder / "a.1.0.json").write_text(garbage)
    assert claims.take("a", 1) is None


def test_two_drivers_do_each_trial_once_and_both_end_with_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_SECONDS", "0.15")
    file = fakes.study_file(tmp_path, seeds=1)
    drivers = [
        subprocess.Popen(
            [*fakes.COMMAND, "drive", str(file), "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=240) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    planned = (fakes.PLANNED + fakes.REFERENCES) // 2
    assert [json.loads(out) for out, _ in said] == [{"done": planned}] * 2
    store = Study.load(file).store
    assert len(store.attempts()) == planned
    # Every trial was run by one worker: what a second one made would be told in its log.
    logs = [log.read_text() for log in store.logs.iterdir()]
    assert sum(log.count("a library prints") for log in logs) == planned
    assert not any("is discarded" in log for log in logs)


def test_trial_of_a_killed_driver_is_run_and_one_of_another_machine_is_left_and_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    dead = Process.of(ended.pid)
    ended.send_signal(signal.SIGKILL)
    ended.wait()
    claims, (one, two) = Claims(loaded.store.claims), loaded.trials[:2]
    held(claims, dead, one.id)
    held(claims, replace(ME, host="far", machine="m", boot="b"), two.id)
    runner = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    outcome = loaded.run(executor=runner)
    assert outcome.counts["missing"] == 1 and not loaded.store.has(two.id, 1) and loaded.store.has(one.id, 1)
    (told,) = outcome.elsewhere
    assert "1 trial is left to process" in told and "on far" in told and "--take-over" in told
    runner = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    outcome = loaded.run(executor=runner, take_over=True)
    assert "missing" not in outcome.counts and outcome.elsewhere == []


def test_status_counts_what_runs_waits_and_was_lost(tmp_path):
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    claims, trials = Claims(loaded.store.claims), loaded.trials
    held(claims, ME, trials[0].id)
    held(claims, replace(ME, start=ME.start - 1), trials[1].id)
    loaded.store.commit(TrialResult(trials[2], "done"))
    held(claims, ME, trials[2].id)
    told = loaded.status()
    assert (told["running"], told["queued"], told["lost"]) == (1, 0, 1)

