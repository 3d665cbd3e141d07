"""A trial that goes on from a checkpoint ends as one that ran through, bit for bit; garbage is ignored."""

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adapters
from study.checkpoints import Notice
from study.commit import digest
from study.config import Protocol
from study.driver import TRIES
from study.executors.local import LocalExecutor
from study.loaded import Worker
from study.pack import run_pack
from study.provenance import made_by
from study.resources import Resources
from study.store import Store
from study.study import Study
from study.tasks import resolve_task
from study.trial import Pack, Trial
from tests.study import fakes, tiny

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = Protocol(steps=12, sampling_steps=1, pictures=1, prior_pictures=2, batch=1)
LORA = {"method": "lora", "rank": 1}
TEXT = {"method": "lora", "rank": 1, "text_encoder": True}
POSITION = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2}
TLORA = {"method": "tlora", "residual_rank": 1, "regulariser": 0.01}
FULL = {"method": "full", "part": "cross_attention_kv"}
EVERY_STEP = 1e-9
TIMES = {"pack_seconds", "train_seconds", "eval_seconds", "peak_bytes", "resumed_step", "log"}
"""Columns that differ from run to run."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def spec(root):
    pictures = str(tiny.photographs(root))
    return resolve_task({"name": "rex", "pictures": pictures, "class": "robot", "prompts": ["a {} on grass"]}, root)


@pytest.fixture(scope="module")
def worker():
    return Worker("cpu")


@pytest.fixture(scope="module")
def pack_of(root, spec, worker):
    """Make a pack of designs, each of a seed and a learning rate of its own, with a store of its own."""
    backbone, clip = str(tiny.pipeline_folder(root)), str(tiny.clip_folder(root))

    def make(name, designs, protocol=PROTOCOL, every=EVERY_STEP, spec=spec):
        hash = worker.backbone(backbone, protocol.precision).hash
        trials = tuple(
            Trial(
                "tiny", adapters.normalise(design), spec.name, seed,
                protocol.model_copy(update={"learning_rate": 1e-3 * (1 + seed)}),
                backbone_hash=hash, task_hash=spec.content_hash(),
            )
            for seed, design in enumerate(designs)
        )  # fmt: skip
        given = {"scores": {"clip_t": clip}, "keep": "all", "store": str(root / name)}
        return Pack(trials, backbone, {spec.name: spec}, **given, together=len(designs), checkpoint=every)

    return make


@pytest.fixture(scope="module")
def plain(pack_of, worker):
    """The store of a trial that ran through."""
    pack = pack_of("plain", [LORA], every=None)
    run(pack, worker)
    return Path(pack.store)


def run(pack, worker, until=None):
    """Run a pack as a worker does, or until so many steps are told of."""

    def progress(trial, step, steps):
        if step == until:
            raise KeyboardInterrupt

    store, results = Store(Path(pack.store)), []

    def sink(result):
        store.commit(result, keep="all")
        store.checkpoints.delete(result.trial.id, 1)
        results.append(result)

    run_pack(Pack.from_json(pack.to_json()), worker, sink, progress)
    return results


def steps_of(pack):
    checkpoints = Store(Path(pack.store)).checkpoints
    return [checkpoints.step(trial.id, 1) for trial in pack.trials]


def assert_same_stores(one: Path, other: Path, count: int) -> None:
    """Assert that two stores hold the same numbers, pictures and weights."""
    left, right = Store(one), Store(other)
    for read in (Store.rows, Store.images, Store.curves):
        frames = [read(store).sort_values(list({"id", "step", "index"} & set(read(store)))) for store in (left, right)]
        kept = [frame.drop(columns=list(TIMES & set(frame))).reset_index(drop=True) for frame in frames]
        assert len(kept[0]) and kept[0].equals(kept[1])
    for kind in ("adapters", "pictures"):
        folders = sorted((one / kind).iterdir())
        assert len(folders) == count
        assert all(digest(folder) == digest(other / kind / folder.name) for folder in folders)


@pytest.mark.parametrize(
    ("name", "designs", "changes"),
    [
        ("alone", [TLORA], {}),
        ("three", [LORA, POSITION, TLORA], {}),
        ("text", [TEXT], {}),
        ("full", [FULL], {}),
        ("float16", [LORA, POSITION], {"precision": "float16"}),
    ],
)
def test_goes_on_bit_for_bit(pack_of, worker, name, designs, changes):
    protocol = PROTOCOL.model_copy(update=changes)
    through, stopped = (pack_of(f"{name} {how}", designs, protocol) for how in ("through", "stopped"))
    run(through, worker)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, worker, until=10)
    assert steps_of(stopped) == [9] * len(designs), "the process ended before the checkpoint of step 10"
    results = run(stopped, Worker("cpu"))
    assert [result.columns["resumed_step"] for result in results] == [9] * len(designs)
    assert [result.columns["pack_size"] for result in results] == [len(designs)] * len(designs)
    assert_same_stores(Path(through.store), Path(stopped.store), len(designs))
    assert steps_of(stopped) == [0] * len(designs), "deleted with the row"


def test_what_is_trained_beside_the_design_goes_on_too(pack_of, worker, tmp_path):
    for folder, pictures in (("lamps", tiny.pictures(10)), ("maps", 255 - tiny.pictures(10))):
        (tmp_path / folder).mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / folder / f"{index}.png")
    own = {"kind": "control", "name": "own", "pictures": "lamps", "maps": "maps", "captions": "a lamp"}
    control = resolve_task(own, tmp_path)
    through, stopped = (pack_of(f"control {how}", [LORA], spec=control) for how in ("through", "stopped"))
    run(through, worker)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, worker, until=10)
    run(stopped, worker)
    assert_same_stores(Path(through.store), Path(stopped.store), 1)


def test_checkpoints_change_no_number_and_short_trials_write_none(pack_of, worker, plain):
    rare, often = pack_of("rare", [LORA], every=600.0), pack_of("often", [LORA])
    for pack in (rare, often):
        run(pack, worker)
        assert_same_stores(plain, Path(pack.store), 1)
    assert not (plain / "checkpoints").exists() and not (Path(rare.store) / "checkpoints").exists()
    assert (Path(often.store) / "checkpoints").exists()


def test_only_trials_of_the_same_step_go_on_together(pack_of, worker):
    pack = pack_of("steps", [LORA, POSITION, TLORA])
    with pytest.raises(KeyboardInterrupt):
        run(replace(pack, trials=pack.trials[1:]), worker, until=10)
    begun = pack_of("begun", [LORA, POSITION, TLORA, LORA])
    at = {result.trial.id: result.columns for result in run(replace(begun, store=pack.store, together=2), worker)}
    own = [(at[trial.id]["resumed_step"], at[trial.id]["pack_size"]) for trial in begun.trials]
    assert own == [(0, 2), (9, 2), (9, 2), (0, 2)]


def damage(file: Path, how: str) -> None:
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    if how == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "noise":
        file.write_bytes(os.urandom(5000))
    elif how == "header only":
        save_file({}, file, metadata)
    elif how == "one bit":
        tensors["parameter 0"].view(torch.uint8).reshape(-1)[0] ^= 1
        save_file(tensors, file, metadata)
    else:  # the description says something else, and is not what the digest is of
        description = {**json.loads(metadata["description"]), how: 3}
        save_file(tensors, file, {**metadata, "description": json.dumps(description, sort_keys=True)})


@pytest.mark.parametrize("how", ["torn", "empty", "noise", "header only", "one bit", "step", "format", "trial"])
def test_what_is_no_checkpoint_of_the_trial_is_ignored_and_told(pack_of, worker, plain, caplog, how):
    stopped = pack_of(f"damaged {how}", [LORA])
    with pytest.raises(KeyboardInterrupt):
        run(stopped, worker, until=10)
    damage(Store(Path(stopped.store)).checkpoints.file(stopped.trials[0].id, 1), how)
    with caplog.at_level(logging.WARNING):
        (result,) = run(stopped, worker)
    assert "begins anew: its checkpoint" in caplog.text and result.columns["resumed_step"] == 0
    assert_same_stores(plain, Path(stopped.store), 1)


@pytest.mark.parametrize("other", ["attempt", "seed", "steps", "versions", "trial"])
def test_a_checkpoint_of_something_else_is_ignored(pack_of, worker, caplog, other):
    """Those are whole and their digests are right, as a copied or renamed file's are."""
    pack = pack_of(f"else {other}", [LORA, POSITION])
    trial, made_with = pack.trials[0], made_by(worker.device)
    wrong = {
        "attempt": (trial, 2, made_with),
        "seed": (replace(trial, seed=7), 1, made_with),
        "steps": (replace(trial, protocol=trial.protocol.model_copy(update={"steps": 30})), 1, made_with),
        "versions": (trial, 1, {**made_with, "versions_json": "{}"}),
        "trial": (pack.trials[1], 1, made_with),
    }[other]
    with pytest.raises(KeyboardInterrupt):
        run(replace(pack, trials=pack.trials[:1]), worker, until=10)
    checkpoints = Store(Path(pack.store)).checkpoints
    state = checkpoints.read(trial, 1, made_with)
    assert state.step == 9 and len(state.losses) == 9 and math.isfinite(state.seconds)
    checkpoints.write(wrong[0], wrong[1], state, wrong[2])
    checkpoints.file(wrong[0].id, wrong[1]).rename(checkpoints.file(trial.id, 1))
    assert checkpoints.read(trial, 1, made_with) is None
    assert "begins anew" in caplog.text and "expected" in caplog.text


