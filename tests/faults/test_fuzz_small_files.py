"""Hostile small files: claims, packs, records and looks of a store, descriptions of models, captions, pictures."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.faults import InputFault
from study import looks
from study.activity import activity
from study.backbones.names import content_hash, resolve
from study.claims import Claims
from study.config import Protocol
from study.executors import records
from study.executors.records import Record
from study.process import Process
from study.store import Store
from study.tasks.captioned import read_folder
from study.tasks.pictures import FORMATS, broken, fitted, read, upright_size
from study.tasks.specs import TaskSpec
from study.trial import Pack, Trial
from tests.faults.fuzzing import THOUSANDS, fuzz
from tests.faults.mutators import damaged, json_bytes
from tests.study import fakes

ME = Process.of(os.getpid())
DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "scale": 0.5, "width": 2}
TRIAL = Trial("b", DESIGN, "subject/rex", 0, Protocol(), backbone_hash="b", task_hash="t")
TASK = {"kind": "subject", "name": "subject/rex", "class_word": "dog", "token": "sks", "prompts": ["a {}"]}
PACK = Pack((TRIAL,), "b", {"subject/rex": TaskSpec.from_json(TASK)}, {"clip_i": "micro-clip"}, "none", "store", "s")
HOSTILE_NAMES = [
    "x.1.0.json", "x.².0.json", "x.1.².json", f"x.1.{'9' * 100}.json", "..json", ".json", "x.json", "x.1.-1.json",
    "x.1.0.json.part", "\udcff.1.0.json", "x.1.0.1.2.json", f"{TRIAL.id}.0.0.json", f"{TRIAL.id}.2.0.json",
]  # fmt: skip


def _put(path: Path, data: bytes, rng: random.Random) -> None:
    """Put a file somewhere; now and then something that is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = rng.randrange(12)
    if how == 0:
        path.mkdir(exist_ok=True)
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to(rng.choice(["/dev/zero", "/nowhere", "/etc/passwd", path.name, "/"]))
    else:
        path.write_bytes(data)


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def claim(root: Path, rng: random.Random) -> None:
    """A trial with a hostile claim can be claimed and released, or is held by whom the claim names."""
    claims = Claims(root / "claims")
    _empty(claims.folder)
    name = rng.choice([f"{TRIAL.id}.1.0.json", rng.choice(HOSTILE_NAMES)])
    _put(claims.folder / name, json_bytes(ME.to_json(), rng), rng)
    assert all(holder is None or holder.pid > 0 for holder in claims.all().values())
    holder = claims.take(TRIAL.id, 1)
    if holder is None:
        assert claims.holder(TRIAL.id, 1) == ME
    else:
        assert str(holder).isprintable()
    claims.held_by(ME)


def pack(root: Path, rng: random.Random) -> None:
    """A hostile pack is none, or one that a worker could be given; the rest of the store is read all the same."""
    store = Store(root / "store")
    _empty(store.packs)
    which, name = rng.random() < 0.5, "study-s-0123456789ab"
    record = Record(rng.choice(["slurm", "local"]), ME, name, 0, "c").to_json()
    _put(
        store.packs / "one.json", json_bytes(json.loads(PACK.to_json()), rng) if which else PACK.to_json().encode(), rng
    )
    _put(store.packs / "one.job", json.dumps(record).encode() if which else json_bytes(record, rng), rng)
    records.write(store, "two", PACK, Record("local", ME))
    found = {handle: (pack, record) for handle, pack, record in records.read(store)}
    assert found["two"][0] == PACK
    if "one" in found:
        again, record_again = found["one"]
        assert Pack.from_json(again.to_json()) == again
        assert all(type(attempt) is int and attempt > 0 for attempt in again.attempts.values())
        assert record_again.executor != "slurm" or record_again.name.startswith("study-")
        assert Record.from_json(record_again.to_json()) == record_again
    activity(store, [TRIAL], store.table())
    records.given_to_slurm(store.packs / "one.json")
    store.gc()
    records.delete(store, "two")


