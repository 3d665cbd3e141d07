"""Domain tasks: folders in three layouts, what is wrong with them, batches, and scores on built-in features."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.designs import normalise
from adapters.faults import InputFault
from study import config, report
from study.backbones import load, resolve_scorer
from study.backbones.names import feature_width
from study.cli.dry_run import describe
from study.config import Protocol
from study.distributions import fid
from study.loaded import Worker
from study.pack import run_pack
from study.scoring import load_scorer
from study.store import Store
from study.study import Study
from study.tasks import TaskSpec, prepare, resolve_task
from study.trial import Pack, Trial, TrialResult
from tests.study import fakes, tiny

COUNT = 20


def shades(count=COUNT, size=32, seed=3):
    return tiny.pictures(count, size, seed)


def write(folder, pictures, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures, start):
        Image.fromarray(picture).save(folder / f"{index:02d}.png")


@pytest.fixture
def classes(tmp_path):
    """Ten pictures of each of two classes; of the second, wide ones."""
    write(tmp_path / "flowers" / "red_rose", shades()[:10])
    write(tmp_path / "flowers" / "tulip", [np.concatenate([each, each], 1) for each in shades()[10:]])
    return tmp_path / "flowers"


@pytest.fixture
def described(tmp_path):
    folder = tmp_path / "told"
    write(folder / "a", shades())
    lines = [{"file_name": f"a/{index:02d}.png", "text": f"a lamp  {index}"} for index in range(COUNT)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"root": root, "pipe": tiny.pipeline_folder(root), "clip": tiny.clip_folder(root)}


def declared(folder, **changes):
    return resolve_task({"kind": "domain", "name": "own", "pictures": folder.name, **changes}, folder.parent)


def test_class_folders_are_captioned_by_a_template(classes):
    spec = declared(classes, captions="a drawing of a {}")
    assert spec.name == "domain/own" and TaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    every = sorted([*spec.train.captions, *spec.real.captions])
    assert every == ["a drawing of a red rose"] * 10 + ["a drawing of a tulip"] * 10
    assert (len(spec.train.captions), len(spec.real.captions)) == (12, 8)  # a fifth would be 4, too few to compare with
    assert len(declared(classes, held_out=0.5).real.captions) == 10
    assert spec.load_pictures(32).shape == (12, 32, 32, 3)  # wide ones are cropped
    assert spec.load_pictures(16, most=3).shape == (3, 16, 16, 3)
    assert set(declared(classes).words.split()) == {"a", "photo", "of", "red", "rose", "tulip"}


def test_captions_of_a_metadata_file(described):
    spec = declared(described)
    assert sorted([*spec.train.captions, *spec.real.captions]) == sorted(f"a lamp {index}" for index in range(COUNT))
    by_caption = dict(zip(spec.train.captions, spec.train.load(32), strict=True))
    for caption, picture in by_caption.items():
        assert np.array_equal(picture, shades()[int(caption.split()[-1])])


def test_pictures_alone_have_one_caption_and_a_folder_may_be_held_out(tmp_path):
    write(tmp_path / "train", shades()[:10])
    write(tmp_path / "test", shades()[10:])
    spec = declared(tmp_path / "train", captions="a lamp", held_out="test")
    assert spec.train.captions == spec.real.captions == ("a lamp",) * 10
    again = declared((tmp_path / "train").rename(tmp_path / "elsewhere"), captions="a lamp", held_out="test")
    assert again.content_hash() == spec.content_hash()
    others = [declared(tmp_path / "elsewhere", captions="a dog", held_out="test"),
              declared(tmp_path / "elsewhere", captions="a lamp", held_out="test", size=64),
              declared(tmp_path / "test", captions="a lamp", held_out="elsewhere")]  # fmt: skip
    assert len({spec.content_hash(), *(other.content_hash() for other in others)}) == 4


def test_a_world_domain_by_name(tmp_path):
    spec = resolve_task("domain/outline", tmp_path)
    assert resolve_task({"name": "outline", "kind": "domain"}, tmp_path) == spec
    assert spec.load_pictures(32, most=2).shape == (2, 32, 32, 3)
    assert spec.content_hash() != resolve_task("domain/neon", tmp_path).content_hash()
    assert spec.content_hash() != resolve_task({"name": "domain/outline", "size": 96}, tmp_path).content_hash()
    assert "robot" in spec.words


def remove(folder):
    for file in folder.iterdir():
        file.unlink()


def fault(folder, **changes):
    with pytest.raises(InputFault) as told:
        declared(folder, **changes)
    assert str(told.value).startswith("task own: ")
    return str(told.value)


def test_faults_of_class_folders_are_named(classes):
    (classes / "tulip" / "07.png").write_bytes(b"no picture")
    (classes / "tulip" / "08.png").write_bytes((classes / "tulip" / "09.png").read_bytes()[:60])
    told = fault(classes)
    assert "07.png" in told and "08.png" in told and "09.png" not in told and str(classes) in told
    (classes / "daisy").mkdir()
    write(classes, shades()[:1])
    told = fault(classes, captions="a flower")
    for part in ("class folder daisy", "00.png lies beside", "'a flower': expected a text with one {}"):
        assert part in told
    for folder in ("daisy", "tulip"):
        remove(classes / folder)
        (classes / folder).rmdir()
    (classes / "red_rose").rename(classes / "train")
    assert "parts of a data set" in fault(classes)


def test_faults_of_a_metadata_file_are_named_with_their_lines(described):
    file = described / "metadata.jsonl"
    lines = file.read_text().splitlines()[:COUNT]
    wrong = [
        '{"file_name": "../secret.png", "text": "x"}', '{"file_name": "/etc/x.png", "text": "x"}',
        '{"file_name": "a/99.png", "text": "x"}', '{"file_name": "a/00.png"}', '{"text": "x"}', "{", lines[1],
    ]  # fmt: skip
    file.write_text("\n".join([*lines[1:-2], *wrong]))
    told = fault(described)
    for part in (
        "line 18: ../secret.png leads out of the folder", "line 19: /etc/x.png leads out", "line 20: a/99.png does",
        "line 21: a/00.png has no text", "line 22 is no JSON object", "line 23 is no JSON", "line 24: a/01.png is",
        "no caption for a/18.png, a/19.png", str(file),
    ):  # fmt: skip
        assert part in told
    file.write_text("\n")
    assert "no caption for a/00.png" in fault(described)
    assert "leave out the key" in fault(described, captions="a lamp")


@pytest.mark.parametrize(
    ("count", "changes", "expected"),
    [
        (0, {"captions": "a lamp"}, "holds no picture"),
        (1, {"captions": "a lamp"}, "holds 1 picture, expected at least 16"),
        (15, {"captions": "a lamp"}, "holds 15 pictures, expected at least 16"),
        (20, {}, "nothing says what they show"),
        (20, {"captions": "a {}"}, "nothing says what they show"),
        (20, {"captions": "a lamp", "held_out": "."}, "it too"),
        (20, {"captions": "a lamp", "held_out": "nowhere"}, "nowhere is no folder"),
        (20, {"captions": "a lamp", "held_out": 2}, "held_out is 2"),
        (20, {"captions": "a lamp", "held_out": 0.7}, "held_out 0.7 of 20 pictures leaves 6 to train on, expected at"),
        (20, {"captions": "a lamp", "held_out": ["a"]}, "held_out is ['a']"),
        (20, {"captions": "a lamp", "pictures": None}, "pictures is None, expected a folder"),
        (20, {"captions": 3, "size": "big", "classes": 4}, "captions is 3"),
    ],
)
def test_faults_of_pictures_alone_are_named(tmp_path, count, changes, expected):
    write(tmp_path / "own", shades()[:count])
    changes = {**changes, "held_out": "own"} if changes.get("held_out") == "." else changes
    told = fault(tmp_path / "own", **changes)
    assert expected in told
    if "size" in changes:
        assert "size is 'big'" in told and "unknown keys 'classes'" in told


def test_a_domain_that_there_is_not_and_a_kind_that_contradicts_the_name(tmp_path):
    with pytest.raises(InputFault, match="no domain 'nowhere' in the built-in world .known: sketch"):
        resolve_task("domain/nowhere", tmp_path)
    with pytest.raises(InputFault, match="is no subject task"):
        resolve_task({"kind": "subject", "name": "domain/neon"}, tmp_path)


def sections(folder, **changes):
    task = {"kind": "domain", "name": "own", "pictures": str(folder), "captions": "a lamp"}
    return {**{k: v for k, v in fakes.SECTIONS.items() if k != "scores"}, "tasks": [task], **changes,
            "protocol": {"steps": 3, "pictures": 16, **changes.get("protocol", {})}}  # fmt: skip


def test_scores_and_the_primary_one_follow_from_the_kind_of_the_tasks(tmp_path):
    fakes.folders(tmp_path)
    write(tmp_path / "own", shades())
    found = config.check(sections(tmp_path / "own"), tmp_path)
    assert found.primary == "kid" and set(found.scores) == {"fid", "kid", "precision", "recall", "clip_t"}
    subject = fakes.SECTIONS["tasks"][0]
    both = sections(tmp_path / "own")["tasks"] + [subject]
    mixed = config.check(sections(tmp_path / "own", tasks=both, primary="clip_t"), tmp_path)
    assert {"kid", "dino_i"} <= set(mixed.scores)
    for changes, expected in (
        ({"tasks": both}, "kid is no score of subject/rex; expected clip_t, which all tasks have"),
        ({"scores": {"kid": "scorer", "dino_i": "scorer"}}, "dino_i: is no score of domain/own; leave it out, or"),
        ({"protocol": {"pictures": 4}}, "4 pictures are too few for"),
        ({"primary": "dino_i"}, "expected one of the study's scores"),
    ):
        with pytest.raises(InputFault, match=expected):
            config.check(sections(tmp_path / "own", **changes), tmp_path)


@pytest.mark.parametrize("name", ["micro-clip", "micro-dino"])
def test_the_width_of_a_scorer_is_that_of_its_features(name):
    width = feature_width(resolve_scorer(name))
    assert width == load_scorer(name).images(shades(1, 64)).shape[1]  # 96 and 192
    spec, scores = resolve_task("domain/neon", Path()), {"fid": resolve_scorer(name), "kid": resolve_scorer(name)}
    (told,) = spec.cautions(scores, Protocol(pictures=width))  # so many have a covariance of rank width - 1
    assert f"fid is of {width} pictures, no more than the {width} features of {name}" in told
    assert not list(spec.cautions(scores, Protocol(pictures=width + 1)))
    assert not list(spec.cautions({"kid": scores["kid"]}, Protocol(pictures=8)))


def test_a_size_that_a_backbone_cannot_draw_is_told_before_a_run(models, tmp_path):
    fakes.folders(tmp_path)
    write(tmp_path / "own", shades())
    own = sections(tmp_path / "own", backbone=str(models["pipe"]))
    for size in (60, 64):  # the tiny autoencoder halves pictures twice, the tiny U-Net once
        own["tasks"] = [{**own["tasks"][0], "size": size}]
        if size % 8:
            with pytest.raises(InputFault, match="tasks: task domain/own@60: size 60: .* multiple of 8 pixels"):
                config.check(own, tmp_path)
        else:
            assert config.check(own, tmp_path).tasks[0].size == 64


def test_that_pictures_are_few_for_fid_is_told_before_a_run_and_in_the_report(tmp_path):
    write(tmp_path / "own", shades())
    file = fakes.study_file(tmp_path, **sections(tmp_path / "own", scores={"kid": "scorer", "fid": "scorer"}))
    assert not Study.load(file).warnings()  # a scorer that does not say how many features it has
    (tmp_path / "scorer" / "config.json").write_text('{"hidden_size": 24}')
    study, told = Study.load(file), "fid is of 8 pictures, no more than the 24 features of scorer"  # 8 are held out
    assert [told in each for each in study.warnings()] == [True]
    assert [line for line in describe(study) if line.startswith(f"note: {told}")]
    for index, trial in enumerate(trial for trial in study.trials if trial.role == "study"):
        study.store.commit(TrialResult(trial, "done", "", {"kid": index % 7 / 100, "fid": 2.0 + index % 5}), "fake")
    assert report.page(study).count(told) == 1


def test_batches_hold_pictures_with_their_captions_and_drawn_are_held_out_ones(described, models, tmp_path):
    backbone = load(str(models["pipe"]))
    spec, protocol = declared(described), Protocol(batch=3, pictures=11)
    task = prepare(spec, backbone, protocol, tmp_path)
    rows = list(itertools.islice(task.batches(0, protocol), 4))
    seen = []
    for batch in rows:
        assert batch.weight.tolist() == pytest.approx([1 / 3] * 3) and batch.condition is None
        for latents, context in zip(batch.latents, batch.context, strict=True):
            index = int((task.latents == latents).flatten(1).all(1).nonzero())
            assert torch.equal(context, backbone.embed([spec.train.captions[index]])[0])
            seen.append(index)
    assert sorted(seen) == list(range(12))  # a round shows every picture once
    wanted = task.wanted(0, protocol)
    assert set(wanted.prompts[:8]) == set(spec.real.captions) and wanted.chosen[8:] == wanted.chosen[:3]
    assert task.wanted(1, protocol).chosen != wanted.chosen
    assert len(task.held_out().weight) == 4 * 8
    (file,) = tmp_path.glob("domain-*.safetensors")
    assert torch.equal(prepare(spec, backbone, protocol, tmp_path).latents, task.latents) and file.exists()


def test_a_size_of_its_own_gives_latents_of_that_size(described, models, tmp_path):
    backbone = load(str(models["pipe"]))
    task = prepare(declared(described, size=64), backbone, Protocol(), tmp_path)
    assert task.latents.shape[1:] == (4, 16, 16) == task.backbone.latent_shape and backbone.latent_shape == (4, 8, 8)
    assert task.backbone is backbone.at(64) and task.backbone.denoiser is backbone.denoiser
    with pytest.raises(InputFault, match="size 60: .* multiple of 8"):
        prepare(declared(described, size=60), backbone, Protocol(), tmp_path)


def test_the_same_pictures_at_two_sizes_are_two_tasks(tmp_path):
    named = resolve_task("domain/photo@96", tmp_path)
    assert named == resolve_task({"kind": "domain", "name": "photo", "size": 96}, tmp_path)
    assert named.name == "domain/photo@96" and named.size == 96 and named.domain == "photo"
    assert named.content_hash() != resolve_task("domain/photo@128", tmp_path).content_hash()
    with pytest.raises(InputFault, match="size is 64, but the name says 96"):
        resolve_task({"name": "domain/photo@96", "size": 64}, tmp_path)
    with pytest.raises(InputFault, match="size is 3, expected the edge"):
        resolve_task("domain/photo@3", tmp_path)


def test_a_pack_of_domains_is_trained_scored_and_stored(described, models, tmp_path, monkeypatch):
    spec, worker, store = declared(described), Worker("cpu"), Store(tmp_path / "store")
    protocol = Protocol(steps=2, batch=2, pictures=20, sampling_steps=1, guidance=1)
    backbone = worker.backbone(str(models["pipe"]), "float32")
    trials = [
        Trial(backbone.name, normalise(design), spec.name, 0, protocol, backbone_hash=backbone.hash,
              task_hash=spec.content_hash())
        for design in ({"method": "none"}, {"method": "bitfit"})
    ]  # fmt: skip
    clip = str(models["clip"])
    scores = {**dict.fromkeys(("fid", "kid", "precision", "recall", "clip_t"), clip), "dino_i": clip}
    pack = Pack(tuple(trials), str(models["pipe"]), {spec.name: spec}, scores, "none", str(tmp_path / "store"))
    run_pack(Pack.from_json(pack.to_json()), worker, store.commit)
    rows, images = store.rows(), store.images()
    assert rows["status"].tolist() == ["done", "done"], rows["error"].tolist()
    for name in ("fid", "kid", "precision", "recall", "clip_t", "loss_heldout", "kid_sd"):
        assert rows[name].notna().all(), name
    assert rows["dino_i"].isna().all()  # a score of subjects
    assert rows["fid_n"].tolist() == [20, 20] and len(images) == 40 and images["clip_t"].notna().all()
    # Oracle: the distance computed anew from the pictures in the store and those of the folder that are held out.
    scorer = load_scorer(clip)
    files = images[images["id"] == trials[1].id].sort_values("index")["file"]
    drawn = np.stack([np.asarray(Image.open(store.folder / file)) for file in files])
    of = rows.set_index("id").loc[trials[1].id]
    assert of["fid"] == pytest.approx(fid(scorer.images(spec.real.load(32)), scorer.images(drawn)), rel=1e-4)
    assert of["fid"] != rows.set_index("id").loc[trials[0].id, "fid"]

    # Of many pictures all are scored and the first are kept.
    monkeypatch.setattr("study.tasks.domain.KEPT", 3)
    task = worker.task(spec, backbone, protocol, str(tmp_path / "store"))
    judged = task.judge(task.wanted(0, protocol), drawn, {scorer.hash: scorer.images(drawn)}, {"fid": scorer})
    assert judged.scores["fid"] == pytest.approx(of["fid"], rel=1e-4) and len(judged.pictures) == 3
    other = Store(tmp_path / "other")
    other.commit(TrialResult(trials[1], "done", "", judged.scores, judged.columns, judged.images, judged.pictures))
    assert other.images()["file"].notna().tolist() == [True] * 3 + [False] * 17


def test_on_builtin_features_a_second_sample_of_a_domain_is_nearer_than_another_domain():
    from study.world.domains import domain_pictures

    scorer = load_scorer("micro-clip")

    def features(name, seed):
        return scorer.images(np.stack([each.pixels for each in domain_pictures(name, 24, seed, 64)]))

    outline, again, pixel = features("outline", 0), features("outline", 1), features("pixel", 0)
    assert fid(outline, again) < fid(outline, pixel) / 2
