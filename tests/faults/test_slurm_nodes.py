"""On a true SLURM the daemons of nodes and of the controller are killed while jobs run, and a node leaves for good."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from study.study import Study
from tests.cluster import test_slurm
from tests.cluster.test_slurm import active, driver_of, servers, slurm
from tests.cluster.tiny import check_once, wait_until
from tests.faults.injection import INJECTED
from tests.study import fakes

cluster, environment = test_slurm.cluster, test_slurm.environment
pytestmark = [pytest.mark.slow, pytest.mark.skipif(servers.lacking() is not None, reason=str(servers.lacking()))]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of 13 faked trials of a second, and the program that drives it on the cluster."""
    monkeypatch.setenv("FAKE_SECONDS", "1")
    file = fakes.study_file(tmp_path, seeds=1, tasks=fakes.SECTIONS["tasks"][:1])
    return file, driver_of(file, pack=2)


def check(file: Path) -> None:
    check_once(file)
    # Oracle: the fake runtime's score is a function of the id alone.
    rows = Study.load(file).store.rows()
    assert rows["clip_i"].tolist() == [fakes.score(id) for id in rows["id"]]


def hurry_all() -> None:
    """Spare jobs that are put back into the queue the two minutes that SLURM lets them wait."""
    for job in active("PENDING"):
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=False, capture_output=True)


def test_daemons_killed_and_started_again_cost_no_row(cluster, environment, study):
    file, command = study
    driver, chance = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), random.Random(12)
    wait_until(lambda: active("RUNNING"))
    for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "slurmd-n1"):
        cluster.kill(name, signal.SIGKILL)
        INJECTED[f"kill -9 of {name}"] += 1
        time.sleep(chance.uniform(0, 3))
        cluster.begin(name)
        time.sleep(chance.uniform(0, 2))
    end = time.monotonic() + 400
    while driver.poll() is None and time.monotonic() < end:
        hurry_all()
        time.sleep(1)
    assert driver.communicate(timeout=1)[0].strip() == "{'done': 13}"
    check(file)


def processes_of(node: str) -> list[int]:
    """The processes of the jobs of a node, and the daemons that watch over them."""
    jobs = slurm("squeue", "-h", "-w", node, "-o", "%A")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                started_by = (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            watches = line.startswith("slurmstepd") and any(f"[{job}." in line for job in jobs)
            if watches or f"SLURMD_NODENAME={node}".encode() in started_by:
                found.append(int(entry.name))
    return found


def test_node_that_leaves_costs_no_row(cluster, environment, study):
    file, command = study
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: slurm("squeue", "-h", "-w", "n1", "-t", "RUNNING", "-o", "%i"))
    wait_until(lambda: not Study.load(file).store.rows().empty)
    cluster.kill("slurmd-n1", signal.SIGKILL)
    doomed = processes_of("n1")
    assert doomed
    for process in doomed:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    INJECTED["node that leaves SLURM"] += 1
    try:
        end = time.monotonic() + 400
        while driver.poll() is None and time.monotonic() < end:
            hurry_all()
            time.sleep(1)
        assert "down" in " ".join(cluster._states()), "SLURM has given the node up"
        assert driver.communicate(timeout=1)[0].strip() == "{'done': 13}"
    finally:
        cluster.begin("slurmd-n1")
    check(file)
