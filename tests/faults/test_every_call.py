"""Whatever changes a store is killed before each of its file-system calls, one after the other, and then repeated."""

import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import study.commit
from study import journal, looks
from study.atomic import put_new, write_folder
from study.claims import Claims
from study.config import Protocol
from study.damage import DAMAGED, set_aside
from study.executors import records
from study.executors.records import Record
from study.keep import Keeping
from study.process import Process
from study.store import Store
from study.trial import Pack, Trial, TrialResult
from tests.faults.injection import INJECTED, damaged, killed_at

DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "scale": 0.5, "width": 2}
STRIDE = 7
"""The fast tests kill before every so many calls, from a random one on; the slow ones before each."""


@pytest.fixture(params=[STRIDE, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "each"])
def calls(request):
    """The calls to kill at: a function that gives them anew."""
    return lambda: itertools.count(random.Random(0).randrange(request.param), request.param)


@pytest.fixture(autouse=True)
def weights_are_bytes(monkeypatch):
    monkeypatch.setattr("study.store.save_weights", _save)


def _save(folder: Path, result: TrialResult, row: dict) -> None:
    (folder / "adapter.safetensors").write_bytes(bytes([int(result.scores["clip_i"])]) * 100)
    (folder / "adapter.json").write_text(json.dumps(row["id"]))


def trial(seed: int) -> Trial:
    return Trial("b", DESIGN, "subject/rex", seed, Protocol(), backbone_hash="b", task_hash="t")


def result(seed: int, status: str = "done", value: int | None = None) -> TrialResult:
    """A result all of whose parts have one value, by default the seed."""
    if status == "failed":
        return TrialResult(trial(seed), status, "why")
    value = seed if value is None else value
    return TrialResult(
        trial(seed),
        status,
        scores={"clip_i": float(value)},
        images=[{"prompt": "p", "prompt_index": 0, "picture_seed": k, "clip_i": float(value)} for k in range(2)],
        pictures=[np.full((4, 4, 3), value, np.uint8)] * 2,
        curves=[{"step": 0, "loss": float(value)}],
        adapter={"weight": None},
    )


def assert_whole(store: Store, seeds: set[int]) -> None:
    """Each trial has one row, all that belongs to it, its own numbers; and there is nothing else."""
    rows = store.rows()
    assert sorted(rows["seed"]) == sorted(seeds) and set(rows["status"]) <= {"done"}
    assert rows["clip_i"].tolist() == rows["seed"].tolist()
    seed_of = dict(zip(rows["id"], rows["seed"], strict=True))
    images, curves = store.images(), store.curves()
    assert sorted(images["id"]) == sorted([*seed_of, *seed_of])
    assert [seed_of[id] for id in images["id"]] == images["clip_i"].tolist()
    assert sorted(curves["id"]) == sorted(seed_of) and [seed_of[id] for id in curves["id"]] == curves["loss"].tolist()
    for file, value in zip(images["file"], images["clip_i"], strict=True):
        assert set(np.asarray(Image.open(store.folder / file)).ravel().tolist()) == {value}
    for id, seed in seed_of.items():
        assert (store.adapter(id) / "adapter.safetensors").read_bytes() == bytes([seed]) * 100
        assert json.loads((store.adapter(id) / "adapter.json").read_text()) == id


def assert_clean(store: Store, seeds: set[int]) -> None:
    """After `gc` the store holds what rows own and no other file."""
    store.gc()
    assert_whole(store, seeds)
    own = {trial(seed).id for seed in seeds}
    for kind in ("pictures", "adapters"):
        assert {path.name for path in (store.folder / kind).iterdir()} == own
    left = [path for path in store.folder.rglob("*") if path.name.endswith((".part", DAMAGED, ".job"))]
    assert left == [] and not any(store.claims.glob("*"))


def each_kill(calls, tmp_path: Path, prepare: Callable[[Store], Callable[[], object]]):
    """Yield a store each time that what `prepare` returns was killed at the next call; then one where it was not."""
    for call in calls():
        store = Store(tmp_path / f"store{call}")
        action = prepare(store)
        was_killed = killed_at(call, store.folder, action)
        yield store, action
        if not was_killed:
            assert call > 0
            return


