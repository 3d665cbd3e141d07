"""Whatever is killed and whenever: the same set of rows, none lost, none twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.driver import TRIES
from study.executors.local import LocalExecutor, WorkerFault
from study.plan import packs
from study.process import Process
from study.store import Store
from study.study import Study
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def workers_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def start(study: Path, workers: int) -> subprocess.Popen:
    command = [*fakes.COMMAND, "drive", str(study), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(store: Path) -> list[int]:
    """Processes whose command line names the store; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(store) in words:
                found.append(int(entry.name))
    return found


def wait_until(condition, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def check_whole(study: Path) -> None:
    """Every planned trial has exactly one row of one attempt, with its own score, and all it owns."""
    loaded = Study.load(study)
    attempts = loaded.store.attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in loaded.trials)
    assert len(attempts) == fakes.PLANNED + fakes.REFERENCES
    assert set(attempts["status"]) == {"done"} and set(attempts["attempt"]) == {1}
    # Oracle: the fake runtime's score is a function of the id alone.
    assert attempts["clip_i"].tolist() == [fakes.score(id) for id in attempts["id"]]
    images = loaded.store.images()
    assert len(images) == 2 * len(attempts)
    assert all((loaded.store.folder / file).exists() for file in images["file"])
    assert len(loaded.results()) == fakes.PLANNED


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
def test_kill_of_driver_and_workers_at_any_moment_loses_and_doubles_nothing(tmp_path, monkeypatch):
    study = fakes.study_file(tmp_path)
    store = tmp_path / "store"
    monkeypatch.setenv("FAKE_SECONDS", "0.03")
    chance = random.Random(1)
    for _ in range(4):
        driver = start(study, 2)
        wait_until(lambda: workers_of(store))
        time.sleep(chance.uniform(0, 1.5))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert wait_until(lambda: not workers_of(store)), "workers outlived their driver"
    driver = start(study, 2)
    for _ in range(3):
        time.sleep(chance.uniform(0.1, 1))
        for worker in workers_of(store)[:1]:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
    out, told = driver.communicate(timeout=60)
    assert driver.returncode == 0, told
    assert json.loads(out) == {"done": fakes.PLANNED + fakes.REFERENCES}
    check_whole(study)
    Store(store).gc()
    check_whole(study)


def test_trial_that_kills_its_worker_is_tried_three_times_and_then_failed_with_the_reason(tmp_path, monkeypatch):
    # Only one design is deadly, to keep the test short.
    forbid = [{"input": ["SA_in", "CA_out"], "activation": "silu"}, {"output": "Trans_out", "activation": "silu"}]
    study = fakes.study_file(tmp_path, seeds=1, tasks=[fakes.SECTIONS["tasks"][0]], forbid=forbid)
    monkeypatch.setenv("FAKE_DEADLY", "silu")
    loaded = Study.load(study)
    (deadly,) = [trial for trial in loaded.trials if trial.design.get("activation") == "silu"]
    planned = len(loaded.trials)
    outcome = loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    assert outcome.counts == {"done": planned - 1, "failed": 1}
    ((trial, reason),) = outcome.failed
    assert trial.id == deadly.id
    assert f"tried {TRIES} times" in reason and "SIGKILL" in reason and "worker-" in reason
    # One worker for the good trials up to the first death, and a new one after each of the three.
    assert len(list(loaded.store.logs.iterdir())) in (TRIES, TRIES + 1)

    monkeypatch.delenv("FAKE_DEADLY")
    left = loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    assert left.counts == outcome.counts, "a plain run leaves what failed"
    again = loaded.run(only="failed", executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    assert again.counts == {"done": planned}
    assert sorted(loaded.store.attempts().query("id == @trial.id")["attempt"]) == [1, 2]


def test_finished_trials_of_a_pack_whose_worker_died_are_not_run_again(tmp_path, monkeypatch):
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    monkeypatch.setenv("FAKE_DEADLY", "silu")
    good = next(trial for trial in loaded.trials if trial.design.get("activation") == "relu")
    bad = next(t for t in loaded.trials if t.design.get("activation") == "silu" and t.task == good.task)
    (pack,) = packs(loaded.config, [good, bad], {}, str(loaded.store.folder))
    executor = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    (handle,) = executor.submit([pack])
    try:
        lost = []
        assert wait_until(lambda: lost.extend(s for s in executor.poll().values() if s.name == "lost") or lost)
    finally:
        executor.close()
    assert lost[0].log is not None and lost[0].log.exists()
    assert loaded.store.has(good.id, 1) and not loaded.store.has(bad.id, 1)
    assert list(loaded.store.packs.iterdir()) == []


def test_workers_that_cannot_start_end_the_run_with_the_end_of_their_log(tmp_path):
    loaded = Study.load(fakes.study_file(tmp_path))
    command = (sys.executable, "-c", "raise SystemExit('no such library')")
    with pytest.raises(WorkerFault, match="no such library"):
        loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=command))
    assert loaded.store.rows().empty


def test_cancelled_packs_leave_no_file_and_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "30")
    loaded = Study.load(fakes.study_file(tmp_path))
    executor = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    handles = executor.submit(packs(loaded.config, loaded.trials[:3], {}, str(loaded.store.folder)))
    assert wait_until(lambda: "running" in {state.name for state in executor.poll(0.1).values()})
    executor.cancel(handles)
    assert executor.poll(0.01) == {}
    assert list(loaded.store.packs.iterdir()) == []
    executor.close()
    assert workers_of(loaded.store.folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_a_worker_is_started_leaves_no_worker(number, tmp_path, monkeypatch):
    loaded = Study.load(fakes.study_file(tmp_path))
    executor = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    of = Process.of

    def interrupted(pid: int) -> Process:
        signal.raise_signal(number)
        return of(pid)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(Process, "of", interrupted)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.begin()
        assert signal.getsignal(signal.SIGTERM) is interrupt
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert wait_until(lambda: len(workers_of(loaded.store.folder)) == 1)
    finally:
        signal.signal(signal.SIGTERM, before)
        executor.close()
    assert workers_of(loaded.store.folder) == []


def test_what_libraries_print_goes_to_the_log_and_one_pack_can_be_run_without_a_driver(tmp_path):
    loaded = Study.load(fakes.study_file(tmp_path))
    (pack,) = packs(loaded.config, loaded.trials[:1], {}, str(loaded.store.folder))
    file = tmp_path / "pack.json"
    file.write_text(pack.to_json())
    command = [*fakes.COMMAND, str(loaded.store.folder), str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ready", "step", "step", "step", "result", "pack"]
    assert "a library prints" in ended.stderr and "one written in C" in ended.stderr
    assert loaded.store.rows()["id"].tolist() == [loaded.trials[0].id]
