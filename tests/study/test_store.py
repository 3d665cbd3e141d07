"""The store: what is kept of attempts, crashes and merges, and what is refused."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from adapters.faults import InputFault
from study import store as store_module
from study.columns import ROW
from study.config import Protocol
from study.keep import Keeping
from study.results import read_results
from study.store import Known, Store
from study.trial import Trial, TrialResult


def trial(seed: int = 0, **changes) -> Trial:
    design = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "scale": 0.5, "width": 2}
    return Trial("b", {**design, **changes}, "subject/rex", seed, Protocol(), backbone_hash="b", task_hash="t")


def result(seed: int = 0, status: str = "done", score: float = 0.5, **changes) -> TrialResult:
    done = status == "done"
    return TrialResult(
        trial(seed),
        status,
        "" if done else "why",
        scores={"clip_i": score} if done else {},
        columns={"parameters": 12, "ratio": 0.5, "budget_met": True},
        images=[{"prompt": "p", "prompt_index": k, "picture_seed": k, "clip_i": score} for k in range(2)]
        if done
        else [],
        pictures=[np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + k for k in range(2)] if done else [],
        curves=[{"step": 0, "loss": 1.0}, {"step": 1, "loss": math.nan}],
        **changes,
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_row_has_every_column_factors_as_text_and_missing_scores_as_nan(store):
    store.commit(result(), "s")
    (row,) = store.rows().to_dict("records")
    assert set(ROW) <= set(row)
    assert (row["scale"], row["width"], row["method"]) == ("0.5", "2", "adapter")
    assert row["clip_i"] == 0.5 and math.isnan(row["dino_i"])
    assert json.loads(row["design_json"]) == trial().design
    assert Protocol(**json.loads(row["protocol_json"])) == Protocol()
    assert (row["study"], row["parameters"], row["attempt"]) == ("s", 12, 1)


def test_pictures_are_kept_without_loss(store):
    made = result()
    store.commit(made)
    images = store.images()
    for file, picture in zip(images["file"], made.pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(store.folder / file)), picture)
    assert store.curves()["step"].tolist() == [0, 1]


def test_final_attempt_wins_then_the_lowest(store):
    store.commit(result(0, "failed"), attempt=1)
    store.commit(result(0, "out_of_memory"), attempt=2)
    assert store.rows()["status"].tolist() == ["failed"]
    store.commit(result(0, "diverged"), attempt=3)
    store.commit(result(0, "done"), attempt=4)
    assert store.rows()["status"].tolist() == ["diverged"]
    known = Known.of(store.attempts())
    assert known.status == {trial().id: "diverged"} and known.attempts == {trial().id: 4}


def test_compact_keeps_every_row_and_leaves_one_file_a_table(store):
    for seed in range(3):
        store.commit(result(seed, score=seed / 10))
    before = store.rows().sort_values("id"), store.images(), store.curves()
    assert store.compact() == 9
    assert [len(list((store.folder / kind).iterdir())) for kind in ("trials", "images", "curves")] == [1, 1, 1]
    store.commit(result(3))
    assert store.compact() == 6
    after = store.rows().sort_values("id")
    assert len(after) == 4 and set(before[0]["id"]) < set(after["id"])
    assert len(store.images()) == 8 and len(store.curves()) == 8


def test_kill_between_merge_and_delete_doubles_nothing(store, monkeypatch):
    for seed in range(3):
        store.commit(result(seed))
    monkeypatch.setattr("pathlib.Path.unlink", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    assert len(list((store.folder / "trials").iterdir())) == 4, "the merged file stands beside the three"
    assert len(store.attempts()) == 3
    store.compact()
    assert len(store.attempts()) == 3


@pytest.mark.parametrize("columns", [None, ["clip_i", "error"]])
def test_the_table_has_the_rows(store, columns):
    def check():
        table, rows = store.table(columns), store.rows(columns)
        # Of whole numbers pandas makes fractions where some row has none, of rows that do not count too.
        pd.testing.assert_frame_equal(table.to_pandas(), rows, check_dtype=False, check_exact=True)

    check()
    for seed, status in enumerate(("done", "failed", "diverged")):
        store.commit(result(seed, status))
    check()
    store.commit(result(1, "done", score=0.7), attempt=2)
    check()
    store.commit(TrialResult(trial(4), "pruned", columns={"pruned_by": "p"}))
    check()
    assert store.table(columns)["status"].to_pylist() == store.rows()["status"].tolist()


def test_some_columns_are_those_of_all(store):
    for seed, status in enumerate(("done", "failed", "diverged")):
        store.commit(result(seed, status))
    store.commit(result(1, "done", score=0.7), attempt=2)
    for _ in range(2):
        some = store.rows(["clip_i", "kid"])
        assert list(some) == ["id", "attempt", "status", "clip_i", "kid"]
        assert some.equals(store.rows()[list(some)])
        store.compact()


def test_two_that_merge_at_once_lose_and_double_nothing(store, monkeypatch):
    for seed in range(3):
        store.commit(result(seed))
    before = set(store.rows()["id"])
    real = store_module.read_tables

    def slow(files, *given, **named):
        monkeypatch.setattr(store_module, "read_tables", real)
        Store(store.folder).compact()  # another process, between the list of files and their reading
        return real(files, *given, **named)

    monkeypatch.setattr(store_module, "read_tables", slow)
    assert store.compact(("trials",)) == 0
    assert set(store.attempts()["id"]) == before and len(store.attempts()) == 3


def test_row_is_known_while_its_merged_file_is_merged_again(store, monkeypatch):
    store.commit(result(0)), store.commit(result(1))
    store.compact()
    real = store_module.attempts_in

    def gone(file):
        monkeypatch.setattr(store_module, "attempts_in", real)
        store.commit(result(2))
        store.compact()
        return real(file)

    monkeypatch.setattr(store_module, "attempts_in", gone)
    assert store.has(trial(0).id, 1)


def test_gc_deletes_what_no_row_owns_and_nothing_else(store):
    store.commit(result(0))
    store.commit(result(1))
    (store.folder / "trials" / f"{trial(1).id}.1.parquet").unlink()  # as if killed before the row, which is last
    (store.folder / "images" / "x.part").write_bytes(b"half")
    store.packs.mkdir()
    (store.packs / "old.json").write_text("{}")
    whole = {path for path in store.folder.rglob("*") if path.is_file() and trial(0).id in str(path)}
    assert len(store.rows()) == 1 and len(store.images()) == 2, "orphans are never read"
    deleted = store.gc()
    orphan = trial(1).id
    expected = {
        f"images/{orphan}.1.parquet",
        f"curves/{orphan}.1.parquet",
        f"pictures/{orphan}",
        "images/x.part",
        "packs/old.json",
    }
    assert set(deleted) == expected
    assert {path for path in store.folder.rglob("*") if path.is_file()} == whole
    assert store.gc() == []


def test_trial_that_was_killed_before_its_row_is_committed_again_over_the_orphans(store):
    folder = store.pictures(trial(0).id)
    folder.mkdir(parents=True)
    (folder / "009.webp").write_bytes(b"left over")
    store.commit(result(0))
    assert sorted(file.name for file in folder.iterdir()) == ["000.webp", "001.webp"]


def test_row_of_an_unknown_schema_version_is_refused_by_name(store):
    store.commit(result(0))
    (file,) = (store.folder / "trials").iterdir()
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"adapter-study-schema": b"99"}), file)
    with pytest.raises(InputFault, match=rf"{file.name}: was written with store schema 99"):
        store.rows()


def test_rows_of_different_factors_are_read_together(store):
    store.commit(result(0))
    store.commit(
        TrialResult(Trial("b", {"method": "full"}, "t", 0, Protocol(), backbone_hash="b", task_hash="t"), "done")
    )
    rows = store.rows().set_index("method")
    assert rows.loc["adapter", "scale"] == "0.5" and rows["scale"].isna()["full"]


@pytest.mark.parametrize("changes", [{"status": "fine"}, {"scores": {"clip_j": 1.0}}, {"columns": {"speed": 1}}])
def test_result_that_the_store_has_no_column_for_is_refused(store, changes):
    made = result()
    for name, value in changes.items():
        setattr(made, name, value)
    with pytest.raises(ValueError, match="known: "):
        store.commit(made)
    assert not store.folder.exists()


def test_best_weights_of_each_task_are_kept(store):
    torch = pytest.importorskip("torch")
    for seed, score in enumerate((0.2, 0.9, 0.5)):
        made = result(seed, score=score, adapter={"w": torch.full((2,), float(seed))})
        store.commit(made, keep="best")
    Keeping(store, "clip_i", "best").settle()
    assert [path.name for path in (store.folder / "adapters").iterdir()] == [trial(1).id]
    assert sorted(file.name for file in store.adapter(trial(1).id).iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_best_weights_are_those_of_the_lowest_distance(store):
    torch = pytest.importorskip("torch")
    for seed, distance in enumerate((0.2, 0.1, 0.5)):
        made = result(seed, adapter={"w": torch.zeros(2)})
        made.scores = {"kid": distance}
        store.commit(made, keep="best")
    Keeping(store, "kid", "best").settle()
    assert [path.name for path in (store.folder / "adapters").iterdir()] == [trial(1).id]


def test_weights_are_not_kept_unless_asked(store):
    torch = pytest.importorskip("torch")
    store.commit(result(0, adapter={"w": torch.zeros(2)}), keep="none")
    assert not (store.folder / "adapters").exists()


def test_results_of_a_store_leave_the_untuned_backbone_out(store):
    store.commit(result(0))
    made = result(1)
    object.__setattr__(made.trial, "role", "reference")
    store.commit(made)
    assert read_results(store.folder)["id"].tolist() == [trial(0).id]


def test_csv_values_are_text_so_that_na_is_a_level(tmp_path):
    (tmp_path / "r.csv").write_text("a,b,y\nNA,1,0.5\nx,2,\n")
    assert read_results(tmp_path / "r.csv").to_dict("list") == {"a": ["NA", "x"], "b": ["1", "2"], "y": ["0.5", ""]}


@pytest.mark.parametrize(
    "name, content", [("r.parquet", b"garbage"), ("r.parquet", b""), ("r.csv", b""), ("r.txt", b"a")]
)
def test_results_that_cannot_be_read_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputFault, match=name):
        read_results(tmp_path / name)


def test_results_that_are_not_there_or_empty_are_refused(tmp_path):
    with pytest.raises(InputFault, match="no such file"):
        read_results(tmp_path / "nothing")
    with pytest.raises(InputFault, match="holds no results"):
        read_results(tmp_path)
