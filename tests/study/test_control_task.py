"""Control tasks: maps of the world and of folders, what is wrong with them, training with an encoder, and scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer import Typer
from typer.testing import CliRunner

from adapters.designs import normalise
from adapters.faults import InputFault
from study import config
from study.backbones import load
from study.cli import export, generate
from study.conditioning import Conditioned
from study.config import Protocol
from study.control_encoder import FILE, ControlEncoder, load_encoder, save_encoder
from study.control_scores import control_scores
from study.evaluation import evaluate
from study.loaded import Worker
from study.mounting import Ready, mount
from study.pack import _slot, run_pack
from study.scoring import PartReader
from study.store import Store
from study.tasks import TaskSpec, prepare, resolve_task
from study.tasks.control_spec import CONTROL
from study.training import joined, train, unpacked
from study.trial import Pack, Trial
from study.world.control_maps import control_picture, control_scenes
from study.world.scene import draw
from tests.study import fakes, tiny

COUNT = 10


def write(folder, pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:02d}.png")


@pytest.fixture
def folders(tmp_path):
    """Ten pictures of lamps, and of each the map that is its negative."""
    pictures = tiny.pictures(COUNT, 32, 3)
    write(tmp_path / "lamps", pictures)
    write(tmp_path / "maps", [255 - picture for picture in pictures])
    return tmp_path


@pytest.fixture
def small_world(monkeypatch):
    """The world's scenes, but few."""
    monkeypatch.setattr("study.tasks.control_spec.WORLD_PICTURES", 6)
    monkeypatch.setattr("study.tasks.control_spec.WORLD_HELD_OUT", 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"pipe": tiny.pipeline_folder(root), "clip": tiny.clip_folder(root)}


def declared(root, **changes):
    own = {"kind": "control", "name": "own", "pictures": "lamps", "maps": "maps", "captions": "a lamp"}
    return resolve_task({key: value for key, value in {**own, **changes}.items() if value is not None}, root)


def test_a_folder_s_maps_go_with_their_pictures(folders):
    spec = declared(folders)
    assert spec.name == "control/own" and TaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert (len(spec.train.captions), len(spec.real.captions)) == (6, 4)
    for part in (spec.train, spec.real):
        assert np.array_equal(part.load_maps(32), 255 - part.load(32))
    assert np.array_equal(spec.train.load_maps(32, 2, 4), spec.train.load_maps(32)[2:4])
    assert set(spec.scores) == {"clip_t"} and spec.primary == "clip_t"
    # Names have no part in the hash; maps and captions have.
    for folder in ("lamps", "maps"):
        (folders / folder / "00.png").rename(folders / folder / "zz.png")
    assert declared(folders).content_hash() == spec.content_hash()
    others = [declared(folders, captions="a dog"), declared(folders, size=64), declared(folders, held_out=0.5)]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folders / "maps" / "03.png")
    assert len({spec.content_hash(), declared(folders).content_hash(), *(each.content_hash() for each in others)}) == 5


def test_a_map_may_have_another_suffix_and_lie_in_a_folder_of_its_class(folders):
    for folder in ("lamps", "maps"):
        (folders / folder / "red_lamp").mkdir()
        for file in (folders / folder).glob("*.png"):
            file.rename(folders / folder / "red_lamp" / file.name)
    shown = folders / "maps" / "red_lamp" / "00.png"
    Image.open(shown).save(shown.with_suffix(".webp"), lossless=True)
    shown.unlink()
    spec = declared(folders, captions="a photo of a {}")
    assert set(spec.train.captions) == {"a photo of a red lamp"}
    assert np.array_equal(spec.train.load_maps(32), 255 - spec.train.load(32))


def test_what_is_wrong_with_maps_is_told_in_one_message_that_names_the_files(folders):
    maps = folders / "maps"
    (maps / "00.png").unlink()
    (maps / "01.png").write_bytes(b"no picture")
    (maps / "extra.png").write_bytes((maps / "02.png").read_bytes())
    Image.open(maps / "03.png").save(maps / "03.webp")
    with pytest.raises(InputFault) as told:
        declared(folders)
    for part in (f"task own: maps in {maps}: no map", "for 00.png", "no picture for the map extra.png",
                 "several maps for one picture: 03.png, 03.webp", "cannot be read: 01.png"):  # fmt: skip
        assert part in str(told.value)