def test_commit(tmp_path, calls):
    def prepare(store):
        store.commit(result(1), keep="all")
        return lambda: store.commit(result(2), keep="all")

    for store, again in each_kill(calls, tmp_path, prepare):
        seen = set(store.rows()["seed"])
        assert seen in ({1}, {1, 2})
        assert_whole(store, seen)
        again()
        assert_clean(store, {1, 2})


def test_commit_of_a_second_attempt(tmp_path, calls):
    def prepare(store):
        store.commit(result(1), keep="all")
        store.commit(result(2, "failed"))
        return lambda: store.commit(result(2), attempt=2, keep="all")

    for store, again in each_kill(calls, tmp_path, prepare):
        again()
        assert_clean(store, {1, 2})
        assert sorted(store.attempts().query("seed == 2")["attempt"]) == [1, 2]


def test_commit_over_what_a_killed_one_left(tmp_path, calls):
    """Two kills in a row, the first at a random call."""
    chance = random.Random(2)

    def prepare(store):
        store.commit(result(1), keep="all")
        killed_at(chance.randrange(40), store.folder, lambda: store.commit(result(2), keep="all"))
        return lambda: store.commit(result(2), keep="all")

    for store, again in each_kill(calls, tmp_path, prepare):
        again()
        assert_clean(store, {1, 2})


@pytest.mark.parametrize("overtaken_at", range(5), ids=["pictures", "images", "curves", "adapter", "row"])
def test_whoever_loses_the_race_for_a_row_and_is_killed_harms_nothing_of_the_winner(tmp_path, calls, overtaken_at):
    """Two at one trial, as when a node is cut off, taken for dead and then goes on; and then it is killed."""

    def prepare(store):
        store.commit(result(1), keep="all")

        def lose():
            places = itertools.count()

            def overtaken(part, path):
                if next(places) == overtaken_at:
                    study.commit.put_new = put_new
                    store.commit(result(2, value=20), keep="all")
                return put_new(part, path)

            study.commit.put_new = overtaken  # in a process of its own, see `killed_at`
            store.commit(result(2, value=30), keep="all")

        return lose

    for store, _ in each_kill(calls, tmp_path, prepare):
        store.commit(result(2, value=40), keep="all")
        store.gc()
        (row,) = store.rows().query("seed == 2").to_dict("records")
        images = store.images().query("id == @row['id']")
        pictures = np.stack([np.asarray(Image.open(store.folder / file)) for file in images["file"]])
        (loss,) = store.curves().query("id == @row['id']")["loss"]
        weights = set((store.adapter(row["id"]) / "adapter.safetensors").read_bytes())
        assert len(images) == 2 and {*images["clip_i"], *pictures.ravel().tolist(), *weights, loss} == {row["clip_i"]}
        assert list(store.folder.rglob("*.part")) == []


def test_compact(tmp_path, calls):
    def prepare(store):
        for seed in (1, 2, 3):
            store.commit(result(seed), keep="all")
            if seed == 2:
                store.compact()
        store.commit(result(4), keep="all")
        return store.compact

    for store, again in each_kill(calls, tmp_path, prepare):
        assert_whole(store, {1, 2, 3, 4})
        again()
        assert_clean(store, {1, 2, 3, 4})
        for kind in ("trials", "images", "curves"):
            assert len(list((store.folder / kind).iterdir())) == 1


def test_gc(tmp_path, calls):
    def prepare(store):
        store.commit(result(1), keep="all")
        for call in (10, 20, 30):
            killed_at(call, store.folder, lambda: store.commit(result(2), keep="all"))
        Claims(store.claims).take("a", 1)
        give(store)
        return store.gc

    for store, _ in each_kill(calls, tmp_path, prepare):
        assert_whole(store, {1})
        assert_clean(store, {1})


def test_keep_best(tmp_path, calls):
    def prepare(store):
        for seed in (1, 2, 3):
            store.commit(result(seed), keep="best")
        return lambda: Keeping(store, "clip_i", "best").settle()

    for store, again in each_kill(calls, tmp_path, prepare):
        assert store.adapter(trial(3).id).is_dir() and len(store.rows()) == 3
        again()
        store.gc()
        assert [path.name for path in (store.folder / "adapters").iterdir()] == [trial(3).id]


