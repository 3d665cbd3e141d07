"""A study on a true SLURM of two nodes on this machine: jobs and driver are killed midway, and every row is there once.

`python tests/cluster/slurm.py FOLDER start` starts the same cluster by hand.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from study.study import Study
from tests.cluster.tiny import (
    QUICK_SECONDS,
    ROOT,
    STUDY,
    TRIALS,
    adapter_study,
    check_once,
    check_quick,
    quick_file,
    study_file,
    wait_until,
)
from tests.study import fakes

_spec = importlib.util.spec_from_file_location("cluster_of_two", Path(__file__).with_name("slurm.py"))
servers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(servers)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(servers.lacking() is not None, reason=str(servers.lacking()))]

RESOURCES = {"partition": "main", "time": "1h", "parallel": 2, "cpus": 1}


@pytest.fixture(scope="module")
def cluster():
    """The cluster; its folder has a short path, as sockets' paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        found = servers.Cluster(Path(folder))
        found.start()
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture
def environment(cluster, monkeypatch):
    for name, value in {**cluster.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    yield
    slurm("scancel", "-u", str(os.getuid()))
    wait_until(lambda: not active("RUNNING", "PENDING", "COMPLETING"))


def slurm(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def active(*states: str) -> list[str]:
    return slurm("squeue", "-h", "-r", "-o", "%i", "-t", ",".join(states))


def hurry(job: str) -> None:
    """Spare a job that is put back into the queue the two minutes that SLURM lets it wait."""
    wait_until(lambda: job in active("PENDING"))
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")


def driver_of(file: Path, pack: int | None = None) -> list[str]:
    """The program that drives a study of faked trials on the cluster, beside the study's file."""
    script = file.with_name("drive.py")
    script.write_text(
        "from study.executors.slurm import SlurmExecutor\n"
        "from study.resources import Resources\n"
        "from study.study import Study\n"
        "from tests.study import fakes\n"
        f"loaded = Study.load({str(file)!r})\n"
        "runner = SlurmExecutor(loaded.store, Resources(parallel=2, time='1h'), command=fakes.COMMAND, every=2)\n"
        f"print(loaded.run(executor=runner, pack={pack}).counts)\n"
    )
    return [sys.executable, str(script)]


def test_study_on_micro_unet_ends_whole_though_jobs_and_driver_were_killed(environment, tmp_path):
    file = study_file(tmp_path, resources=RESOURCES)
    store = Study.load(file).store
    command = ["run", file, "--executor", "slurm", "--pack", "1"]
    driver = adapter_study(*command)
    running = wait_until(lambda: active("RUNNING"))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    told = json.loads(adapter_study("status", file, "--json").communicate()[0])
    assert told["running"] + told["queued"] + told["reference"]["done"] + told["done"] == TRIALS
    slurm("scancel", running[0])
    other = min(wait_until(lambda: set(active("RUNNING")) - {running[0]}))
    slurm("scontrol", "requeue", other)
    hurry(other)
    driver = adapter_study(*command)
    said = driver.communicate(timeout=500)
    assert driver.returncode == 0, said
    assert store.rows()["clip_i"].notna().sum() == TRIALS
    check_once(file)


def test_what_slurm_does_to_jobs_costs_no_row_and_doubles_none(environment, tmp_path, monkeypatch):
    """Faked trials of four seconds: preemption, time limit by signal, a requeue, a cancel, two drivers, both left."""
    monkeypatch.setenv("FAKE_SECONDS", "4")
    file = fakes.study_file(tmp_path, seeds=1, tasks=fakes.SECTIONS["tasks"][:1])
    command = driver_of(file)
    store = Study.load(file).store
    drivers = [subprocess.Popen(command) for _ in range(2)]
    preempted = wait_until(lambda: active("RUNNING"))[0]
    wait_until(lambda: not store.rows().empty)
    subprocess.run(["scancel", "--signal=USR2", preempted], check=False)
    hurry(preempted)
    for driver in drivers:
        driver.send_signal(signal.SIGINT)
    for driver in drivers:
        driver.wait(60)
    assert active("RUNNING", "PENDING"), "jobs go on without a driver"
    other = wait_until(lambda: active("RUNNING"))[0]
    slurm("scontrol", "requeue", other)
    hurry(other)
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
    assert done.stdout.strip() == "{'done': 13}", done.stderr
    wait_until(lambda: not active("RUNNING", "PENDING", "COMPLETING"))  # a job of the other driver has nothing to do
    subprocess.run(command, capture_output=True, timeout=400, check=True)
    check_once(file)
    # Oracle: the fake runtime's score is a function of the id alone.
    rows = store.rows()
    assert rows["clip_i"].tolist() == [fakes.score(id) for id in rows["id"]]


def test_a_trial_that_slurm_interrupts_goes_on_from_the_step_it_was_at(environment, tmp_path):
    """No checkpoint is due for an hour: it is written because SLURM announces the end."""
    factors = {"input": ["CA_out"], "output": ["FFN_in"]}
    file = study_file(tmp_path, factors=factors, protocol={**STUDY["protocol"], "steps": 400}, resources=RESOURCES)
    store = Study.load(file).store
    driver = adapter_study("run", file, "--executor", "slurm", "--pack", "1", "--checkpoint-every", "1h")
    outs = wait_until(lambda: [out for out in store.logs.rglob("*_log.out") if '"step": 20,' in out.read_text()])
    job = outs[0].name.removesuffix("_0_log.out")
    subprocess.run(["scancel", "--signal=USR2", job], check=False)
    hurry(job)
    said = driver.communicate(timeout=500)
    assert driver.returncode == 0, said
    check_once(file)
    rows = store.rows().set_index("role")
    assert 20 <= rows.loc["study", "resumed_step"] < 400 and rows.loc["reference", "resumed_step"] == 0
    assert rows.loc["study", "status"] == "done" and len(store.curves()) == 100


def test_cancel_ends_the_jobs(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "100")
    file = fakes.study_file(tmp_path, seeds=1)
    driver = adapter_study("run", file, "--executor", "slurm", "--partition", "main", "--time", "1h")
    wait_until(lambda: active("RUNNING"))
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "jobs go on" in said
    told = adapter_study("cancel", file).communicate()[0]
    assert "ended" in told and not told.startswith("0")
    wait_until(lambda: not active("RUNNING", "PENDING", "COMPLETING"))
    assert os.listdir(Study.load(file).store.packs) == []


@pytest.mark.timeout(QUICK_SECONDS)
def test_quick_study_runs_to_its_end(environment, tmp_path):
    check_quick(quick_file(tmp_path, resources=RESOURCES), "--executor", "slurm")