def test_a_map_of_another_size_than_its_picture_is_named(folders):
    Image.new("RGB", (40, 32)).save(folders / "maps" / "05.png")
    with pytest.raises(InputFault, match=r"not of the size of their pictures: 05\.png \(40x32, its picture 32x32\)"):
        declared(folders)
    # A camera's turn counts: 40 x 24, turned by a quarter (orientation 6), is 24 x 40.
    Image.new("RGB", (24, 40)).save(folders / "maps" / "05.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 24), "red").save(folders / "lamps" / "05.png", exif=exif)
    assert len(declared(folders).train.captions) == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"maps": None}, "maps is None, expected a folder"),
        ({"pictures": None}, "pictures is None, expected a folder"),
        ({"maps": "nowhere"}, "nowhere is no folder"),
        ({"maps": "lamps"}, "is the folder of the pictures"),
        ({"held_out": 0.7}, "held_out 0.7 of 10 pictures leaves 3 to train on, expected at least 4"),
        ({"captions": None}, "nothing says what they show"),
        ({"held_out": 3, "size": "big", "colour": 1}, "held_out is 3"),
        ({"pictures": None, "maps": None, "captions": None}, "no map 'own' in the built-in world .known: edges, seg"),
        ({"pictures": None, "maps": None}, "captions: only for folders"),
    ],
)
def test_a_wrong_declaration_is_told(folders, changes, expected):
    with pytest.raises(InputFault, match=expected):
        declared(folders, **changes)


def test_one_picture_is_too_few(folders):
    for index in range(1, COUNT):
        (folders / "lamps" / f"{index:02d}.png").unlink()
    with pytest.raises(InputFault, match="lamps holds 1 picture, expected at least 8"):
        declared(folders)


def test_the_world_s_scenes_are_the_same_for_every_kind_of_map(small_world, tmp_path):
    specs = [resolve_task(f"control/{kind}", tmp_path) for kind in ("edges", "segmentation", "landmarks")]
    assert len({spec.content_hash() for spec in specs}) == 3
    assert specs[0].train.captions == specs[1].train.captions == specs[2].train.captions
    assert not {repr(scene) for scene in specs[0].train.scenes} & {repr(scene) for scene in specs[0].real.scenes}
    for spec, kind in zip(specs, ("edges", "segmentation", "landmarks"), strict=True):
        assert spec.primary == "edge_error" and set(spec.scores) == {*CONTROL, "clip_t"}
        scene = spec.real.scenes[1]
        assert np.array_equal(spec.real.load(32, 1, 2)[0], draw(scene, 32).pixels)
        assert np.array_equal(spec.real.load_maps(32, 1, 2)[0], control_picture(scene, kind, 32))
    assert control_scenes(3, 5) == control_scenes(4, 5)[:3] != control_scenes(3, 6)


def test_scores_that_need_true_maps_are_refused_for_a_folder(folders):
    fakes.folders(folders)
    task = {"kind": "control", "name": "own", "pictures": "lamps", "maps": "maps", "captions": "a lamp"}
    given = {**{k: v for k, v in fakes.SECTIONS.items() if k != "scores"}, "tasks": [task]}
    assert config.check(given, folders).primary == "clip_t"
    with pytest.raises(InputFault, match="edge_error: is no score of control/own; leave it out, or take of clip_t"):
        config.check({**given, "scores": {"edge_error": "segmenter", "clip_t": "scorer"}, "primary": "clip_t"}, folders)
    world = config.check({**given, "tasks": ["control/edges"]}, folders)
    assert world.primary == "edge_error" and world.scores["edge_error"].name == "segmenter"
    with pytest.raises(InputFault, match="expected segmenter"):
        config.check({**given, "tasks": ["control/edges"], "scores": {"mean_iou": "micro-clip"}}, folders)


def ready(task, seed, precision="float32", **design):
    protocol = Protocol(steps=3, batch=2, sampling_steps=1, precision=precision)
    trial = Trial("tiny", normalise(design or {"method": "bitfit"}), task.spec.name, seed, protocol)
    return Ready(trial, task, {})


