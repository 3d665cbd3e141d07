"""The command `generate`: pictures with a trained adapter, and one clear message for each that cannot be used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from study import trained_adapter
from study.loaded import Worker
from tests.study import tiny
from tests.study.one_adapter import PROMPT, adapter_study, files, generate, make_home, make_place, pixels


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def place(home, tmp_path, monkeypatch):
    return make_place(home, tmp_path, monkeypatch)


def test_same_command_gives_the_same_picture_and_another_seed_another(place):
    for out, more in (("a.png", ()), ("b.png", ()), ("c.png", ("--seed", 1)), ("d.png", ("--guidance", 1)),
                      ("e.png", ("--steps", 3))):  # fmt: skip
        assert generate(*more, out=out).exit_code == 0
    drawn = {name: (place / f"{name}.png").read_bytes() for name in "abcde"}
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn.values())) == 4


def test_adapter_changes_the_picture_and_comes_off_again(place):
    assert generate().exit_code == 0

    def bare(base, metadata):
        return next(trained_adapter.draw(base, PROMPT, 1, 0, metadata.protocol)).astype(int)

    with trained_adapter.loaded(place / "my") as (base, metadata):
        assert np.array_equal(bare(base, metadata), pixels(place / "out.png"))
    untuned = bare(base, metadata)
    assert np.abs(untuned - pixels(place / "out.png")).max() > 8
    fresh, _ = trained_adapter.backbone_of(place / "my")
    assert np.array_equal(untuned, bare(fresh, metadata))


def test_count_numbers_the_pictures_and_the_first_is_the_one_drawn_alone(place):
    assert generate().exit_code == 0
    ended = generate("--count", 3, out="many.png")
    assert ended.stdout.split() == ["many-0.png", "many-1.png", "many-2.png"]
    drawn = [pixels(place / name) for name in ended.stdout.split()]
    # A batch of another size may round otherwise in the last bit before it becomes a level of 256.
    assert np.abs(drawn[0] - pixels(place / "out.png")).max() <= 1
    assert np.abs(drawn[0] - drawn[1]).max() > 8 and np.abs(drawn[1] - drawn[2]).max() > 8


@pytest.mark.parametrize("suffix, form", [(".png", "PNG"), (".JPG", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")])
def test_suffix_decides_the_format(place, suffix, form):
    assert generate(out=f"out{suffix}").exit_code == 0
    with Image.open(place / f"out{suffix}") as opened:
        assert opened.format == form


def test_backbone_that_was_moved_is_found_by_its_option(home, place):
    assert generate().exit_code == 0
    shutil.copytree(home / "tiny-epsilon-0", place / "moved")
    change_metadata(place / "my", backbone="/nowhere/model")
    ended = generate(out="other.png")
    assert ended.exit_code == 2 and "/nowhere/model" in ended.stderr and "--backbone" in ended.stderr
    assert generate("--backbone", "moved", out="other.png").exit_code == 0
    assert files(place)["other.png"] == files(place)["out.png"]


@pytest.mark.parametrize("prompt, warned", [("a robot on grass", True), ("sksx robot", True), ("SKS, a robot", False)])
def test_prompt_without_the_token_is_warned_about(place, prompt, warned):
    ended = generate(prompt=prompt)
    assert ended.exit_code == 0 and ("lacks 'sks'" in ended.stderr) is warned


def test_prompt_that_is_cut_off_is_warned_about(place):
    assert "reads only the beginning" in generate(prompt=PROMPT + " red" * 20).stderr


def change_metadata(folder: Path, **changes: object) -> None:
    described = json.loads((folder / "adapter.json").read_text())
    described["metadata"] |= changes
    (folder / "adapter.json").write_text(json.dumps(described))


def change_description(folder: Path, **changes: object) -> None:
    described = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**described, **changes}))


def cut_short(folder: Path) -> None:
    weights = folder / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


def without_one(folder: Path) -> None:
    weights = load_file(folder / "adapter.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "adapter.safetensors")


DESIGN = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "width": 3}


DAMAGED = {
    "truncated": (cut_short, "adapter.safetensors"),
    "weight missing": (without_one, "1 are missing"),
    "shapes": (lambda folder: change_description(folder, design={**DESIGN, "width": 4}), "has shape"),
    "enormous": (lambda folder: change_description(folder, design={**DESIGN, "width": 10**15}), "has shape"),
    "method": (lambda folder: change_description(folder, design={"method": "magic"}), "unknown method 'magic'"),
    "format": (lambda folder: change_description(folder, format=99), "format 99"),
    "no json": (lambda folder: (folder / "adapter.json").write_bytes(b"\xff{"), "is not JSON"),
    "gone": (lambda folder: shutil.rmtree(folder), "is missing"),
    "no backbone": (lambda folder: change_description(folder, metadata={}), "backbone_hash"),
    "protocol": (lambda folder: change_metadata(folder, protocol={"sampler": "magic"}), "protocol.sampler"),
    "hash": (lambda folder: change_metadata(folder, backbone_hash="0" * 64), "0" * 64),
    "weightless": (lambda folder: change_metadata(folder, backbone="arch:sd15"), "has no weights"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_adapter_is_one_clear_message_and_nothing_written(place, damage):
    break_it, word = DAMAGED[damage]
    break_it(place / "my")
    before = files(place)
    ended = generate()
    assert ended.exit_code == 2 and word in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and ended.stdout == "" and files(place) == before


def test_other_backbone_is_refused_and_both_are_named(place, tmp_path):
    other = tiny.pipeline_folder(tmp_path, seed=5)
    ended = generate("--backbone", other)
    recorded = json.loads((place / "my" / "adapter.json").read_text())["metadata"]["backbone_hash"]
    assert ended.exit_code == 2 and not (place / "out.png").exists()
    for named in (recorded, Worker().backbone(str(other), "float32").hash, str(other)):
        assert named in ended.stderr


WRONG_GENERATE = {
    "suffix": (["-o", "out.gif"], ".png, .jpg"),
    "no suffix": (["-o", "out"], ".png, .jpg"),
    "parent": (["-o", "no/out.png"], "no folder that can be"),
    "folder": (["-o", "folder.png"], "is a folder"),
    "numbered folder": (["-o", "many.png", "--count", "2"], "many-1.png is a folder"),
    "count": (["-o", "out.png", "--count", "0"], "--count"),
    "steps": (["-o", "out.png", "--steps", "1001"], "1000 timesteps"),
    "guidance": (["-o", "out.png", "--guidance", "inf"], "finite"),
    "backbone": (["-o", "out.png", "--backbone", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("wrong", WRONG_GENERATE)
def test_wrong_input_to_generate_is_one_message_and_nothing_written(place, wrong):
    words, word = WRONG_GENERATE[wrong]
    (place / "folder.png").mkdir()
    (place / "many-1.png").mkdir()
    before = files(place)
    ended = adapter_study("generate", "my", "--prompt", PROMPT, *words)
    assert ended.exit_code == 2 and word in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stdout == "" and files(place) == before
