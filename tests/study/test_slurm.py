"""The SLURM executor with SLURM's commands faked: what is submitted, taken over, lost, cancelled and told."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapters.faults import InputFault
from study.checkpoints import State
from study.cli.run import with_flags
from study.executors import records, slurm_jobs
from study.executors.local import WorkerFault
from study.executors.records import Record
from study.executors.slurm import SlurmExecutor, parameters
from study.executors.slurm_worker import PackJob
from study.plan import packs
from study.process import Process
from study.resources import Resources, minutes
from study.study import Study
from tests.study import fake_slurm, fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
    """The folder of the faked jobs; whatever still runs in the end is ended."""
    jobs = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tmp_path}/slurm/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    yield jobs
    (jobs / "down").unlink(missing_ok=True)
    subprocess.run(["scancel", *(file.stem for file in jobs.glob("*.json"))], check=True)


@pytest.fixture
def study(tmp_path):
    """Two valid pairs of one input, two activations, one task, one seed: four trials and the untuned backbone."""
    factors = {**fakes.SECTIONS["factors"], "input": ["CA_out"]}
    return Study.load(fakes.study_file(tmp_path, factors=factors, seeds=1, tasks=fakes.SECTIONS["tasks"][:1]))


def executor(study: Study, **asked) -> SlurmExecutor:
    return SlurmExecutor(study.store, Resources(parallel=2, **asked), command=fakes.COMMAND, every=0.2)


def states(slurm: Path) -> list[str]:
    return [json.loads(file.read_text())["state"] for file in sorted(slurm.glob("*.json"))]


def wait_until(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def check_once(study: Study) -> None:
    attempts = study.store.attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in study.trials)
    assert set(attempts["status"]) == {"done"} and set(attempts["attempt"]) == {1}
    # Oracle: the fake runtime's score is a function of the id alone.
    assert attempts["clip_i"].tolist() == [fakes.score(id) for id in attempts["id"]]
    assert [*study.store.claims.iterdir(), *study.store.packs.iterdir()] == []


def test_packs_run_as_an_array_and_rows_name_their_logs(study, slurm):
    outcome = study.run(executor=executor(study))
    assert outcome.counts == {"done": 5}
    check_once(study)
    assert states(slurm) == ["COMPLETED"] * 2, "five trials in packs of four and one"
    for log in study.store.rows()["log"]:
        assert "a library prints" in (study.store.folder / log).read_text()


def test_driver_may_leave_and_the_next_one_takes_its_jobs_over(study, slurm):
    (slurm / "hold").touch()
    first = executor(study)
    first.submit(packs(study.config, study.trials[:3], {}, str(study.store.folder)))
    first.close()
    (slurm / "hold").unlink()
    told = study.status()
    assert (told["queued"], told["running"], told["lost"]) == (3, 0, 0)
    assert [job["job"] for job in told["jobs"]] == ["1"]
    assert study.store.gc() == [], "packs that wait stay"
    second = executor(study)
    second.attach(lambda event: None)
    subprocess.run(["scontrol", "release"], check=True)
    assert study.run(executor=second).counts == {"done": 5}
    check_once(study)
    assert len(states(slurm)) == 2, "only the two trials that were missing were submitted"


def test_packs_that_ended_without_a_driver_are_forgotten_by_a_run_with_nothing_to_do(study, slurm):
    first = executor(study)
    first.submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    first.close()
    wait_until(lambda: set(states(slurm)) == {"COMPLETED"})
    assert list(study.store.packs.iterdir()), "who submitted them has left"
    assert study.run(executor=executor(study)).counts == {"done": 5}
    check_once(study)


def test_pack_that_another_driver_is_about_to_submit_is_left_and_that_of_a_dead_one_deleted(study):
    (pack,) = packs(study.config, study.trials, {}, str(study.store.folder))
    me = Process.of(os.getpid())
    records.write(study.store, "a", pack, Record("slurm", me, records.job_name("s"), 0, "fake"))
    dead = replace(me, start=me.start - 1)
    records.write(study.store, "b", pack, Record("slurm", dead, records.job_name("s"), 0, "fake"))
    assert executor(study).running() == {}
    assert [handle for handle, _, _ in records.read(study.store)] == ["a"]


@pytest.mark.slow
def test_lost_job_is_told_and_its_trial_is_tried_three_times(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("FAKE_DEADLY", "silu")
    factors = {"input": ["CA_out"], "output": ["FFN_in"], "activation": ["relu", "silu"]}
    study = Study.load(fakes.study_file(tmp_path, factors=factors, seeds=1, tasks=fakes.SECTIONS["tasks"][:1]))
    outcome = study.run(executor=executor(study))
    assert outcome.counts == {"done": 2, "failed": 1}
    ((_, reason),) = outcome.failed
    assert "tried 3 times; the SLURM job" in reason and "ended as FAILED" in reason and "SIGKILL" in reason
    (failure,) = study.status()["failures"]
    assert "SIGKILL" in " ".join(failure["lines"]) and Path(failure["log"]).is_file()
    assert states(slurm) == ["FAILED", "FAILED", "COMPLETED", "FAILED"], "the other trial ran in a job of its own"


def test_cancelled_job_is_lost_and_tried_again(study, slurm, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.6")
    runner = executor(study)
    (handle,) = runner.submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    wait_until(lambda: not study.store.rows().empty)
    subprocess.run(["scancel", "1"], check=True)
    (state,) = wait_until(lambda: [s for s in runner.poll().values() if s.name == "lost"])
    assert "CANCELLED" in state.reason and state.log is not None
    assert 0 < len(study.store.rows()) < 5
    assert study.run(executor=executor(study)).counts == {"done": 5}
    check_once(study)


def test_cancel_ends_the_jobs_of_the_study_and_no_others(study, slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "30")
    runner = executor(study)
    runner.submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    (slurm / "9.json").write_text(json.dumps({"name": "other", "state": "PENDING", "reason": "Resources"}))
    called = [sys.executable, "-m", "study.cli.main", "cancel", str(tmp_path / "fake.yaml")]
    done = subprocess.run(called, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "1 job ended\n"
    assert states(slurm) == ["CANCELLED", "PENDING"]
    assert list(study.store.packs.iterdir()) == []


def test_silence_of_slurm_is_no_loss_and_what_it_refuses_is_told(study, slurm):
    runner = executor(study)
    (slurm / "hold").touch()
    (handle,) = runner.submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    (slurm / "down").touch()
    assert [runner.poll() for _ in range(4)] == [{}] * 4
    with pytest.raises(InputFault, match="SLURM does not answer"):
        executor(study)
    (slurm / "down").unlink()
    assert wait_until(runner.poll)[handle].name == "queued"
    with pytest.raises(WorkerFault, match="invalid partition"):
        executor(study, partition="none").submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    assert [handle for handle, _, _ in records.read(study.store)] == [handle], "what was refused left no pack"


def test_without_submitit_one_sentence_says_how_to_install_it(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputFault, match=r"pip install 'adapter-study\[slurm\]'"):
        executor(study)


def test_job_at_its_time_limit_goes_on_only_if_a_trial_has_got_on(study, tmp_path):
    (pack,) = packs(study.config, study.trials, {}, str(study.store.folder))
    file = tmp_path / "pack.json"
    file.write_text(pack.to_json())
    job = PackJob(str(study.store.folder), str(file), "logs", 3, fakes.COMMAND)
    job()
    assert job.checkpoint() is not None, "preempted before its time was up"
    job._begin -= 3 * 60
    assert job.checkpoint() is not None, "trials had ended"
    job._open = 0
    assert job.checkpoint() is None
    state = State(2, 1.0, torch.zeros(2), [], [])
    study.store.checkpoints.write(pack.trials[0], 1, state, {})
    assert job.checkpoint() is not None, "its checkpoint has got on"
    job._steps = {pack.trials[0].id: 2}
    assert job.checkpoint() is None, "the checkpoint was there when it began"


def test_what_sbatch_is_told():
    asked = Resources(partition="gpu", constraint="a100|h100", gpus=1, cpus=8, memory="32G", time="1-12", parallel=40)
    told = parameters(asked, "n")
    assert (told["partition"], told["constraint"], told["gpus_per_node"]) == ("gpu", "a100|h100", 1)
    assert told["time"] == 36 * 60 and told["array_parallelism"] == 40
    assert told["additional_parameters"] == {"requeue": True, "mem": "32G"}
    assert told["srun_args"] == ["--cpus-per-task=8"] and told["cpus_per_task"] == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90m", 90), ("8h", 480), ("2d", 2880), ("1-12", 2160), ("1-0:30", 1470), ("8:00:00", 480), ("0:00:01", 1)],
)
def test_time_limits(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("resources", "fault"),
    [
        ({"partion": "gpu"}, "did you mean partition"),
        ({"time": 28800}, "expected a time such as 90m"),
        ({"time": "soon"}, "expected a time such as 90m"),
        ({"partition": "gpu\nrm -rf ~"}, "without spaces or quotes"),
        ({"checkpoint": 10}, "the time between two checkpoints, such as 10m or 90s, or never"),
        ({"gpus": 2}, "less than or equal to 1"),
        ({"memory": "lots"}, "lots"),
    ],
)
def test_wrong_resources_are_told(tmp_path, resources, fault):
    with pytest.raises(InputFault, match=fault):
        Study.load(fakes.study_file(tmp_path, resources=resources))


def test_states_of_jobs(slurm):
    for id, state in (("3_0", "PENDING"), ("3_1", "COMPLETING"), ("3_2", "TIMEOUT"), ("4", "REQUEUED")):
        (slurm / f"{id}.json").write_text(json.dumps({"name": "n", "state": state, "reason": "None"}))
    found = {job.id: (job.active, job.waits, job.index) for job in slurm_jobs.mine(["n"])}
    assert found == {
        "3_0": (True, True, 0), "3_1": (True, False, 1), "3_2": (False, False, 2), "4": (True, True, 0)
    }  # fmt: skip
    (slurm / "3_0.json").unlink()  # it has no script that could be run in the end


def test_flags_come_before_the_study_and_are_for_slurm_only():
    asked = Resources(partition="a", time="1h")
    assert with_flags(asked, {"partition": "b", "time": None}, "slurm") == Resources(partition="b", time="1h")
    assert with_flags(asked, {"checkpoint": "5m"}, "local").checkpoint_seconds == 300, "this one is for all"
    with pytest.raises(InputFault, match="expected --executor slurm"):
        with_flags(asked, {"partition": "b"}, "local")
    with pytest.raises(InputFault, match="--time: got 'soon'"):
        with_flags(asked, {"time": "soon"}, "slurm")
    with pytest.raises(InputFault, match="--checkpoint-every: got 'soon'"):
        with_flags(asked, {"checkpoint": "soon"}, "local")
