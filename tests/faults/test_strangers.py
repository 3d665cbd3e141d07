"""Stores, recipes and adapters of strangers: no code runs from them, and nothing leads out of a store.

Beside the store lies a folder `outside`; whatever is done, nothing in it is read out, changed or deleted.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import adapters
from adapters.faults import InputFault
from study import config, recipe
from study.activity import activity
from study.claims import Claims
from study.damage import set_aside
from study.executors import records, slurm_jobs
from study.executors.records import Record
from study.executors.slurm import submitted
from study.keep import Keeping
from study.process import Process
from study.report_pictures import _pictures
from study.results import read_results
from study.store import PARTS, Store
from study.trial import Pack
from study.yaml_lines import parse_yaml
from tests.faults import hostile_tables
from tests.faults.hostile_tables import result, trial
from tests.faults.test_fuzz_small_files import PACK
from tests.faults.test_fuzz_weights import saved, unet

ROOT = Path(__file__).resolve().parents[2]
ME = Process.of(os.getpid())


class Evil:
    """What unpickling makes a file of."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.canary), "w")


@pytest.fixture
def outside(tmp_path) -> Iterator[Path]:
    """A folder beside the store, whose content must stay as it is."""
    folder = tmp_path / "outside"
    (folder / "victim").mkdir(parents=True)
    for name in ("secret.log", "victim/secret.json"):
        (folder / name).write_text("secret")
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "secret.webp", lossless=True)
    pq.write_table(pa.table({"id": ["secret"], "attempt": [1]}), folder / "secret.parquet")
    before = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    yield folder
    assert {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")} == before


@pytest.fixture
def store(tmp_path) -> Store:
    return hostile_tables.store(tmp_path / "store")


def rewrite(store: Store, kind: str, seed: int, **values: object) -> None:
    """Give a row other values, as a stranger may, who need not damage anything for it."""
    (file,) = (store.folder / kind).glob(f"{trial(seed).id}.*.parquet")
    table = pq.read_table(file)
    table = table.replace_schema_metadata({"adapter-study-schema": "1"})
    for name, value in values.items():
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, pa.array([value] * len(table), table.schema.field(name).type))
    pq.write_table(table, file)


@pytest.mark.parametrize("name", PARTS)
def test_store_in_which_a_link_leads_elsewhere_is_refused(tmp_path, outside, name):
    (tmp_path / "store" / name).parent.mkdir(parents=True)
    (tmp_path / "store" / name).symlink_to(outside)
    with pytest.raises(InputFault, match=f"{name} is a link"):
        Store(tmp_path / "store")


def test_link_of_a_whole_store_is_no_stranger_s(tmp_path, store):
    (tmp_path / "link").symlink_to(store.folder)
    assert len(Store(tmp_path / "link").rows()) == 5


@pytest.mark.parametrize("kind", ["trials", "images", "curves"])
def test_link_among_the_tables_is_refused_and_stays(store, outside, kind):
    link = store.folder / kind / f"{'0' * 64}.1.parquet"
    link.symlink_to(outside / "secret.parquet")
    read = {"trials": store.rows, "images": store.images, "curves": store.curves}[kind]
    for action in (read, store.compact, store.gc):
        with pytest.raises(InputFault, match="no file, but a link"):
            action()
    assert link.is_symlink()


def test_links_among_what_is_deleted_are_deleted_themselves_and_not_what_they_lead_to(store, outside):
    links = [
        store.folder / "pictures" / "0",
        store.folder / "adapters" / ("1" * 64),
        store.folder / "pictures" / "x.part",
        store.folder / "trials" / "y.part",
        store.claims / f"{'0' * 64}.1.0.json",
        store.packs / "p.json",
    ]
    for link, target in zip(
        links, ["victim", "victim", "victim", "secret.log", "secret.log", "secret.log"], strict=True
    ):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside / target)
    deleted = store.gc()
    assert not any(link.is_symlink() for link in links)
    assert {str(link.relative_to(store.folder)) for link in links} <= set(deleted)


