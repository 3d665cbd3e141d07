"""A full disk stops a run without a torn row, a failed trial or a counted attempt; once there is room it goes on."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import save_file

from study.atomic import TEMPORARY
from study.cli.main import FULL, guarded
from study.executors.local import LocalExecutor
from study.executors.slurm import SlurmExecutor
from study.full_disk import CODE, FullDisk, folder_sizes, is_full, probe, size
from study.plan import packs
from study.resources import Resources
from study.store import Store
from study.study import Study
from study.trial import TrialResult
from tests.study import fake_slurm, fakes

ROOT = Path(__file__).resolve().parents[2]
NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def workers_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of the size that is asked for; called again, resize it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        how = f"remount,{options}" if mounted else options
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def run(study: Study, workers: int = 2):
    return study.run(executor=LocalExecutor(study.store, ["cpu"] * workers, command=fakes.COMMAND))


def check_clean(store: Store) -> int:
    """Assert that every row there is whole, done at the first attempt, with all it owns; return how many there are."""
    attempts = store.attempts()
    assert set(attempts["status"]) <= {"done"} and set(attempts["attempt"]) <= {1}
    assert attempts["clip_i"].tolist() == [fakes.score(id) for id in attempts["id"]]
    images = store.images()
    assert len(images) == 2 * len(attempts)
    assert all((store.folder / file).stat().st_size for file in images["file"])
    return len(attempts)


@pytest.mark.parametrize("options", ["size=300k", "size=700k", "size=64m,nr_inodes=90"])
def test_run_on_a_small_disk_stops_and_goes_on_when_there_is_room(tmp_path, disk, options):
    folder = disk(options)
    study = Study.load(fakes.study_file(tmp_path, store=str(folder / "store")))
    with pytest.raises(FullDisk) as told:
        run(study)
    message = str(told.value)
    assert "No space left on device" in message and f"the file system at {folder}: " in message
    assert "what takes room in" in message and f"`adapter-study gc {study.store.folder}`" in message
    before = check_clean(study.store)
    assert before < fakes.PLANNED + fakes.REFERENCES
    if before:
        assert "a trial takes about" in message
    disk("size=64m,nr_inodes=10000")
    assert run(study).counts == {"done": fakes.PLANNED + fakes.REFERENCES}
    assert check_clean(study.store) == fakes.PLANNED + fakes.REFERENCES
    study.store.gc()
    assert not list(folder.rglob(f"*{TEMPORARY}"))


def test_weights_that_do_not_fit_are_told_as_such(disk, tmp_path):
    """safetensors' own errors have no number."""
    with pytest.raises(SafetensorError) as refused:
        save_file({"w": torch.zeros(100_000)}, disk("size=100k") / "w.safetensors")
    assert is_full(refused.value)
    with pytest.raises(OSError) as refused_too:
        probe(tmp_path / "disk")
    assert is_full(refused_too.value)
    assert [path.name for path in (tmp_path / "disk").iterdir()] in ([], ["w.safetensors"])


@pytest.mark.parametrize("broken", range(1, 12))
def test_a_commit_without_room_at_any_moment_can_be_repeated(tmp_path, monkeypatch, broken):
    study = Study.load(fakes.study_file(tmp_path))
    trial, store = study.trials[0], Store(tmp_path / "commit")
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    image = {"prompt": "a dog", "prompt_index": 0, "picture_seed": 1}
    made = TrialResult(
        trial, "done", scores={"clip_i": 0.5}, images=[image], pictures=[picture], curves=[{"step": 1, "loss": 1.0}],
        adapter={"w": torch.zeros(2)},
    )  # fmt: skip
    calls = []

    def sync(path):
        calls.append(path)
        if len(calls) == broken:
            raise NO_ROOM

    for module in ("atomic", "commit"):
        monkeypatch.setattr(f"study.{module}.sync", sync)
    try:
        store.commit(made, keep="all")
    except OSError as error:
        assert is_full(error)
    # Whole files that have their names already belong to no row, if there is none: `gc` deletes, a repetition replaces.
    assert not list(store.folder.rglob(f"*{TEMPORARY}"))
    assert store.has(trial.id, 1) or store.commit(made, keep="all")
    assert len(store.rows()) == len(store.images()) == len(store.curves()) == 1
    assert {path.name for path in store.adapter(trial.id).iterdir()} == {"adapter.json", "adapter.safetensors"}
    assert not list(store.folder.rglob(f"*{TEMPORARY}"))


