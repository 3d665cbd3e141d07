"""What planning, status and going on cost as a study grows, in counts of what is done, never in seconds."""

import json
from collections import Counter
from functools import partial
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

import study.canonical
import study.running
import study.trial
from study import plan, space
from study.executors import records
from study.executors.local import LocalExecutor
from study.store import Store
from study.study import Study
from study.trial import TrialResult
from tests.study import fakes

DESIGNS = fakes.PLANNED // 4 + 1
"""Those of two tasks and two seeds, and the untuned backbone."""


class Enough(Exception):
    """The run has handed out its first packs."""


class First(LocalExecutor):
    """Stops a run when it would wait for its workers."""

    def poll(self, seconds: float = 0.5):
        raise Enough


def count(monkeypatch, module, name: str) -> Counter:
    """Count the calls of a function of a module."""
    calls: Counter = Counter()
    real = getattr(module, name)

    def counted(*args, **named):
        calls[name] += 1
        return real(*args, **named)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.fixture
def filled(tmp_path) -> Study:
    """A study of ten seeds that has all of its rows but five, of which thirty are a file each."""
    loaded = Study.load(fakes.study_file(tmp_path, seeds=10))
    trials = loaded.trials[:-5]
    for each in trials[:-30]:
        loaded.store.commit(TrialResult(each, "done", scores={"clip_i": 0.5}))
    loaded.store.compact()
    for each in trials[-30:]:
        loaded.store.commit(TrialResult(each, "done", scores={"clip_i": 0.5}))
    return loaded


def test_designs_and_protocols_are_written_out_once_however_many_replicates_there_are(tmp_path, monkeypatch):
    texts = {}
    for seeds in (2, 20):
        loaded = Study.load(fakes.study_file(tmp_path, seeds=seeds))
        loaded.config.space.designs  # noqa: B018 (the space is gone through once)
        calls = count(monkeypatch, study.trial, "canonical_json")
        assert len({trial.id for trial in loaded.trials}) == DESIGNS * 2 * seeds
        texts[seeds] = calls["canonical_json"]
        monkeypatch.undo()
    assert texts[20] <= DESIGNS + 2 * 20, "one a design, and one a task and seed"


def test_replicate_has_the_id_that_its_whole_content_gives(tmp_path):
    for trial in Study.load(fakes.study_file(tmp_path)).trials[:3]:
        content = trial.to_json()
        alone = study.trial.Trial.from_json(content)
        assert "id" in vars(trial) and "id" not in vars(alone)
        content = {"backbone": trial.backbone_hash, "design": trial.design, "task": trial.task_hash,
                   "seed": trial.seed, "protocol": content["protocol"], "version": 1}  # fmt: skip
        assert trial.id == alone.id == study.canonical.digest(content)


def test_status_plans_once_and_opens_every_file_of_rows_once(filled, monkeypatch):
    planned, opened = count(monkeypatch, plan, "_planned"), count(monkeypatch, pq, "ParquetFile")
    levels = count(monkeypatch, plan, "text")
    told = Study.load(filled.store.folder.parent / "fake.yaml").status()
    assert (told["missing"], told["done"]) == (5, (DESIGNS - 1) * 20 - 5) or told["reference"]["missing"]
    assert planned["_planned"] == 1 and opened["ParquetFile"] == 31
    assert levels["text"] <= 3 * 2 * DESIGNS, "levels are of designs, not of trials"


def test_run_that_goes_on_opens_every_file_once_and_hands_out_what_is_missing(filled, monkeypatch):
    planned, opened = count(monkeypatch, plan, "_planned"), count(monkeypatch, pq, "ParquetFile")
    runner = First(filled.store, ["cpu"], command=fakes.COMMAND)
    with pytest.raises(Enough):
        filled.run(executor=runner)
    assert planned["_planned"] == 1 and opened["ParquetFile"] <= 31 + 1, "each file, and a merged one for `has`"


def test_packs_become_files_only_as_workers_get_them(tmp_path, monkeypatch):
    loaded = Study.load(fakes.study_file(tmp_path, seeds=10))
    packs = plan.packs(loaded.config, loaded.trials, {}, str(loaded.store.folder), workers=2)
    written = count(monkeypatch, records, "write")
    runner = LocalExecutor(loaded.store, ["cpu", "cpu"], command=fakes.COMMAND)
    assert len(runner.submit(packs)) == len(packs) > 4
    assert not written and not loaded.store.folder.exists()
    runner.cancel(list(runner.poll(0)))
    runner.close()


def test_run_merges_rows_once_many_lie_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("study.driver.LOOSE", 10)
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    runner = LocalExecutor(loaded.store, ["cpu"] * 2, command=fakes.COMMAND)
    assert loaded.run(executor=runner).counts == {"done": DESIGNS * 2}
    files = [file.name for file in (loaded.store.folder / "trials").iterdir()]
    assert sum(name.startswith("merged-") for name in files) == 1 and len(files) < 10
    attempts = Store(loaded.store.folder).attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in loaded.trials)
    assert json.loads(json.dumps(loaded.status()))["done"] == (DESIGNS - 1) * 2


def test_levels_of_designs_choose_what_is_run(tmp_path):
    loaded = Study.load(fakes.study_file(tmp_path))
    runner = LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND)
    chosen = {"input": "CA_out", "activation": "silu"}
    loaded.run(executor=runner, design=chosen)
    rows = loaded.store.rows()
    asked = [trial.id for trial in loaded.trials if space.has_levels(trial.design, chosen)]
    assert sorted(rows["id"]) == sorted(asked) and len(asked) == 2 * 2 * 2  # two outputs, two tasks, two seeds


class Ahead(LocalExecutor):
    """Notes which workers are started before there is a pack for them."""

    begun: ClassVar[list[LocalExecutor]] = []

    def begin(self) -> None:
        super().begin()
        self.begun.append(self)


@pytest.fixture
def ahead(monkeypatch) -> list[LocalExecutor]:
    monkeypatch.setattr(Ahead, "begun", [])
    monkeypatch.setattr(study.running, "LocalExecutor", partial(Ahead, command=fakes.COMMAND))
    return Ahead.begun


def test_worker_loads_while_the_driver_plans_if_something_is_missing_and_only_then(tmp_path, ahead):
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    assert loaded.store.size() == 0 < plan.number(loaded.config) == len(loaded.trials) == DESIGNS * 2
    loaded.run(limit=3)
    assert len(ahead) == 1 and loaded.store.size() == 3
    loaded.run(only="failed")
    loaded.run(design={"input": "CA_out"}, limit=1)
    assert len(ahead) == 1, "it is not known whether there is anything to do"
    assert loaded.run().counts == {"done": DESIGNS * 2} and len(ahead) == 2
    loaded.store.compact()
    assert loaded.store.size() == DESIGNS * 2
    loaded.run()
    assert len(ahead) == 2


def test_worker_that_was_started_ahead_ends_with_a_run_that_fails_to_plan(tmp_path, ahead, monkeypatch):
    def fails(self: Store, columns: object) -> None:
        raise Enough

    monkeypatch.setattr(Store, "examined", fails)
    loaded = Study.load(fakes.study_file(tmp_path))
    with pytest.raises(Enough):
        loaded.run()
    (runner,) = ahead
    assert not runner._hands and len(list(loaded.store.logs.iterdir())) == 1


def test_rows_of_damaged_files_are_not_counted(filled):
    (merged,) = (filled.store.folder / "trials").glob("merged-*.parquet")
    assert filled.store.size() == len(filled.trials) - 5
    merged.write_bytes(b"PAR1 garbage PAR1")
    assert filled.store.size() == 30