def test_trial_s_folder_that_is_a_link_is_neither_read_nor_deleted(store, outside):
    link = store.folder / "adapters" / trial(2).id
    link.symlink_to(outside / "victim")
    Keeping(store, "clip_i", "best", "best").settle()
    with pytest.raises(InputFault, match="is a link, and may lead out of the store"):
        store.adapter(trial(2).id)


def test_result_is_written_where_no_link_led(store, outside):
    """A link planted under the name that a trial's pictures will have."""
    id = trial(9).id
    (store.folder / "curves" / f"{id}.1.parquet").symlink_to(outside / "secret.parquet")
    (store.folder / "images" / f"{id}.1.parquet").symlink_to(outside / "new.parquet")
    assert store.commit(result(9))
    assert len(store.images().query("id == @id")) == 2 and len(store.curves().query("id == @id")) == 2


@pytest.mark.parametrize("id", ["../../outside/victim", "/etc", "..", "", "A" * 64, "0" * 63, "0" * 64 + "/.."])
def test_row_whose_id_is_a_path_is_left_out_and_nothing_is_deleted_for_it(store, outside, id):
    rewrite(store, "trials", 0, id=id)
    file = store.folder / "trials" / f"{trial(0).id}.1.parquet"
    with pytest.warns(UserWarning, match="none of the store's"):
        assert set(store.rows()["seed"]) == {1, 2, 3, 4}
    Keeping(store, "clip_i", "best", "best").settle()
    store.compact()
    with pytest.raises(InputFault, match="damaged"):
        store.gc()
    assert file.exists() and store.adapter(trial(0).id).is_dir()
    (told,) = set_aside(store, store.examined(())[1])
    assert "none of the store's" in told and told.isprintable() and not file.exists()


@pytest.mark.parametrize(
    "log", ["../outside/secret.log", "logs/../../outside/secret.log", "logs/link.log", "logs/loop", "/", ""]
)
def test_log_that_a_row_names_is_shown_only_if_it_is_the_store_s(store, outside, log):
    (store.logs / "link.log").symlink_to(outside / "secret.log")
    (store.logs / "loop").symlink_to("loop")
    for path in (log, str(outside / "secret.log")):
        rewrite(store, "trials", 4, log=path)
        (told,) = activity(store, [trial(4)], store.table())["failures"]
        assert (told["log"], told["lines"]) == (None, [])


def test_log_of_the_store_is_shown_without_what_steers_a_terminal(store):
    (store.logs / "w.log").write_text("\x1b]0;title\x07it ended\n")
    (told,) = activity(store, [trial(4)], store.table())["failures"]
    assert told["lines"] == [r"\x1b]0;title\x07it ended"]


@pytest.mark.parametrize(
    "file", ["../outside/secret.webp", "pictures/../../outside/secret.webp", "trials/x.webp", "/x.webp"]
)
def test_picture_that_is_named_by_a_path_out_of_the_store_is_left_out_and_its_trial_run_again(store, outside, file):
    rewrite(store, "images", 0, file=file)
    with pytest.warns(UserWarning, match="none of the store's"):
        assert set(store.images()["id"]) == {trial(seed).id for seed in (1, 2, 3, 4)}
    (told,) = set_aside(store, store.examined(())[1])
    assert "with its trial's row" in told and set(store.rows()["seed"]) == {1, 2, 3, 4}


def test_picture_that_is_a_link_is_not_in_a_report(store, outside):
    study = SimpleNamespace(store=store)
    shown = _pictures(study, store.images(), trial(1).id)
    picture = store.pictures(trial(1).id) / "000.webp"
    picture.unlink()
    picture.symlink_to(outside / "secret.webp")
    left = _pictures(study, store.images(), trial(1).id)
    assert len(shown) == 2 and len(left) == 1 and np.array_equal(left[0], shown[1])


@pytest.mark.parametrize("attempt", ["1/../../../outside/x", "../../outside/x", 0, -1, 1.5, None, True, 10**30])
def test_pack_whose_attempts_are_no_numbers_is_none(store, outside, attempt):
    records.write(store, "p", PACK, Record("local", ME))
    content = json.loads(PACK.to_json())
    assert Pack.from_json(json.dumps(content)) == PACK and len(list(records.read(store))) == 1
    content["attempts"] = {PACK.trials[0].id: attempt}
    (store.packs / "p.json").write_text(json.dumps(content))
    assert list(records.read(store)) == []


