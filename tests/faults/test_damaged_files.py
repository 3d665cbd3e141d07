"""A torn, truncated or garbage file in every folder of a store: what readers say, and what the next run makes of it."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.faults import InputFault
from study.damage import DAMAGED
from study.executors import records
from study.executors.records import Record
from study.plan import packs
from study.process import Process
from study.store import Store
from study.study import Study
from study.tables import Damaged, read_table
from tests.faults.injection import DAMAGE, INJECTED, damaged
from tests.study import fakes
from tests.study.test_kills import check_whole, start

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def processes_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """The folder of a study that ran to its end with fake workers."""
    root = tmp_path_factory.mktemp("undisturbed")
    command = [*fakes.COMMAND, "drive", str(fakes.study_file(root)), "1"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    return root


@pytest.fixture
def finished(run_once, tmp_path):
    """A copy of it for each test."""
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    return fakes.study_file(tmp_path)


def call(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "study.cli.main", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def run(study: Path) -> str:
    """Run a study with fake workers; return what was told."""
    ended = start(study, 1)
    _, told = ended.communicate(timeout=300)
    assert ended.returncode == 0, told
    return told


def spoil(file: Path, how: str, chance: random.Random) -> Path:
    file.write_bytes(damaged(file.read_bytes() if file.exists() else b"{}", how, chance))
    return file


def own_tables(store: Store, kind: str) -> list[Path]:
    return sorted((store.folder / kind).glob("*.parquet"))


HOWS = [how if how == "torn" else pytest.param(how, marks=pytest.mark.slow) for how in DAMAGE]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_rows_and_tables_are_run_again_and_all_else_does_no_harm(finished, how):
    loaded, chance = Study.load(finished), random.Random(DAMAGE.index(how))
    store = loaded.store
    before, some = store.rows().set_index("id").sort_index(), loaded.trials[:1]
    chosen = own_tables(store, "trials")
    chance.shuffle(chosen)
    row, images, curves = (
        store.folder / kind / file.name for kind, file in zip(("trials", "images", "curves"), chosen, strict=False)
    )
    spoiled = [spoil(file, how, chance) for file in (row, images, curves)]
    holder = chosen[3].name.removesuffix(".parquet")
    spoil(store.claims / f"{holder}.0.json", how, chance)
    (pack,) = packs(loaded.config, some, {}, str(store.folder))
    for number, suffix in enumerate((".json", ".job")):
        records.write(store, str(number), pack, Record("local", Process.of(os.getpid())))
        spoil(store.packs / f"{number}{suffix}", how, chance)
    log = spoil(sorted(store.logs.iterdir())[0], how, chance)
    for name in ("looks.json", "optuna.log", "compacted", "trials/x.1.parquet.0.part", "pictures/x.part"):
        spoil(store.folder / name, how, chance)

    with pytest.warns(UserWarning) as warned:
        readable = store.rows()
        store.images()
    assert row.stem.split(".")[0] not in set(readable["id"]) and len(readable) == len(before) - 1
    told = " ".join(str(each.message) for each in warned)
    assert str(row) in told and str(images) in told and "adapter-study run" in told
    with pytest.raises(InputFault, match="damaged"):
        store.gc()

    told = run(finished)
    for file in spoiled:
        assert f"{file} is damaged" in told and "again" in told
        assert file.exists() or file == curves, "made anew"
        assert file.with_name(file.name + DAMAGED).exists(), "nothing is deleted"
    check_whole(finished)
    after = store.rows().set_index("id").sort_index()
    assert after["clip_i"].equals(before["clip_i"])
    assert "damaged" not in run(finished)
    store.gc()
    check_whole(finished)
    assert list(store.packs.iterdir()) == [] and list(store.folder.rglob("*.part")) == []
    assert list(store.folder.rglob(f"*{DAMAGED}")) == [] and log.exists()


def test_no_flipped_bit_of_a_row_is_read_as_another_row(finished):
    """Parquet's checksums are of the values; of the columns' names, in the file's foot, the store has its own."""
    row, chance = own_tables(Study.load(finished).store, "trials")[0], random.Random(10)
    whole, seen = row.read_bytes(), []
    before = read_table(row).to_pylist()
    for place in range(chance.randrange(20), len(whole), 20):
        row.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        INJECTED["flipped file"] += 1
        try:
            # NaN is not equal to itself, but its text is.
            assert repr(read_table(row).to_pylist()) == repr(before), place
            seen.append("as it was")
        except (Damaged, InputFault):  # the latter where it says another version now
            seen.append("damaged")
    assert seen.count("damaged") > len(seen) / 2