def test_a_state_of_other_shapes_does_not_fit(pack_of, worker):
    pack = pack_of("shapes", [LORA])
    with pytest.raises(KeyboardInterrupt):
        run(pack, worker, until=10)
    state = Store(Path(pack.store)).checkpoints.read(pack.trials[0], 1, made_by(worker.device))
    own = [torch.nn.Parameter(torch.zeros_like(value)) for value in state.parameters]
    assert state.fits(own)
    assert not state.fits(own[1:])
    assert not state.fits([torch.nn.Parameter(torch.zeros(3, 7)), *own[1:]])
    moments = [{**state.moments[0], "exp_avg": torch.zeros(2)}, *state.moments[1:]]
    assert not replace(state, moments=moments).fits(own)
    moments = [{**state.moments[0], "step": torch.zeros(2)}, *state.moments[1:]]
    assert not replace(state, moments=moments).fits(own)
    assert not replace(state, moments=[{"exp_avg": state.moments[0]["exp_avg"]}, *state.moments[1:]]).fits(own)


def test_gc_leaves_checkpoints_of_trials_without_a_row(pack_of, worker):
    pack = pack_of("gc", [LORA, POSITION])
    store = Store(Path(pack.store))
    run(replace(pack, trials=pack.trials[1:]), worker)
    with pytest.raises(KeyboardInterrupt):
        run(replace(pack, trials=pack.trials[:1]), worker, until=10)
    waits, ended = (store.checkpoints.file(trial.id, 1) for trial in pack.trials)
    ended.write_bytes(waits.read_bytes())
    (store.checkpoints.folder / "notes.txt").write_text("garbage")
    (store.checkpoints.folder / f"{'0' * 64}.1.safetensors").write_text("garbage")
    (store.checkpoints.folder / f"{waits.name}.0123.part").write_bytes(b"torn")
    deleted = store.gc()
    assert len([name for name in deleted if name.startswith("checkpoints/")]) == 4
    assert list(store.checkpoints.folder.iterdir()) == [waits]


