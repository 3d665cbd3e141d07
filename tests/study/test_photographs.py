"""Photographs as users have them: any size, orientation and mode; whole or cropped; mirrored or not."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from pytest import approx

import adapters
from adapters.faults import InputFault
from study.backbones import load
from study.config import Protocol
from study.loaded import Worker
from study.pack import run_pack
from study.tasks import TaskSpec, prepare, resolve_task
from study.tasks.pictures import fitted, read
from study.tasks.prompt_sets import LIVE, OBJECTS
from study.trial import Pack, Trial
from tests.study import tiny
from tests.study.together import EXACT, assert_same


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures."""
    return tiny.photographs(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.pipeline_folder(tmp_path_factory.mktemp("models")))


def declared(folder, **changes):
    spec = {"name": "rex", "pictures": folder.name, "class": "dog", "prompts": ["a {} on grass", "a red {}"]}
    return resolve_task({**spec, **changes}, folder.parent)


def test_not_cropped_all_of_a_picture_lies_on_white(tmp_path):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :16, 0] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    whole = declared(tmp_path, crop="none").load_pictures(32)[0]
    assert np.array_equal(whole[8:24], wide)  # as large as it was: scaled by one
    assert (whole[:8] == 255).all() and (whole[24:] == 255).all()
    assert (declared(tmp_path).load_pictures(32)[0] == 255).all(-1).sum() == 0


@pytest.mark.parametrize("crop", ["centre", "none"])
def test_a_turned_picture_of_30_by_4000_pixels_is_one_like_others(tmp_path, crop):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (30, 4000), "red").save(tmp_path / "0.jpg", exif=exif)
    (picture,) = declared(tmp_path, crop=crop).load_pictures(64)
    red = (picture[..., 0] > 250) & (picture[..., 1] < 10)
    assert picture.shape == (64, 64, 3)
    # Turned, it is 4000 wide: cropped it is all there is, whole it is a line of 30 x 64 / 4000 pixels, at least one.
    assert red.all() if crop == "centre" else red.any(1).sum() == 1 and red.any(0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "RGBA", "I;16"])
def test_a_picture_of_any_mode_is_the_grey_that_it_shows(tmp_path, mode):
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(64, 0)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    assert image.mode == mode
    file = tmp_path / ("0.jpg" if mode == "CMYK" else "0.png")
    image.save(file, **({"quality": 100} if mode == "CMYK" else {}))
    shown = fitted(read(file), 64)
    if mode == "1":
        assert set(shown.ravel().tolist()) == {0, 255} and shown.mean() == approx(ramp.mean(), abs=2)
    else:
        assert np.abs(shown.astype(int) - ramp[..., None]).max() <= (6 if mode == "CMYK" else 0)


def test_a_single_photograph_is_enough(tmp_path, model):
    Image.fromarray(tiny.pictures()[0]).save(tmp_path / "0.png")
    protocol = Protocol(prior_weight=0, batch=2)
    task = prepare(declared(tmp_path), load(model), protocol, tmp_path)
    assert torch.equal(next(task.batches(0, protocol)).latents, task.latents[[0, 0]])