def look(root: Path, rng: random.Random) -> None:
    """Hostile looks of a search are none, or numbers."""
    path = root / "looks.json"
    path.unlink(missing_ok=True)
    looks.write(path, {"a" * 64: [0, 3], "b" * 64: [1]})
    sound = json.loads(path.read_text())
    path.write_bytes(json_bytes(sound, rng))
    found = looks.read(path)
    assert all(isinstance(asked, str) and all(type(place) is int for place in found) for asked, found in found.items())


def model(root: Path, rng: random.Random) -> None:
    """The hostile description of a model's folder is refused, or is one of the classes that are known."""
    if not (root / "pipe").exists():
        fakes.folders(root)
    file = root / rng.choice(
        ["pipe/model_index.json", "scorer/config.json", "pipe/unet/diffusion_pytorch_model.safetensors"]
    )
    sound = file.read_bytes()
    try:
        file.write_bytes(damaged(sound, rng) if file.suffix == ".safetensors" else json_bytes(json.loads(sound), rng))
        source = resolve("pipe", root)
        assert source.kind == "folder" and len(content_hash(source)) == 64
    finally:
        file.write_bytes(sound)


def captions(root: Path, rng: random.Random) -> None:
    """Captions of a folder lead to its own pictures, or are refused."""
    folder = root / "described"
    if not folder.exists():
        folder.mkdir()
        for name in "ab":
            Image.new("RGB", (20, 20), "red").save(folder / f"{name}.png")
    lines = [json_bytes({"file_name": f"{name}.png", "text": f"a red {name}"}, rng) if rng.random() < 0.5 else
             json.dumps({"file_name": f"{name}.png", "text": f"a red {name}"}).encode() for name in "ab"]  # fmt: skip
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))
    found = read_folder(folder, None)
    assert {file.resolve().parent for file in found.files} == {folder.resolve()} and all(found.captions)


def _pictures() -> list[tuple[str, bytes]]:
    made = []
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    for form, mode, more in (("PNG", "RGBA", {}), ("JPEG", "RGB", {"exif": exif}), ("WEBP", "RGB", {"exif": exif}),
                             ("PNG", "P", {}), ("PNG", "I;16", {}), ("JPEG", "CMYK", {}), ("GIF", "P", {}),
                             ("TIFF", "RGB", {}), ("BMP", "RGB", {}), ("PPM", "RGB", {})):  # fmt: skip
        image = (
            Image.fromarray(pixels).convert("L").convert(mode)
            if mode == "I;16"
            else Image.fromarray(pixels).convert(mode)
        )
        buffer = io.BytesIO()
        image.save(buffer, format=form, **more)
        made.append((form, buffer.getvalue()))
    return [*made, ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n")]


PICTURES = _pictures()


def picture(root: Path, rng: random.Random) -> None:
    """A hostile picture is a picture of the three formats, or cannot be read; no other program is asked to read it."""
    form, data = rng.choice(PICTURES)
    file = root / f"{rng.randrange(10**9)}.{rng.choice(['png', 'jpg', 'webp'])}"
    file.write_bytes(damaged(data, rng) if rng.random() < 0.9 else data)
    try:
        faults = broken([file])
        image = read(file)
        assert form in FORMATS and min(image.size) >= 16 and image.mode == "RGB"
        assert fitted(image, 32).shape == (32, 32, 3)
        if not faults:
            assert min(upright_size(file)) >= 16
    finally:
        file.unlink()


TARGETS: dict[str, Callable[[Path, random.Random], None]] = {
    "claim": claim, "pack": pack, "looks": look, "model folder": model, "captions": captions, "picture": picture
}  # fmt: skip


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=THOUSANDS)])
@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_small_files_are_one_message_or_sound(tmp_path, kind, count):
    told = fuzz(kind, range(count), lambda rng: TARGETS[kind](tmp_path, rng))
    print(told)
    assert told.failures == [], told.failures[0]
    assert told.accepted


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    os.mkfifo(tmp_path / "study.yaml")
    from study import config

    with pytest.raises(InputFault, match="no ordinary file"):
        read(tmp_path / "1.png")
    with pytest.raises(InputFault, match="no ordinary file"):
        config.read(tmp_path / "study.yaml")