def test_a_worker_without_room_stops_the_run_and_no_trial_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FULL", "silu")
    study = Study.load(fakes.study_file(tmp_path))
    with pytest.raises(FullDisk, match="No space left on device.*adapters/0"):
        run(study)
    assert set(study.store.attempts()["status"]) <= {"done"}
    monkeypatch.delenv("FAKE_FULL")
    assert run(study).counts == {"done": fakes.PLANNED + fakes.REFERENCES}


def test_a_job_of_slurm_without_room_stops_the_run_and_no_trial_fails(tmp_path, monkeypatch):
    jobs = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tmp_path}/slurm/bin:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("FAKE_FULL", "silu")
    study = Study.load(fakes.study_file(tmp_path, seeds=1, tasks=fakes.SECTIONS["tasks"][:1]))
    executor = SlurmExecutor(study.store, Resources(parallel=1), command=fakes.COMMAND, every=0.2)
    with pytest.raises(FullDisk, match="No space left on device"):
        study.run(executor=executor)
    assert set(study.store.attempts()["status"]) <= {"done"}
    subprocess.run(["scancel", *(file.stem for file in jobs.glob("*.json"))], check=True)


def test_a_worker_that_dies_on_a_full_disk_has_not_tried_the_trial(tmp_path, monkeypatch):
    """As where its log could not be written either, so that nothing says why it ended."""

    def full(folder):
        raise NO_ROOM

    monkeypatch.setattr("study.driver.probe", full)
    monkeypatch.setenv("FAKE_DEADLY", "silu")
    study = Study.load(fakes.study_file(tmp_path))
    with pytest.raises(FullDisk):
        run(study)
    assert set(study.store.attempts()["status"]) <= {"done"}


def test_a_command_says_it_in_one_message_with_an_exit_code_of_its_own(capsys):
    def command(error):
        raise error

    for error in (FullDisk("no room is left: here"), NO_ROOM, SafetensorError("I/O error: … (os error 28)")):
        with pytest.raises(typer.Exit) as ended:
            guarded(command)(error)
        assert ended.value.exit_code == FULL == 3
        told = capsys.readouterr().err
        assert told.startswith("adapter-study: no room is left") and "Traceback" not in told
    with pytest.raises(OSError, match="Permission"):
        guarded(command)(OSError(errno.EACCES, "Permission denied"))


def test_what_is_a_full_disk():
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_full(OSError(errno.EIO, "Input/output error")) and not is_full(ValueError("28"))
    try:
        try:
            raise NO_ROOM
        except OSError as error:
            raise ValueError("what came of it") from error
    except ValueError as error:
        assert is_full(error)
    try:
        try:
            raise NO_ROOM
        except OSError:
            raise ValueError("something else") from None
    except ValueError as error:
        assert not is_full(error)


def test_sizes(tmp_path):
    (tmp_path / "adapters" / "one").mkdir(parents=True)
    (tmp_path / "adapters" / "one" / "w").write_bytes(os.urandom(200_000))
    (tmp_path / "file").write_bytes(os.urandom(5000))
    # Oracle: du, which counts blocks of 1024 bytes; folders themselves are left out here.
    told = subprocess.run(["du", "-k", tmp_path / "adapters/one/w"], capture_output=True, text=True, check=True).stdout
    found = folder_sizes(tmp_path)
    assert found["adapters"] == 1024 * int(told.split()[0]) and list(found) == ["adapters", "file"]
    assert [size(count) for count in (0, 999, 1000, 3_240_000, 512e9, 2e15)] == [
        "0 B", "999 B", "1.0 KB", "3.2 MB", "512 GB", "2000 TB",
    ]  # fmt: skip


def test_an_event_of_a_full_disk_ends_a_worker_with_a_code_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FULL", "silu")
    study = Study.load(fakes.study_file(tmp_path))
    (pack,) = packs(study.config, study.trials[:4], {}, str(study.store.folder))
    file = tmp_path / "pack.json"
    file.write_text(pack.to_json())
    done = subprocess.run([*fakes.COMMAND, study.store.folder, file], capture_output=True, text=True)
    assert done.returncode == CODE == 28, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last == {"event": "full", "error": str(OSError(errno.ENOSPC, NO_ROOM.strerror, last["path"])),
                    "path": f"{study.store.folder}/adapters/0"}  # fmt: skip