@pytest.mark.parametrize(
    ("number", "designs"),
    [
        (signal.SIGKILL, [LORA]),
        pytest.param(signal.SIGKILL, [LORA, POSITION, TLORA], marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, [LORA], marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_in_the_middle_is_gone_on_from(pack_of, worker, tmp_path, number, designs):
    """With SIGKILL from the last checkpoint, with SIGTERM from the step that it came at."""
    long = PROTOCOL.model_copy(update={"steps": 80})
    name = f"{number.name} {len(designs)}"
    stopped = pack_of(name, designs, long, EVERY_STEP if number == signal.SIGKILL else 600.0)
    file = tmp_path / "pack.json"
    file.write_text(stopped.to_json())
    command = [sys.executable, "-m", "study.worker", stopped.store, str(file), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        for line in first.stdout:
            if (event := json.loads(line))["event"] == "step" and event["step"] >= 20:
                break
        first.send_signal(number)
        assert first.wait(60) == -number
    steps = steps_of(stopped)
    assert min(steps) >= 19 and max(steps) - min(steps) <= 1 and max(steps) < 80
    results = {result.trial.id: result.columns for result in run(replace(stopped, checkpoint=600.0), worker)}
    assert [results[trial.id]["resumed_step"] for trial in stopped.trials] == steps
    if len(set(steps)) == 1:  # else it was killed between two files, and they went on in two packs
        through = pack_of(f"{name} through", designs, long, None)
        run(through, worker)
        assert_same_stores(Path(through.store), Path(stopped.store), len(designs))


def test_without_training_a_notice_ends_the_process_as_ever():
    code = (
        "import signal, sys, time; from study.checkpoints import Notice; notice = Notice(); notice.listen(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline() == b"ready\n"
    child.terminate()
    assert child.wait(30) == -signal.SIGTERM


def test_a_process_that_is_to_go_on_writes_and_goes_on(monkeypatch):
    """As in a job of SLURM, where both signals are ignored by who starts the worker."""
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        notice = Notice()
        notice.listen()
        with notice.training():
            for number in ignored:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
                assert notice.heard == number
                notice.answer()
                assert not notice.heard
    finally:
        for number, before in ignored.items():
            signal.signal(number, before)


@pytest.mark.slow
def test_a_trial_that_gets_on_is_tried_again_however_often_it_is_ended(tmp_path, monkeypatch):
    """As on nodes that are taken away; one that does not get on fails after three tries (tests/study/test_kills.py)."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_PREEMPTED", f"silu:{2 * TRIES}")
    small = {"seeds": 1, "factors": {"input": ["CA_out"], "output": ["FFN_in"], "activation": ["silu"]}}
    study = Study.load(fakes.study_file(tmp_path, tasks=fakes.SECTIONS["tasks"][:1], **small))
    outcome = study.run(executor=LocalExecutor(study.store, ["cpu"], command=fakes.COMMAND))
    assert outcome.counts == {"done": 2} and outcome.failed == []
    assert list(study.store.checkpoints.folder.iterdir()) == [], "deleted with the row"


def test_a_checkpoint_without_room_ends_the_run_and_fails_no_trial(pack_of, worker, monkeypatch):
    def full(path, fill):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("study.checkpoints.write_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(pack_of("no room", [LORA]), worker)


def test_times_between_checkpoints():
    assert Resources().checkpoint_seconds == 600
    assert [Resources(checkpoint=text).checkpoint_seconds for text in ("90s", "2h", "1d")] == [90, 7200, 86400]
    assert Resources(checkpoint="never").checkpoint_seconds is None
    for wrong in ("0m", "10", 10, "soon", "1.5h"):
        with pytest.raises(ValueError, match="such as 10m or 90s, or never"):
            Resources(checkpoint=wrong)
