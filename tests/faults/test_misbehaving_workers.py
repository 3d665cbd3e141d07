"""Workers that hang, are stopped, or want more memory than there is: tried again, and told if that does not help."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from study.driver import TRIES
from study.executors.endings import killed_for_memory
from study.executors.local import STARTS, LocalExecutor, WorkerFault
from study.study import Study
from tests.faults.injection import COMMAND, INJECTED
from tests.study import fakes
from tests.study.test_kills import workers_of

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 2.0


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of six designs, one of them with the activation silu, on one task with one seed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAULT_FOLDER", str(tmp_path / "struck"))
    (tmp_path / "struck").mkdir()
    forbid = [{"input": ["SA_in", "CA_out"], "activation": "silu"}, {"output": "Trans_out", "activation": "silu"}]
    return Study.load(fakes.study_file(tmp_path, seeds=1, tasks=[fakes.SECTIONS["tasks"][0]], forbid=forbid))


def run(study: Study, monkeypatch, fault: str, times: int):
    """Run it with the fault so many times; return the outcome."""
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("FAULT_TIMES", str(times))
    runner = LocalExecutor(study.store, ["cpu"], command=COMMAND, silence=SILENCE)
    outcome = study.run(executor=runner)
    struck = len(os.listdir(os.environ["FAULT_FOLDER"]))
    INJECTED[f"worker that {fault}"] += struck
    assert struck == times
    assert workers_of(study.store.folder) == []
    return outcome


def check_all_done(study: Study, outcome) -> None:
    rows = study.store.attempts()
    assert outcome.counts == {"done": len(study.trials)}
    assert sorted(rows["id"]) == sorted(trial.id for trial in study.trials) and set(rows["attempt"]) == {1}
    # Oracle: the fake runtime's score is a function of the id alone.
    assert rows["clip_i"].tolist() == [fakes.score(id) for id in rows["id"]]


HANGS = ["hangs", *(pytest.param(each, marks=pytest.mark.slow) for each in ("hangs in C", "is stopped"))]


@pytest.mark.parametrize("fault", HANGS)
def test_worker_that_hangs_is_killed_and_its_trial_is_tried_again(study, monkeypatch, fault):
    check_all_done(study, run(study, monkeypatch, fault, 1))


def test_trial_whose_workers_always_hang_is_failed_with_the_reason(study, monkeypatch):
    outcome = run(study, monkeypatch, "hangs", TRIES)
    assert outcome.counts == {"done": len(study.trials) - 1, "failed": 1}
    ((trial, reason),) = outcome.failed
    assert trial.design["activation"] == "silu"
    assert f"tried {TRIES} times" in reason and "told nothing for 2 s and was killed" in reason
    assert "resources: {silence" in reason and "here comes: hangs" in reason, "and the end of the log"


def test_worker_that_hangs_while_it_starts_is_told_with_the_time_it_was_given(study, monkeypatch):
    monkeypatch.setattr("study.executors.local.SILENCE", 1.0)  # an hour, which starting may take whatever a study says
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(WorkerFault, match=f"{STARTS} workers in a row.* told nothing for 1 s and was killed"):
        study.run(executor=LocalExecutor(study.store, ["cpu"], command=command, silence=0.1))
    assert workers_of(study.store.folder) == []


@pytest.mark.slow
def test_worker_that_works_longer_than_the_silence_is_left_alone(study, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", str(1.5 * SILENCE))  # three steps, each half a silence
    monkeypatch.setenv("FAULT", "hangs")
    monkeypatch.setenv("FAULT_TIMES", "0")
    runner = LocalExecutor(study.store, ["cpu"], command=COMMAND, silence=SILENCE)
    outcome = study.run(limit=2, executor=runner)
    assert outcome.counts["done"] == 2 and len(list(study.store.logs.iterdir())) == 1


@pytest.mark.slow
def test_driver_that_slept_longer_than_the_silence_kills_nobody(study, monkeypatch):
    """As after Ctrl-Z and fg, or a laptop's night: what workers told meanwhile is still to be heard."""
    monkeypatch.setattr("study.executors.local.NAP", 1.0)
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    runner = LocalExecutor(study.store, ["cpu"], command=COMMAND, silence=SILENCE)
    poll, naps = runner.poll, []

    def sleepy(*how):
        states = poll(*how)
        if len(naps) < 2 and any(state.name == "running" for state in states.values()):
            naps.append(time.sleep(1.5 * SILENCE))
        return states

    monkeypatch.setattr(runner, "poll", sleepy)
    monkeypatch.setenv("FAULT", "hangs")
    monkeypatch.setenv("FAULT_TIMES", "0")
    check_all_done(study, study.run(executor=runner))
    assert naps and len(list(study.store.logs.iterdir())) == 1


def test_silence_is_declared_in_the_study(tmp_path):
    loaded = Study.load(fakes.study_file(tmp_path, resources={"silence": "20m"}))
    assert loaded.config.resources.silence == "20m"


@pytest.mark.slow
def test_trial_that_may_take_no_more_memory_is_tried_again(study, monkeypatch):
    check_all_done(study, run(study, monkeypatch, "may take no more memory", 1))


@pytest.fixture
def small_group(monkeypatch):
    """A control group whose processes Linux kills when they take more than 300 MB."""
    for folder, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(folder) / f"faults-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(300 * 2**20))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        monkeypatch.setenv("FAULT_GROUP", str(group))
        yield group
        group.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


@pytest.mark.slow
@pytest.mark.skipif(killed_for_memory() is None, reason="the system does not count what it kills for memory")
def test_worker_killed_for_memory_is_tried_again_and_then_told_as_that(study, monkeypatch, small_group):
    outcome = run(study, monkeypatch, "is killed for memory", TRIES)
    assert outcome.counts == {"done": len(study.trials) - 1, "out_of_memory": 1}
    ((_, reason),) = outcome.failed
    assert f"tried {TRIES} times" in reason and "SIGKILL" in reason and "memory runs out" in reason
    for file in Path(os.environ["FAULT_FOLDER"]).iterdir():
        file.unlink()
    monkeypatch.setenv("FAULT_TIMES", "1")
    again = study.run(only="failed", executor=LocalExecutor(study.store, ["cpu"], command=COMMAND))
    assert again.counts == {"done": len(study.trials)}
