"""`adapter-study attention`: trials from their kept weights beside the untuned model, and the command's words."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import adapters
from study import plan
from study.attention import attention, class_maps, scenes_of
from study.cli import attention as cli
from study.cli.main import guarded
from study.loaded import Worker
from study.pack import run_pack
from study.study import Study
from tests.study import tiny

PROTOCOL = {
    "steps": 4, "sampling_steps": 2, "pictures": 2, "prior_pictures": 3, "batch": 1, "learning_rate": 1e-1,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of photographs and of a subject of the world that was run in this process, its adapters kept."""
    root = tmp_path_factory.mktemp("words")
    (root / "rex").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(root / "rex" / f"{index}.png")
    sections = {
        "name": "words",
        "backbone": str(tiny.pipeline_folder(root)),
        "factors": {"input": ["SA_in", "CA_in"]},
        "fixed": {"method": "adapter", "width": 2, "output": "CA_in"},
        "tasks": [{"name": "rex", "pictures": "rex", "class": "robot", "prompts": ["a {} on grass"]}, "subject/lamp"],
        "protocol": PROTOCOL,
        "scores": {"clip_i": str(tiny.clip_folder(root))},
        "keep": "all",
        "store": str(root / "store"),
    }
    (root / "words.yaml").write_text(json.dumps(sections))
    study = Study.load(root / "words.yaml")
    worker = Worker("cpu")
    for pack in plan.packs(study.config, study.trials, {}, str(study.store.folder), together=2):
        run_pack(pack, worker, lambda result: study.store.commit(result, "words", keep="all"))
    assert set(study.store.rows()["status"]) == {"done"}
    return study


def call(study: Study, *words: object):
    """Run the command on the study in this process."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(cli.command))
    file = study.store.folder.parent / "words.yaml"
    return CliRunner().invoke(app, [str(file), *(str(word) for word in words)])


def row_of(study: Study, task: str) -> dict:
    rows = study.results()
    return rows[rows["task"] == task].iloc[0].to_dict()


def test_numbers_are_those_of_the_maps_with_the_adapter_on_and_off(study):
    row = row_of(study, "subject/lamp")
    found = attention(study, row["id"], pictures=4)
    spec = next(spec for spec in study.config.tasks if spec.name == "subject/lamp")
    backbone = Worker("cpu").backbone(str(study.config.backbones[0].path), "float32")
    scenes = scenes_of(spec, backbone.size, 4)
    before = class_maps(backbone, spec, scenes)
    insertion = adapters.load(backbone.pipeline, study.store.adapter(row["id"]))
    after = class_maps(backbone, spec, scenes)
    insertion.remove()
    numbers = found.trials[0].change.numbers.set_index("number")
    assert numbers.loc["entropy", ["before", "after"]].tolist() == pytest.approx(
        [np.mean([each.entropy for each in maps]) for maps in (before, after)], rel=1e-5
    )
    assert numbers.loc["distance", "change"] > 1e-4
    assert set(numbers.index) == {"mean", "entropy", "pointing", "iou", "inside", "distance"}
    assert list(found.untuned) == ["subject/lamp"] and found.untuned["subject/lamp"].word == "'lamp'"
    assert len(found.plot_changes().axes) == len(numbers)


def test_photographs_have_no_masks_and_that_is_said(study):
    done = call(study, "--trial", row_of(study, "subject/rex")["id"], "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["untuned"] == {} and told["trials"][0]["agreement"] is None
    assert [each["number"] for each in told["trials"][0]["change"]] == ["mean", "entropy", "distance"]
    assert "photographs is not known" in told["notes"][0]
    assert "the untuned model on subject/rex" in done.stderr


def test_the_best_trials_and_their_figure(study, tmp_path):
    out = tmp_path / "maps.png"
    done = call(study, "--best", 3, "-o", out, "--pictures", 2)
    assert done.exit_code == 0, done.stderr
    with Image.open(out) as figure:
        assert figure.width > 400
    ranked = study.results().sort_values("clip_i", ascending=False)["id"].head(3)
    assert all(id[:12] in done.stdout for id in ranked)
    for by in ("block", "head", "level"):
        done = call(study, "--trial", ranked.iloc[0], "-o", out, "--pictures", 2, "--by", by)
        assert done.exit_code == 0, done.stderr
    few = call(study, "--best", 9, "--pictures", 2)
    assert few.exit_code == 0 and "4 trials have kept weights, fewer than 9" in few.stderr


def test_what_cannot_be_done_is_one_message_and_exit_code_2(study, tmp_path):
    lamp, rex = row_of(study, "subject/lamp")["id"], row_of(study, "subject/rex")["id"]
    reference = study.results("reference")["id"].iloc[0]
    for words, said in (
        ((), "give either --trial ID or --best N"),
        (("--trial", lamp, "--best", 1), "give either --trial ID or --best N"),
        (("--trial", "nothing"), "no trial of words"),
        (("--trial", reference), "it is the untuned backbone, or they were not kept"),
        (("--trial", rex, "--prompt", 1), "prompt 1: subject/rex has 1"),
        (("--trial", lamp, "-o", tmp_path / "maps.jpg"), "expected .png"),
        (("--trial", lamp, "-o", tmp_path / "none" / "maps.png"), "a folder that is there"),
    ):
        done = call(study, *words)
        assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