def test_training_starts_at_the_untuned_model_and_moves_the_encoder(folders, models, tmp_path):
    backbone = load(str(models["pipe"]))
    task = prepare(declared(folders), backbone, Protocol(), tmp_path)
    batch = next(task.batches(0, Protocol(batch=3)))
    assert batch.condition.dtype == torch.uint8 and batch.condition.shape == (3, 3, 32, 32)
    for latents, shown in zip(batch.latents, batch.condition, strict=True):
        index = int((task.latents == latents).flatten(1).all(1).nonzero())
        assert np.array_equal(shown.permute(1, 2, 0).numpy(), task.spec.train.load_maps(32)[index])
    encoder = task.trainables(0)
    conditioned = Conditioned(backbone, [encoder], unpacked)
    with torch.no_grad(), conditioned.rows([0, 0, 0]):
        got = conditioned.predict(batch.latents, batch.timesteps, batch.context, batch.condition)
        assert torch.equal(got, backbone.predict(batch.latents, batch.timesteps, batch.context))
    other = task.trainables(1).layers[0].weight
    assert torch.equal(encoder.layers[0].weight, task.trainables(0).layers[0].weight)
    assert not torch.equal(encoder.layers[0].weight, other)
    with mount([ready(task, 0)]) as mounted:
        (trained,) = train(mounted.backbone, [_slot(ready(task, 0), 0, mounted)], 3, rows=mounted.rows)
        assert not trained.diverged
        after = mounted.encoders[0]
        # At first only what starts at zero has a gradient; after three steps all have moved.
        assert all(not torch.equal(own, before) for own, before in
                   zip(after.parameters(), encoder.parameters(), strict=True))  # fmt: skip
        # AdamW's first step is of the size of the learning rate: the task's, not the design's 1e-4.
        assert after.last.weight.abs().max().item() == pytest.approx(3 * task.beside_rate, rel=0.2)
        with mounted.rows([0, 0, 0]):
            true = mounted.backbone.predict(batch.latents, batch.timesteps, batch.context, batch.condition)
            other = mounted.backbone.predict(batch.latents, batch.timesteps, batch.context, batch.condition.flip(0))
        assert not torch.equal(true, other)


