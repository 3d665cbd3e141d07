"""The Ray executor with Ray faked: what is submitted, lost, cancelled and told. `tests/cluster` has true nodes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.faults import InputFault
from study.claims import Claims
from study.cli.run import with_flags
from study.executors import ray_task, records
from study.executors.local import WorkerFault
from study.executors.ray import RayExecutor
from study.executors.ray_cluster import Place, View, room
from study.executors.records import Record
from study.plan import packs
from study.process import Judge, Process
from study.resources import Resources
from study.study import Study
from tests.faults import injection
from tests.study import fake_ray, fakes

ROOT = Path(__file__).resolve().parents[2]
ME = Process.of(os.getpid())


@pytest.fixture(autouse=True)
def ray(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fake_ray.install(monkeypatch)


@pytest.fixture
def study(tmp_path):
    """Two valid pairs of one input, two activations, one task, one seed: four trials and the untuned backbone."""
    factors = {**fakes.SECTIONS["factors"], "input": ["CA_out"]}
    return Study.load(fakes.study_file(tmp_path, factors=factors, seeds=1, tasks=fakes.SECTIONS["tasks"][:1]))


def executor(study: Study, address: str | None = None, **asked) -> RayExecutor:
    return RayExecutor(study.store, Resources(**asked), address, command=fakes.COMMAND)


def check_once(study: Study) -> None:
    attempts = study.store.attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in study.trials)
    assert set(attempts["status"]) == {"done"} and set(attempts["attempt"]) == {1}
    # Oracle: the fake runtime's score is a function of the id alone.
    assert attempts["clip_i"].tolist() == [fakes.score(id) for id in attempts["id"]]
    assert [*study.store.claims.iterdir(), *study.store.packs.iterdir()] == []


def elsewhere(pack: str, node: str = "n1") -> Process:
    """A process on another machine, of a worker that Ray runs there."""
    return replace(ME, host="far", machine="far", boot="far", ray=str(Place(node, "j1", pack)))


def claim(study: Study, trial: int, holder: Process) -> Claims:
    claims = Claims(study.store.claims)
    claims._me = holder
    assert claims.take(study.trials[trial].id, 1) is None
    return Claims(study.store.claims)


def test_packs_run_as_tasks_and_rows_name_their_logs(study, ray):
    outcome = study.run(executor=executor(study, cpus=1, memory="2G"))
    assert outcome.counts == {"done": 5}
    check_once(study)
    for log in study.store.rows()["log"]:
        assert "a library prints" in (study.store.folder / log).read_text()
    (started,), (asked,) = ray.inits, ray.asked
    assert started["address"] == "local" and started["include_dashboard"] is False and not ray.on
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (asked["num_cpus"], asked["num_gpus"], asked["memory"], asked["max_retries"]) == (1, 0, 2 * 2**30, 3)


def test_lost_tasks_are_tried_again_and_what_their_workers_held_is_freed(study, ray):
    fake_ray.FAULTS[:] = ["lost", "lost"]
    assert study.run(executor=executor(study)).counts == {"done": 5}
    check_once(study)


def test_trial_that_kills_its_worker_fails_with_the_reason_and_others_end(tmp_path):
    factors = {"input": ["CA_out"], "output": ["FFN_in"], "activation": ["relu", "silu"]}
    study = Study.load(fakes.study_file(tmp_path, factors=factors, seeds=1, tasks=fakes.SECTIONS["tasks"][:1]))
    runner = RayExecutor(study.store, command=("env", "FAKE_DEADLY=silu", *fakes.COMMAND))
    outcome = study.run(executor=runner)
    assert outcome.counts == {"done": 2, "failed": 1}
    ((_, reason),) = outcome.failed
    assert "tried 3 times; the worker on" in reason and "SIGKILL" in reason
    (failure,) = study.status()["failures"]
    assert Path(failure["log"]).is_file()


@pytest.mark.parametrize("fault", ["raises", "exits"])
def test_installation_that_fails_on_nodes_is_told_and_no_trial_is_blamed(study, ray, fault):
    command = fakes.COMMAND if fault == "raises" else (sys.executable, "-c", "import sys; sys.exit('no such model')")
    fake_ray.FAULTS[:] = ["raises"] * 9 * (fault == "raises")
    with pytest.raises(WorkerFault, match="No module named 'study'" if fault == "raises" else "no such model"):
        study.run(executor=RayExecutor(study.store, command=command))
    assert study.store.rows().empty and list(study.store.packs.iterdir()) == []


def test_cancel_from_another_command_ends_the_run(study, ray, tmp_path):
    runner = RayExecutor(study.store, command=("env", "FAKE_SECONDS=30", *fakes.COMMAND))
    runner.submit(packs(study.config, study.trials, {}, str(study.store.folder)))
    runner.poll()
    told = study.status()
    assert told["queued"] + told["running"] == 5 and told["jobs"]
    called = [sys.executable, "-m", "study.cli.main", "cancel", str(tmp_path / "fake.yaml")]
    done = subprocess.run(called, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "1 pack on Ray cancelled" in done.stdout
    runner._looked = 0
    with pytest.raises(KeyboardInterrupt, match="adapter-study cancel"):
        runner.poll()
    runner.close()
    assert ray.cancelled == [True]


def test_what_a_dead_driver_left_is_freed_and_that_of_a_living_one_stays(study):
    (pack,) = packs(study.config, study.trials, {}, str(study.store.folder))
    records.write(study.store, "a", pack, Record("ray", ME))
    records.write(study.store, "b", pack, Record("ray", replace(ME, start=ME.start - 1)))
    claim(study, 0, elsewhere("a"))
    claims = claim(study, 1, elsewhere("b"))
    assert executor(study).running() == {}
    assert [handle for handle, _, _ in records.read(study.store)] == ["a"]
    assert claims.holder(study.trials[0].id, 1) == elsewhere("a")
    assert claims.holder(study.trials[1].id, 1) is None


def test_worker_on_a_node_that_left_is_known_to_be_dead_and_its_trial_run(study, monkeypatch):
    nodes = [*fake_ray.NODES, {"NodeID": "n2", "Alive": False, "Resources": {}}]
    monkeypatch.setattr(fake_ray, "NODES", nodes)
    claim(study, 0, elsewhere("x", node="n2"))
    assert study.run(executor=executor(study)).counts == {"done": 5}
    check_once(study)


def test_who_lives_in_a_cluster():
    cluster = View({"n1": True, "n2": False}, frozenset({"j1"}))
    assert cluster.alive(Place("n1", "j1", "p")) is True
    assert cluster.alive(Place("n1", "j0", "p")) is False, "its driver has ended"
    assert cluster.alive(Place("n2", "j1", "p")) is False, "its node has left"
    assert cluster.alive(Place("n3", "j1", "p")) is None, "another cluster's"
    assert Judge().alive(elsewhere("p")) is None, "this process is connected to no cluster"
    assert Process.from_json(json.loads(json.dumps(elsewhere("p").to_json()))) == elsewhere("p")


def test_pack_whose_node_is_lost_time_and_again_is_given_up(study, tmp_path):
    (pack,) = packs(study.config, study.trials, {}, str(study.store.folder))
    records.write(study.store, "p", pack, Record("ray", ME))
    for _ in range(4):
        ray_task.events_of(study.store, "p").parent.mkdir(parents=True, exist_ok=True)
        ray_task._starts(ray_task.events_of(study.store, "p"))
    told = ray_task.run_pack(str(study.store.folder), "p", 1, None, {}, fakes.COMMAND)
    assert "lost 4 times" in told and study.store.rows().empty


def test_worker_that_hangs_is_killed_and_what_it_held_is_freed(study, monkeypatch, tmp_path):
    monkeypatch.setenv("FAULT", "hangs")
    monkeypatch.setenv("FAULT_TIMES", "1")
    monkeypatch.setenv("FAULT_FOLDER", str(tmp_path / "struck"))
    (tmp_path / "struck").mkdir()
    (pack,) = packs(study.config, study.trials, {}, str(study.store.folder))
    records.write(study.store, "p", pack, Record("ray", ME))

    def run_pack() -> str:
        return ray_task.run_pack(str(study.store.folder), "p", 1, None, {}, injection.COMMAND, silence=2.0)

    told = run_pack()
    assert "told nothing for 2 s and was killed" in told and "here comes: hangs" in told
    assert not [each for each in Claims(study.store.claims).all().values() if each is not None]
    assert run_pack() == "", "it hangs once"
    assert sorted(study.store.attempts()["id"]) == sorted(trial.id for trial in study.trials)


def test_worker_that_works_longer_than_the_silence_is_left_alone(study, monkeypatch):
    (pack,) = packs(study.config, study.trials[:2], {}, str(study.store.folder))
    records.write(study.store, "p", pack, Record("ray", ME))
    command = ("env", "FAKE_SECONDS=3", *fakes.COMMAND)  # of a trial, which tells three steps in that time
    assert ray_task.run_pack(str(study.store.folder), "p", 1, None, {}, command, silence=2.0) == ""
    assert len(study.store.rows()) == 2


def test_store_that_a_node_does_not_see_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="must share the store's folder"):
        ray_task.run_pack(str(tmp_path / "elsewhere"), "p", 1, None, {}, fakes.COMMAND)
    assert not (tmp_path / "elsewhere").exists()


def test_without_ray_one_sentence_says_how_to_install_it(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputFault, match=r"pip install 'adapter-study\[ray\]'"):
        executor(study)


def test_cluster_that_does_not_answer_or_has_too_little_is_told(study, ray):
    with pytest.raises(InputFault, match="no Ray cluster can be reached at nowhere:1"):
        executor(study, "nowhere:1")
    with pytest.raises(InputFault, match="1 GPU"):
        executor(study, gpus=1)
    assert not ray.on
    assert executor(study, "head:6379", gpus=1).lacking == "1 CPU, 1 GPU", "a node that has one may still come"


def test_room():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 1.0, "GPU": 4.0}]
    assert room(nodes, {"CPU": 1, "GPU": 1, "memory": 0}) == 2 + 0 + 1
    assert room(nodes, {"CPU": 4, "GPU": 0, "memory": 0}) == 2 + 1 + 0
    assert Resources(memory="3M").bytes == 3 * 2**20


def test_gpu_is_asked_for_where_the_cluster_has_some(study, ray, monkeypatch):
    nodes = [{"NodeID": "n1", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}]
    monkeypatch.setattr(fake_ray, "NODES", nodes)
    assert executor(study).slots == 2 and ray.asked[-1]["num_gpus"] == 1
    assert executor(study, gpus=0).slots == 8 and ray.asked[-1]["num_gpus"] == 0


def test_flags():
    assert with_flags(Resources(), {"parallel": 3}, "ray").parallel == 3
    with pytest.raises(InputFault, match="expected --executor slurm with it"):
        with_flags(Resources(), {"time": "1h"}, "ray")
    with pytest.raises(InputFault, match="expected --executor slurm or ray"):
        with_flags(Resources(), {"parallel": 3}, "local")
