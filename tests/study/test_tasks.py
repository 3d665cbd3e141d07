import itertools
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.faults import InputFault
from study.backbones import load
from study.config import Protocol
from study.randomness import stream_seed
from study.tasks import TaskSpec, prepare, resolve_task
from study.training import row_losses
from tests.study import tiny


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures, and something that is none."""
    folder = tiny.photographs(tmp_path)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load(str(tiny.pipeline_folder(tmp_path_factory.mktemp("models"))))


def declared(folder, **changes):
    spec = {"name": "rex", "pictures": folder.name, "class": "dog", "prompts": ["a {} on grass", "a red {}"]}
    return resolve_task({**spec, **changes}, folder.parent)


def test_a_world_subject_by_name(tmp_path):
    spec = resolve_task("subject/robot", tmp_path)
    assert (spec.name, spec.class_word, spec.token) == ("subject/robot", "robot", "sks")
    assert spec.load_pictures(64).shape == (5, 64, 64, 3)
    assert spec.load_pictures(32).shape == (5, 32, 32, 3)
    # Frozen, since trial ids rest on it: as it was before there were other kinds of tasks.
    assert spec.content_hash() == "3408de4b3b1d2812afe99a76140dad13f4d0f7b2f688dc3f6ed095546d06463c"
    assert resolve_task({"name": "subject/robot", "token": "zwx"}, tmp_path).content_hash() != spec.content_hash()


def test_a_folder_of_photographs(photos):
    spec = declared(photos)
    assert (spec.name, spec.class_word) == ("subject/rex", "dog")
    assert np.array_equal(spec.load_pictures(tiny.SIZE), tiny.pictures())
    assert spec.instance_prompt == "a photo of a sks dog"
    assert spec.class_prompt == "a photo of a dog"
    assert (spec.prompt(0), spec.described(0)) == ("a sks dog on grass", "a dog on grass")
    assert TaskSpec.from_json(spec.to_json()) == spec


def test_a_folder_without_prompts_takes_those_of_the_world(photos):
    assert resolve_task({"name": "rex", "pictures": str(photos), "class": "dog"}, photos).prompts == tuple(
        resolve_task("subject/robot", photos).prompts
    )


def test_photographs_are_turned_cropped_and_laid_on_white(photos):
    for file in photos.iterdir():
        file.unlink()
    # A picture 64 wide and 32 high, left half red; stored turned by 90 degrees with the EXIF note that says so.
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:, :32, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(photos / "turned.webp", exif=exif, lossless=True)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(photos / "see-through.png")
    seen_through, turned = declared(photos).load_pictures(32)
    assert np.array_equal(turned, upright[:, 16:48])  # oracle: the middle 32 columns of the upright picture
    assert (seen_through == 255).all()


def test_the_hash_is_of_the_content_and_not_of_name_or_place(photos):
    spec = declared(photos)
    assert len(spec.content_hash()) == 64
    moved = photos.rename(photos.parent / "elsewhere")
    assert declared(moved, name="other").content_hash() == spec.content_hash()
    assert declared(moved, token="zwx").content_hash() != spec.content_hash()
    assert declared(moved, prompts=["a {}"]).content_hash() != spec.content_hash()
    Image.fromarray(tiny.pictures()[0] ^ 1).save(moved / "0.png")
    assert declared(moved).content_hash() != spec.content_hash()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("subject/nobody", "known: .*robot"),
        ({"name": "rex", "pictures": "nowhere", "class": "dog"}, "nowhere is no folder"),
        ({"name": "rex", "pictures": "empty", "class": "dog"}, "holds no picture"),
        ({"name": "rex", "pictures": "rex"}, "class is missing"),
        ({"name": "rex", "pictures": "rex", "class": "dog", "prompts": ["a dog"]}, r"exactly one \{\}"),
        ({"name": "rex", "pictures": "rex", "class": "dog", "size": 3}, "unknown keys 'size'"),
        ({"name": "robot", "class": "lamp"}, "not that of the subject, 'robot'"),
        ({"kind": "video", "name": "robot"}, "kind 'video' is unknown"),
        ({"pictures": "rex"}, "expected subject/robot"),
    ],
)
def test_faults_are_named(photos, spec, expected):
    (photos.parent / "empty").mkdir()
    with pytest.raises(InputFault, match=expected):
        resolve_task(spec, photos.parent)


def test_all_faults_of_a_task_come_in_one_message(photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:60])
    Image.new("RGB", (8, 8)).save(photos / "small.png")
    with pytest.raises(InputFault) as fault:
        resolve_task({"name": "rex", "pictures": "rex", "prompts": [], "token": " "}, photos.parent)
    for part in ("class is missing", "prompts is []", "token is ' '", "broken.jpg", "cut.png", "small.png (8x8"):
        assert part in str(fault.value)


def test_streams_depend_on_seed_task_and_purpose_only():
    keys = [(seed, task, purpose) for seed in (0, 1) for task in ("a", "b") for purpose in ("noise", "order")]
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    # Frozen, so that a changed derivation is seen: SHA-256 of '[0, "a", "noise"]', first 8 bytes, halved.
    assert stream_seed(0, "a", "noise") == 3294163159442107921


def test_rounds_show_every_picture_once_and_prior_rows_do_not_move_subject_rows(photos, backbone, tmp_path):
    spec = declared(photos)
    few = Protocol(batch=1, prior_batch=1, prior_pictures=2, sampling_steps=2, prior_weight=0.5)
    task = prepare(spec, backbone, few, tmp_path)
    rows = list(itertools.islice(task.batches(0, few), 6))
    many = few.model_copy(update={"prior_batch": 3})
    again = list(itertools.islice(task.batches(0, many), 6))
    other = next(task.batches(1, few))
    order = [int((task.latents == row.latents[0]).flatten(1).all(1).nonzero()) for row in rows]
    assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]
    for one, three in zip(rows, again, strict=True):
        for name in ("latents", "noise", "timesteps", "context"):
            assert torch.equal(getattr(one, name)[0], getattr(three, name)[0])
        assert one.weight.tolist() == [1, 0.5]
        torch.testing.assert_close(three.weight, torch.tensor([1, 0.5 / 3, 0.5 / 3, 0.5 / 3]))
    assert not torch.equal(other.noise, rows[0].noise)
    assert torch.equal(rows[0].context, backbone.embed(["a photo of a sks dog", "a photo of a dog"]))


def test_without_prior_weight_there_are_no_class_pictures(photos, backbone, tmp_path):
    protocol = Protocol(prior_weight=0, batch=2)
    task = prepare(declared(photos), backbone, protocol, tmp_path / "cache")
    assert len(next(task.batches(0, protocol)).latents) == 2
    assert not (tmp_path / "cache").exists()


def test_class_pictures_are_made_once_and_shared_by_tasks_of_a_class(photos, backbone, tmp_path, monkeypatch):
    protocol = Protocol(prior_pictures=2, sampling_steps=2)
    first = prepare(declared(photos), backbone, protocol, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])  # cut off by a full disk, say
    rebuilt = prepare(declared(photos), backbone, protocol, tmp_path)
    assert torch.equal(first.prior, rebuilt.prior)
    monkeypatch.setattr("study.tasks.subject.sample", None)  # to draw again would fail
    shared = prepare(declared(photos, name="fido", token="zwx"), backbone, protocol, tmp_path)
    assert torch.equal(first.prior, shared.prior)
    assert [path.name for path in tmp_path.glob("**/.making*")] == []


def test_held_out_loss_is_the_mean_over_fixed_rows(photos, backbone, tmp_path):
    task = prepare(declared(photos), backbone, Protocol(prior_weight=0), tmp_path)
    # Oracle: the definition, a row at a time, in float64 sums.
    generator = torch.Generator().manual_seed(stream_seed(0, task.key, "held-out noise"))
    context = backbone.embed(["a photo of a sks dog"])
    losses = []
    for latents in task.latents:
        noise = torch.randn(4, 4, 8, 8, generator=generator)
        for index, timestep in enumerate([125, 375, 625, 875]):
            noisy = backbone.noised(latents[None], noise[index : index + 1], torch.tensor([timestep]))
            with torch.no_grad():
                predicted = backbone.denoiser(noisy, timestep, context).sample
            losses.append(float((predicted - noise[index]).double().square().mean()))
    held_out = task.held_out()
    loss = row_losses(backbone, held_out).mul(held_out.weight).sum()
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_class_word_the_builtin_backbone_never_saw_is_warned_about(photos, backbone, tmp_path, monkeypatch):
    builtin = backbone.source.__class__("builtin", "micro-unet", "backbone", path=backbone.source.path)
    protocol = Protocol(prior_weight=0)
    monkeypatch.setattr(backbone, "source", builtin)
    with pytest.warns(UserWarning, match="never seen the word zebra"):
        prepare(declared(photos, **{"class": "zebra"}), backbone, protocol, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(declared(photos), backbone, protocol, tmp_path)