def test_a_pack_gives_what_each_trial_gets_alone(folders, models, tmp_path):
    backbone = Worker("cpu").backbone(str(models["pipe"]), "float64")
    task = prepare(declared(folders), backbone, Protocol(), tmp_path)
    part = [ready(task, 0, "float64"), ready(task, 1, "float64", method="lora", rank=2),
            ready(task, 0, "float64", method="none")]  # fmt: skip

    def run(part):
        with mount(part) as mounted:
            trained = train(mounted.backbone, [_slot(each, slot, mounted) for slot, each in enumerate(part)], 3,
                            "float64", mounted.rows)  # fmt: skip
            states = [{**mounted.insertion.state(slot),
                       **(mounted.encoders[slot].state_dict() if mounted.encoders[slot] else {})}
                      for slot in range(len(part))]  # fmt: skip
            batches = [next(task.batches(5, Protocol(batch=2))) for _ in part]
            with torch.no_grad(), mounted.rows([slot for slot in range(len(part)) for _ in range(2)]):
                whole = joined(batches)
                predicted = mounted.backbone.predict(whole.latents, whole.timesteps, whole.context, whole.condition)
        return trained, [{name: value.detach().clone() for name, value in own.items()} for own in states], predicted

    trained, states, predicted = run(part)
    assert states[2] == {}
    for slot, each in enumerate(part):
        (alone,), (state,), own = run([each])
        assert state.keys() == states[slot].keys()
        for name, value in state.items():
            torch.testing.assert_close(states[slot][name], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(predicted[2 * slot : 2 * slot + 2], own, rtol=1e-9, atol=1e-9)
        assert trained[slot].final_loss == pytest.approx(alone.final_loss, rel=1e-9, nan_ok=True)


def call(command, *words):
    app = Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_pack_of_the_world_s_maps_is_trained_scored_stored_and_drawn_from(small_world, models, tmp_path):
    spec, worker, store = resolve_task("control/edges", tmp_path), Worker("cpu"), Store(tmp_path / "store")
    protocol = Protocol(steps=2, batch=2, pictures=5, sampling_steps=1, guidance=1)
    backbone = worker.backbone(str(models["pipe"]), "float32")
    trials = [
        Trial(backbone.name, normalise(design), spec.name, 0, protocol, backbone_hash=backbone.hash,
              task_hash=spec.content_hash())
        for design in ({"method": "none"}, {"method": "bitfit"})
    ]  # fmt: skip
    scores = {**dict.fromkeys(CONTROL, "segmenter"), "clip_t": str(models["clip"])}
    pack = Pack(tuple(trials), str(models["pipe"]), {spec.name: spec}, scores, "all", str(tmp_path / "store"))
    run_pack(Pack.from_json(pack.to_json()), worker, lambda result: store.commit(result, keep="all"))
    rows, images = store.rows().set_index("id"), store.images()
    assert rows["status"].tolist() == ["done", "done"], rows["error"].tolist()
    untuned, tuned = (rows.loc[trial.id] for trial in trials)
    # 3·16·9 + 16, 16·32·9 + 32, twice 32·32·9 + 32, as the tiny autoencoder halves twice, and 32·16·9 + 16, the tiny
    # U-Net beginning with 16 features.
    assert tuned["beside_parameters"] == 448 + 4640 + 2 * 9248 + 4624 and untuned["beside_parameters"] == 0
    assert tuned["start_change"] == 0
    # Oracle: the scores computed anew from the pictures in the store and the scenes that the rows name.
    shown = images[images["id"] == trials[1].id].sort_values("index")
    pictures = np.stack([np.asarray(Image.open(store.folder / file)) for file in shown["file"]])
    expected = control_scores(pictures, [spec.real.scenes[index] for index in shown["prompt_index"]])
    for name in CONTROL:
        assert shown[name].tolist() == pytest.approx(expected[name].tolist()), name
        assert tuned[name] == pytest.approx(expected[name].mean())
    assert [spec.real.captions[index] for index in shown["prompt_index"]] == shown["prompt"].tolist()
    assert json.loads(tuned["scorer_hashes_json"])["edge_error"] == PartReader().hash

    folder, shown = store.adapter(trials[1].id), tmp_path / "map.png"
    assert not store.adapter(trials[0].id).exists()
    Image.fromarray(spec.real.load_maps(32)[0]).save(shown)
    out = tmp_path / "out.png"

    def drawing(*options):
        return call(generate.command, folder, "--prompt", "a lamp", "-o", out, *options)

    done = drawing("--map", str(shown))
    assert done.exit_code == 0 and Image.open(out).size == (32, 32), done.output
    followed = np.asarray(Image.open(out)).astype(int)
    Image.fromarray(255 - spec.real.load_maps(32)[0]).save(shown)
    assert drawing("--map", str(shown)).exit_code == 0
    assert np.abs(followed - np.asarray(Image.open(out))).max() > 0
    for options, told in ((), "give the picture of one with --map"), (("--map", "nowhere.png"), "no such file"):
        assert isinstance(drawing(*options).exception, InputFault) and told in str(drawing(*options).exception)
    done = call(export.command, folder, "--format", "delta", "-o", tmp_path / "exported")
    assert isinstance(done.exception, InputFault) and "follows control maps" in str(done.exception)
    (folder / FILE).unlink()
    assert "control.safetensors is missing" in str(drawing("--map", str(shown)).exception)


def test_an_encoder_s_file_is_checked(tmp_path):
    encoder = ControlEncoder(4, 2, torch.Generator().manual_seed(0))
    save_encoder(tmp_path, encoder.state_dict())
    read = load_encoder(tmp_path, 4, 2)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in encoder.state_dict().items())
    for channels, halvings in ((8, 2), (4, 3)):
        with pytest.raises(InputFault, match="is not what a denoiser"):
            load_encoder(tmp_path, channels, halvings)
    save_file({**encoder.state_dict(), "last.bias": torch.full((4,), torch.nan)}, tmp_path / FILE)
    with pytest.raises(InputFault, match="last.bias holds numbers that are not finite"):
        load_encoder(tmp_path, 4, 2)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(InputFault, match="is no safetensors file"):
        load_encoder(tmp_path, 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edges", "landmarks"])
def test_maps_are_followed_after_a_short_training(kind, monkeypatch, tmp_path):
    """Oracle: the same trained trial with the maps of other scenes, and the untuned model, which sees none."""
    monkeypatch.setattr("study.tasks.control_spec.WORLD_PICTURES", 256)
    monkeypatch.setattr("study.tasks.control_spec.WORLD_HELD_OUT", 32)
    protocol = Protocol(steps=200, batch=8, learning_rate=3e-3, sampling_steps=12, guidance=2, pictures=32)
    spec = resolve_task(f"control/{kind}", tmp_path)
    task = prepare(spec, load("micro-unet"), protocol, tmp_path)
    shuffled = replace(task, held_maps=task.held_maps.roll(1, 0))
    design = normalise({"method": "lora", "budget": 0.05})
    part = [Ready(Trial("micro-unet", design, spec.name, 0, protocol), task, {})]
    scorers = {name: PartReader() for name in CONTROL}
    (untuned,) = evaluate(task.backbone, [0], [task], [0], protocol, scorers, unpacked)
    with mount(part) as mounted:
        train(mounted.backbone, [_slot(part[0], 0, mounted)], protocol.steps, rows=mounted.rows)
        (tuned,), (other,) = (
            evaluate(mounted.backbone, [0], [each], [0], protocol, scorers, mounted.rows) for each in (task, shuffled)
        )
    print({name: [each.scores[name] for each in (tuned, other, untuned)] for name in CONTROL})
    # Each picture against its own without the map: from the same noise and caption, so paired.
    for without in (other, untuned):
        for name in ("edge_error", "landmark_error"):
            gain = np.array([b[name] - a[name] for a, b in zip(tuned.images, without.images, strict=True)])
            assert gain.mean() > 4 * gain.std(ddof=1) / np.sqrt(len(gain)), name
        assert tuned.scores["edge_error"] < without.scores["edge_error"] / 1.5
        assert tuned.scores["mean_iou"] > without.scores["mean_iou"]
        assert tuned.scores["landmark_error"] < without.scores["landmark_error"] / 1.3