def test_claims(tmp_path, calls):
    """Whoever is killed while he takes, takes over or releases keeps nobody from the trial."""
    id = trial(1).id

    def prepare(store):
        killed_at(5, store.folder, lambda: Claims(store.claims).take(id, 1))

        def live():
            claims = Claims(store.claims)
            assert claims.take(id, 1) is None
            claims.release(id, 1)
            assert claims.take(id, 1) is None
            claims.free(Process.of(os.getpid()))

        return live

    for store, _ in each_kill(calls, tmp_path, prepare):
        assert Claims(store.claims).take(id, 1) is None
        (store.folder / "trials").mkdir(exist_ok=True)
        store.gc()
        assert list(store.claims.iterdir()) == []


def give(store: Store) -> str:
    pack = Pack((trial(1),), "b", {}, {}, "none", str(store.folder))
    records.write(store, "handle", pack, Record("local", Process.of(os.getpid())))
    return "handle"


def test_packs_for_workers(tmp_path, calls):
    def prepare(store):
        store.commit(result(1), keep="all")
        return lambda: records.delete(store, give(store))

    for store, _ in each_kill(calls, tmp_path, prepare):
        assert {handle for handle, _, _ in records.read(store)} <= {"handle"}
        assert_clean(store, {1})
        assert list(store.packs.glob("*")) == []


def test_files_beside_the_rows(tmp_path, calls):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched = optuna.create_study()

    def fill(folder):
        for name in ("a", "b"):
            (folder / name).write_text(name)

    def prepare(store):
        store.commit(result(1), keep="all")
        looks.write(store.looks, {"old": [1]})
        write_folder(store.folder / "page", fill)

        def write():
            looks.write(store.looks, {"new": [2]})
            journal.write(store.journal, "s", searched)
            write_folder(store.folder / "page", fill)

        return write

    for store, again in each_kill(calls, tmp_path, prepare):
        assert looks.read(store.looks) in ({"old": [1]}, {"new": [2]})
        again()
        assert looks.read(store.looks) == {"new": [2]} and store.journal.read_text()
        assert sorted(file.name for file in (store.folder / "page").iterdir()) == ["a", "b"]
        assert_clean(store, {1})


def test_setting_damaged_files_aside(tmp_path, calls):
    chance = random.Random(4)

    def prepare(store):
        for seed in (1, 2, 3):
            store.commit(result(seed), keep="all")
        for seed, kind in ((2, "trials"), (3, "images")):
            file = store.folder / kind / f"{trial(seed).id}.1.parquet"
            file.write_bytes(damaged(file.read_bytes(), "torn", chance))
        return lambda: set_aside(store, store.examined(())[1])

    for store, again in each_kill(calls, tmp_path, prepare):
        again()
        assert set(store.rows()["seed"]) == {1}
        for seed in (2, 3):
            assert store.commit(result(seed), keep="all")
        assert_clean(store, {1, 2, 3})


def test_nothing_gets_its_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """What a loss of power would leave: whoever has a name was synced before, with all files of a folder."""
    store, synced, named = Store(tmp_path / "store"), set(), []
    fsync, link, rename = os.fsync, os.link, os.rename

    def note_sync(descriptor):
        state = os.fstat(descriptor)
        synced.add((state.st_dev, state.st_ino))
        fsync(descriptor)

    def note_name(how):
        def give_name(source, target, **more):
            if not str(target).endswith(".part"):
                named.append(Path(target))
                for path in (Path(source), *(Path(source).iterdir() if Path(source).is_dir() else ())):
                    state = path.stat()
                    assert (state.st_dev, state.st_ino) in synced, path
            how(source, target, **more)

        return give_name

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note_name(link))
    monkeypatch.setattr(os, "rename", note_name(rename))
    monkeypatch.setattr(os, "replace", note_name(os.replace))
    store.commit(result(1), keep="all")
    store.commit(result(2), keep="all")
    store.compact()
    assert {path.parent.name for path in named} == {"trials", "images", "curves", "pictures", "adapters"}


def test_faults_are_counted():
    before = sum(INJECTED.values())
    assert not killed_at(1, Path("/nowhere"), lambda: None)
    assert sum(INJECTED.values()) == before