@pytest.mark.parametrize("how", HOWS)
def test_damaged_merged_rows_are_run_again(finished, how):
    store, chance = Study.load(finished).store, random.Random(DAMAGE.index(how))
    kept = own_tables(store, "trials")[0]
    spare = kept.read_bytes()
    kept.unlink()
    store.compact()
    kept.write_bytes(spare)
    (merged,) = (store.folder / "trials").glob("merged-*.parquet")
    spoil(merged, how, chance)
    told = run(finished)
    assert f"{merged} is damaged" in told and "the trials whose rows it held are run again" in told
    check_whole(finished)


def test_damaged_merged_pictures_are_left_out_with_a_warning_and_nothing_is_run(finished):
    store = Study.load(finished).store
    store.compact()
    (merged,) = (store.folder / "images").glob("merged-*.parquet")
    spoil(merged, "torn", random.Random(7))
    with pytest.warns(UserWarning, match="unless there is a copy of it"):
        assert store.images().empty
    assert len(store.rows()) == fakes.PLANNED + fakes.REFERENCES
    assert "damaged" not in run(finished) and len(list(store.logs.iterdir())) == 1, "no worker was started"
    assert merged.exists()


@pytest.mark.slow
def test_compact_leaves_damaged_files_where_they_are(finished):
    store = Study.load(finished).store
    row, table = own_tables(store, "trials")[0], own_tables(store, "images")[1]
    for file in (row, table):
        spoil(file, "torn", random.Random(8))
    with pytest.warns(UserWarning, match="damaged and left out"):
        store.compact()
    assert row.exists() and table.exists()
    assert len(store.rows()) == fakes.PLANNED + fakes.REFERENCES - 1
    run(finished)
    attempts = store.attempts()
    assert len(attempts) == fakes.PLANNED + fakes.REFERENCES
    assert attempts["clip_i"].tolist() == [fakes.score(id) for id in attempts["id"]]


@pytest.mark.parametrize("how", ["torn", pytest.param("garbage", marks=pytest.mark.slow)])
def test_commands_say_in_a_line_what_is_damaged(finished, how):
    store, chance = Study.load(finished).store, random.Random(9)
    row, table = spoil(own_tables(store, "trials")[0], how, chance), own_tables(store, "images")[1]
    spoil(table, how, chance)
    for picture in sorted((store.folder / "pictures").rglob("*.webp"))[::2]:
        spoil(picture, how, chance)
    spoil(store.looks, how, chance)
    status = call("status", finished, "--json")
    assert status.returncode == 0 and json.loads(status.stdout)["missing"] + json.loads(status.stdout)["done"] > 0
    assert f"warning: {row} is damaged and left out" in status.stderr and status.stderr.count("\n") == 1
    anova = call("anova", store.folder, "--response", "clip_i", "--factors", "input,output,activation")
    assert anova.returncode == 0 and f"warning: {row} is damaged" in anova.stderr
    page = finished.with_name("report.html")
    report = call("report", finished, "-o", page)
    assert report.returncode == 0 and page.exists()
    assert f"warning: {row} is damaged" in report.stderr and ".webp" in report.stderr
    refused = call("gc", store.folder)
    assert refused.returncode == 2 and f"{row}: damaged" in refused.stderr and "adapter-study run" in refused.stderr
    assert call("compact", store.folder).returncode == 0