def test_a_flip_shows_every_picture_both_ways_in_a_round(photos, model, tmp_path):
    backbone, protocol = load(model), Protocol(prior_weight=0, batch=1)
    plain = prepare(declared(photos), backbone, protocol, tmp_path)
    both = prepare(declared(photos, flip=True), backbone, protocol, tmp_path)
    # Oracle: the pictures turned by Pillow's own transposition, encoded alone.
    turned = [np.asarray(Image.fromarray(p).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for p in tiny.pictures()]
    every = torch.cat([backbone.encode(tiny.pictures()), backbone.encode(np.stack(turned))])
    shown = [batch.latents[0] for batch in itertools.islice(both.batches(3, protocol), 12)]
    order = [int((every - one).flatten(1).abs().amax(1).argmin()) for one in shown]
    assert sorted(order[:6]) == sorted(order[6:]) == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(torch.stack(shown), every[order], rtol=1e-4, atol=1e-4)
    again = itertools.islice(both.batches(3, protocol), 12)
    assert all(torch.equal(batch.latents[0], one) for batch, one in zip(again, shown, strict=True))
    # What scores and the held-out loss compare with is the pictures as they are.
    assert np.array_equal(both.pictures, plain.pictures)
    torch.testing.assert_close(both.held_out().latents, plain.held_out().latents)
    assert len(plain.mirrored) == 0


def test_a_flipped_task_gives_the_same_in_a_pack_as_alone(photos, model, tmp_path):
    worker, clip = Worker("cpu"), str(tiny.clip_folder(tmp_path))
    specs = [declared(photos, flip=True), declared(photos, name="plain")]
    design = adapters.normalise({"method": "adaptformer", "width": 2})
    hashes = {"backbone_hash": worker.backbone(model, EXACT.precision).hash}
    trials = tuple(Trial("tiny", design, s.name, 0, EXACT, task_hash=s.content_hash(), **hashes) for s in specs)
    found = {}
    for together in (1, 2):
        tasks, store = {spec.name: spec for spec in specs}, str(tmp_path)
        pack = Pack(trials, model, tasks, {"clip_i": clip}, "all", store, together=together)
        results = []
        run_pack(pack, worker, results.append)
        assert [result.columns["pack_size"] for result in results] == [together] * 2
        found[together] = {result.trial.task: result for result in results}
    for task, alone in found[1].items():
        assert_same(found[2][task], alone, 1e-9)
    losses = [result.scores["loss_heldout"] for result in found[1].values()]
    assert losses[0] != approx(losses[1], rel=1e-9)


def test_prompts_of_dreambooth_go_by_name_and_count_by_their_texts(photos):
    things, animals = declared(photos, prompts="objects"), declared(photos, prompts="live")
    assert things.prompts == OBJECTS and animals.prompts == LIVE
    assert things.prompt(0) == "a sks dog in the jungle" and things.described(0) == "a dog in the jungle"
    assert things.content_hash() == declared(photos, prompts=list(OBJECTS)).content_hash() != animals.content_hash()
    assert TaskSpec.from_json(things.to_json()) == things


def test_crop_and_flip_are_part_of_a_task_where_they_are_not_the_usual(photos):
    usual = declared(photos)
    assert declared(photos, crop="centre", flip=False).content_hash() == usual.content_hash()
    changed = [declared(photos, crop="none"), declared(photos, flip=True), declared(photos, crop="none", flip=True)]
    assert len({spec.content_hash() for spec in (usual, *changed)}) == 4
    assert [TaskSpec.from_json(spec.to_json()) for spec in changed] == changed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompts": "animals"}, r"prompts is 'animals', expected objects or live, or a list of texts with \{\}"),
        ({"prompts": ["a dog"]}, r"without exactly one \{\} where the subject goes: \['a dog'\]"),
        ({"crop": "center"}, "crop is 'center', expected centre or none"),
        ({"crop": ["centre"]}, r"crop is \['centre'\], expected centre or none"),
        ({"flip": "sometimes"}, "flip is 'sometimes', expected true or false"),
        ({"flip": 1}, "flip is 1, expected true or false"),
        ({"pictures": "nowhere"}, "task rex: pictures: .*nowhere is no folder"),
        ({"pictures": "no/where"}, r"pictures: there is no folder .*/no, where"),
        ({"pictures": "no/where", "token": ""}, "rex: token is '', expected a word; pictures: .*where is no folder"),
    ],
)
def test_faults_are_named(photos, changes, expected):
    with pytest.raises(InputFault, match=expected):
        declared(photos, **changes)


def test_a_subject_of_the_world_is_not_cropped_but_may_be_mirrored(tmp_path):
    with pytest.raises(InputFault, match="crop: only for photographs"):
        resolve_task({"name": "robot", "crop": "none"}, tmp_path)
    assert resolve_task({"name": "robot", "flip": True}, tmp_path).flip
