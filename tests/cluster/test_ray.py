"""A study on a true Ray of two nodes on this machine: nodes and drivers are killed midway, and every row is there once.

`python tests/cluster/ray.py FOLDER start` starts the same cluster by hand.
"""

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from study.claims import Claims
from study.executors.ray_cluster import Place
from study.store import Store
from study.study import Study
from tests.cluster.tiny import (
    QUICK_SECONDS,
    ROOT,
    TRIALS,
    adapter_study,
    check_once,
    check_quick,
    quick_file,
    study_file,
    wait_until,
)
from tests.study import fakes

_spec = importlib.util.spec_from_file_location("ray_of_two", Path(__file__).with_name("ray.py"))
servers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(servers)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(servers.lacking() is not None, reason=str(servers.lacking()))]

APART = (sys.executable, str(Path(__file__).with_name("apart.py")))
ONE_TASK = fakes.SECTIONS["tasks"][:1]
FAKED = 13
"""Six valid pairs, two activations, one task, one seed, and the untuned backbone."""


@pytest.fixture(scope="module")
def cluster():
    """The cluster; its folder has a short path, as sockets' paths may not be long."""
    own = tempfile.TemporaryDirectory(prefix="ry", ignore_cleanup_errors=True)
    with own as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
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


def drive(folder: Path, file: Path, seconds: float, address: str | None = None) -> list[object]:
    """Write a driver of faked trials on machines that cannot see each other's processes; return its command."""
    script = folder / "drive.py"
    script.write_text(
        "from study.executors.ray import RayExecutor\n"
        "from study.resources import Resources\n"
        "from study.study import Study\n"
        f"loaded = Study.load({str(file)!r})\n"
        f"command = ('env', 'FAKE_SECONDS={seconds}', *{APART!r})\n"
        f"runner = RayExecutor(loaded.store, Resources(parallel=2), {address!r}, command=command)\n"
        "outcome = loaded.run(executor=runner)\n"
        "print(outcome.counts, *outcome.elsewhere)\n"
    )
    return [sys.executable, script]


def nodes_at_work(store: Store) -> set[str]:
    places = [Place.parse(holder.ray) for holder in Claims(store.claims).all().values() if holder is not None]
    return {place.node for place in places if place is not None}


def ended_whole(told: str) -> bool:
    """Say whether a driver's last line says that every trial is done, and none was left to others."""
    return told.splitlines()[-1:] == [f"{{'done': {FAKED}}}"]  # before it Ray tells of lost nodes


def check_scores(store: Store) -> None:
    # Oracle: the fake runtime's score is a function of the id alone.
    rows = store.rows()
    assert rows["clip_i"].tolist() == [fakes.score(id) for id in rows["id"]]


def test_study_on_micro_unet_ends_whole_though_it_was_cancelled_its_driver_killed_and_a_node_lost(
    cluster, environment, tmp_path
):
    file = study_file(tmp_path)
    store = Study.load(file).store
    command = ["run", file, "--executor", "ray", "--pack", "1"]
    driver = adapter_study(*command)
    wait_until(lambda: nodes_at_work(store) or driver.poll() is not None)
    assert "on Ray cancelled" in adapter_study("cancel", file).communicate()[0]
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "ended by `adapter-study cancel`" in said
    assert list(store.packs.iterdir()) == []
    driver = adapter_study(*command)
    wait_until(lambda: list(store.packs.glob("*.json")) and nodes_at_work(store))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    told = json.loads(adapter_study("status", file, "--json").communicate()[0])
    before = told["reference"]["done"] + told["done"]
    assert before < TRIALS
    assert told["jobs"] and {job["state"] for job in told["jobs"]} == {"lost"}
    driver = adapter_study(*command)
    wait_until(lambda: len(store.rows()) > before or driver.poll() is not None)
    cluster.kill_node(1)
    said = driver.communicate(timeout=500)
    cluster.start_node(1)
    assert driver.returncode == 0, said
    assert store.rows()["clip_i"].notna().sum() == TRIALS
    check_once(file)


def test_of_two_drivers_one_is_killed_with_a_node_and_the_other_ends_the_study(cluster, environment, tmp_path):
    file = fakes.study_file(tmp_path, seeds=1, tasks=ONE_TASK)
    store = Study.load(file).store
    command = drive(tmp_path, file, 1)
    first = subprocess.Popen(command)
    wait_until(lambda: nodes_at_work(store))
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(nodes_at_work(store)) == 2 and len(store.rows()) > 2)
    cluster.kill_node(1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    told, _ = second.communicate(timeout=400)
    cluster.start_node(1)
    assert ended_whole(told), "no trial was left, though workers were on other machines"
    check_once(file)
    check_scores(store)


def test_node_is_lost_and_comes_back_while_the_driver_stays(cluster, environment, tmp_path):
    file = fakes.study_file(tmp_path, seeds=1, tasks=ONE_TASK)
    store = Study.load(file).store
    driver = subprocess.Popen(drive(tmp_path, file, 1), stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(nodes_at_work(store)) == 2 and len(store.rows()) > 2)
    cluster.kill_node(1)
    cluster.start_node(1)
    told, _ = driver.communicate(timeout=400)
    assert ended_whole(told)
    check_once(file)
    check_scores(store)


def test_driver_outside_of_the_cluster(cluster, environment, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS")
    file = fakes.study_file(tmp_path, seeds=1, tasks=ONE_TASK)
    done = subprocess.run(drive(tmp_path, file, 0, cluster.client), capture_output=True, text=True, timeout=400)
    assert ended_whole(done.stdout), done.stderr
    check_once(file)


def test_cluster_of_its_own_ends_with_the_driver(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray writes an access token
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = fakes.study_file(tmp_path, seeds=1, tasks=ONE_TASK)
    driver = subprocess.Popen(drive(tmp_path, file, 1), start_new_session=True)
    store = Study.load(file).store
    wait_until(lambda: len(store.rows()) > 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    worker = next(holder for holder in Claims(store.claims).all().values() if holder is not None)
    wait_until(lambda: not Path(f"/proc/{worker.pid}").exists(), 60)
    done = subprocess.run(drive(tmp_path, file, 0), capture_output=True, text=True, timeout=400)
    assert ended_whole(done.stdout), done.stderr
    check_once(file)


@pytest.mark.timeout(QUICK_SECONDS)
def test_quick_study_runs_to_its_end(cluster, environment, tmp_path):
    check_quick(quick_file(tmp_path, resources={"parallel": 2}), "--executor", "ray")