@pytest.mark.parametrize("kind", ["os", "../x", "subject_spec", "x.y"])
def test_pack_names_no_module(kind):
    content = json.loads(PACK.to_json())
    content["tasks"]["subject/rex"]["kind"] = kind
    with pytest.raises(ValueError, match="expected one of"):
        Pack.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["train", "study-s", "study-s-0123456789ab,train", "../../outside", "", "study-s-0123456789AB"]
)
def test_record_names_no_job_but_such_as_this_program_makes(store, monkeypatch, name):
    """So that `cancel` on a stranger's store does not end other jobs of one's own."""
    asked = []
    monkeypatch.setattr(slurm_jobs, "mine", lambda names: asked.append(set(names)) or [])
    records.write(store, "p", PACK, Record("slurm", ME, name, 0, "c"))
    assert submitted(store, "c") == [] and asked == []
    records.write(store, "q", PACK, Record("slurm", ME, records.job_name("s"), 0, "c"))
    assert len(submitted(store, "c")) == 1 and len(asked) == 1


def test_claims_that_are_links_hold_nothing_and_are_not_written_through(store, outside):
    store.claims.mkdir()
    for number, target in enumerate([outside / "new.json", outside / "secret.log", "/dev/zero"]):
        (store.claims / f"{trial(0).id}.1.{number}.json").symlink_to(target)
    claims = Claims(store.claims)
    assert claims.take(trial(0).id, 1) is None and claims.holder(trial(0).id, 1) == ME
    claims.release(trial(0).id, 1)
    assert list(store.claims.iterdir()) == []


def test_results_of_a_store_in_which_all_is_sound_are_read(store):
    assert len(read_results(store.folder)) == 5


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['touch {canary}']", "!!python/object/new:os.system ['touch {canary}']",
     "!!python/name:os.system", "!!python/module:os", "!!python/object/apply:builtins.open ['{canary}', w]"],
)  # fmt: skip
def test_yaml_makes_no_objects(tmp_path, value):
    canary = tmp_path / "canary"
    text = f"name: {value.format(canary=canary)}\n"
    with pytest.raises(InputFault, match="got the tag"):
        parse_yaml(text, "file")
    (tmp_path / "a.yaml").write_text(text)
    for read in (config.read, recipe.read):
        with pytest.raises(InputFault, match="got the tag"):
            read(tmp_path / "a.yaml")
    assert not canary.exists()


@pytest.mark.parametrize("value", ["x\ntouch canary", "$(id)", "`id`", "x' y", 'x" y', "x;id", "x #", "\\"])
def test_resources_of_a_study_file_put_no_line_into_a_job_s_script(value):
    from study.resources import Resources

    for key in ("partition", "account", "qos", "constraint", "gres", "exclude", "memory", "time"):
        with pytest.raises(ValueError):
            Resources(**{key: value})


def test_pickle_in_place_of_an_adapter_s_weights_is_refused(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "adapter.json").write_text(json.dumps(saved(0)[1]))
    for name in ("adapter.safetensors", "adapter.bin", "adapter.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(InputFault, match="no safetensors file"):
        adapters.load(unet(), tmp_path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Evil(canary))).close()
    assert canary.exists(), "the pickle does what it is there for"


FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile", "zipfile"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.jit.load",
         "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle"}
KEYWORDS = {("shell", True), ("allow_pickle", True), ("trust_remote_code", True), ("weights_only", False)}


@pytest.mark.parametrize("package", ["adapters", "analysis", "study"])
def test_source_has_none_of_the_calls_that_run_what_a_file_says(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {node.module or ""} if isinstance(node, ast.ImportFrom) else {each.name for each in node.names}
                assert not {name.partition(".")[0] for name in names} & FORBIDDEN, where
            elif isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, where
                given = {(each.arg, each.value.value) for each in node.keywords if isinstance(each.value, ast.Constant)}
                assert not given & KEYWORDS, where
