"""`adapter-study noise-difference`: a trial's maps from its kept weights, alone and packed; the command's words."""

import json

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import adapters
from study import plan
from study.cli import noise_difference as cli
from study.cli.main import guarded
from study.loaded import Worker
from study.noise_difference import PICTURES, TIMESTEPS, noise_difference, of_kept, subject_maps, with_class_pictures
from study.pack import run_pack
from study.study import Study
from study.trial import TrialResult
from tests.study import tiny

PROTOCOL = {
    "steps": 4, "sampling_steps": 2, "pictures": 2, "prior_pictures": 3, "batch": 1, "learning_rate": 1e-2,
}  # fmt: skip


def sections(root) -> dict:
    return {
        "name": "words",
        "backbone": str(tiny.pipeline_folder(root)),
        "factors": {"input": ["SA_in", "CA_out"], "output": ["FFN_in", "Trans_out"]},
        "fixed": {"method": "adapter", "width": 2},
        "tasks": [{"name": "rex", "pictures": "rex", "class": "robot", "prompts": ["a photo of a {} on grass"]}],
        "seeds": 2,
        "protocol": PROTOCOL,
        "scores": {"clip_i": str(tiny.clip_folder(root))},
        "keep": "all",
        "store": str(root / "store"),
    }


@pytest.fixture(scope="module")
def worker():
    return Worker("cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory, worker):
    """A study that was run in this process, its adapters kept, two trials trained together."""
    root = tmp_path_factory.mktemp("words")
    (root / "rex").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(root / "rex" / f"{index}.png")
    made = sections(root)
    (root / "words.yaml").write_text(json.dumps(made))
    study = Study.load(root / "words.yaml")
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


def explicit(study: Study, worker: Worker, row: dict) -> float:
    """The size, by the definition: one picture and one timestep at a time."""
    spec = study.config.tasks[0]
    backbone = worker.backbone(str(study.config.backbones[0].path), "float32")
    task = worker.task(spec, backbone, study.config.protocol, str(study.store.folder))
    insertion = adapters.load(backbone.pipeline, study.store.adapter(row["id"]))
    difference = prediction = 0.0
    from study.sampling import start_latents

    noise, _ = start_latents(backbone, 0, spec.content_hash(), "noise difference", 3)
    with torch.no_grad():
        for step in range(TIMESTEPS):
            time = torch.tensor([(2 * step + 1) * 1000 // 16])
            for n in range(3):
                noisy = backbone.noiser.add_noise(task.prior[n : n + 1], noise[n : n + 1], time)
                texts = ("a photo of a sks robot", "a photo of a robot")
                under = [
                    backbone.pipeline.unet(
                        noisy, time, backbone.pipeline.encode_prompt(text, "cpu", 1, False)[0]
                    ).sample
                    for text in texts
                ]
                difference += float((under[0] - under[1]).square().sum())
                prediction += float(under[1].square().sum())
    insertion.remove()
    return (difference / prediction) ** 0.5


def test_a_trial_s_size_is_that_of_the_definition(study, worker):
    rows = study.results()
    sizes = [maps.size for maps in of_kept(study, rows, worker)]
    known = [explicit(study, worker, row) for row in rows.to_dict("records")]
    assert sizes == pytest.approx(known, rel=1e-4)
    assert len({round(size, 6) for size in sizes}) == len(sizes)


def test_adapters_of_a_pack_get_the_numbers_they_get_alone(study, worker):
    rows = study.results()
    backbone = worker.backbone(str(study.config.backbones[0].path), "float32")
    task = worker.task(study.config.tasks[0], backbone, study.config.protocol, str(study.store.folder))
    states = [adapters.files.read_state(backbone.pipeline, study.store.adapter(id)) for id in rows["id"]]
    insertion = adapters.insert(backbone.denoiser, [json.loads(text) for text in rows["design_json"]])
    try:
        for slot, state in enumerate(states):
            insertion.load(slot, state)
        packed = [subject_maps(task, task.prior, slot=slot, rows=insertion.rows) for slot in range(len(rows))]
    finally:
        insertion.remove()
    for one, other in zip(packed, of_kept(study, rows, worker), strict=True):
        np.testing.assert_allclose(one.difference, other.difference, rtol=1e-4, atol=1e-7)
        assert one.size == pytest.approx(other.size, rel=1e-5)
        assert one.pictures == 3 < PICTURES


def test_class_pictures_are_those_of_the_prior_whatever_its_weight(study, worker):
    protocol = study.config.protocol
    without = protocol.model_copy(update={"prior_weight": 0.0})
    backbone = worker.backbone(str(study.config.backbones[0].path), "float32")
    spec, store = study.config.tasks[0], str(study.store.folder)
    assert not len(worker.task(spec, backbone, without, store).prior)
    drawn = worker.task(spec, backbone, with_class_pictures(without), store).prior
    assert torch.equal(drawn, worker.task(spec, backbone, protocol, store).prior)
    assert with_class_pictures(protocol) is protocol


def test_the_backbone_is_left_as_it_was(study, worker):
    denoiser = worker.backbone(str(study.config.backbones[0].path), "float32").denoiser
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    list(of_kept(study, study.results().head(2), worker))
    after = denoiser.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_the_best_for_people_with_the_untuned_backbone_and_a_figure(study, tmp_path, worker):
    done = call(study, "--best", 2, "-o", tmp_path / "maps.png")
    assert done.exit_code == 0, done.stderr
    rows = study.results().sort_values("clip_i", ascending=False).head(2)
    for id in rows["id"]:
        assert id[:12] in done.stdout
    sizes = [maps.size for maps in of_kept(study, rows, worker)]
    assert all(f"{size:.5g}" in done.stdout for size in sizes)
    assert "untuned backbone" in done.stdout and "3 class pictures" in done.stdout
    assert "Is noise_difference larger" not in done.stdout  # the best say nothing of the others
    with Image.open(tmp_path / "maps.png") as figure:
        assert figure.format == "PNG" and min(figure.size) > 300


def test_all_trials_answer_the_question_as_one_json_document(study, worker):
    done = call(study, "--best", 9, "--error", "residual", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    rows = study.results()
    sizes = dict(zip(rows["id"], (maps.size for maps in of_kept(study, rows, worker)), strict=True))
    told = {row["id"]: row["size"] for row in document["trials"] if row["design"] != "untuned backbone"}
    assert told == pytest.approx(sizes)
    assert len(document["trials"]) == len(rows) + 1 and len(document["trials"][0]["timesteps"]) == TIMESTEPS
    mean = rows.assign(size=rows["id"].map(sizes)).groupby("input")["size"].mean()
    answer = document["answer"]
    assert answer["contrasts"][0]["estimate"] == pytest.approx(mean["CA_out"] - mean["SA_in"])
    assert answer["n"] == len(rows) and answer["reads"] == ["CA_out"]
    assert "8 trials have kept weights, fewer than 9" in done.stderr


def test_a_trial_is_named_by_the_beginning_of_its_id_and_may_be_the_untuned_backbone(study):
    id = study.results()["id"][1]
    document = json.loads(call(study, "--trial", id[:10], "--json", "--pictures", 1).stdout)
    assert [row["id"] for row in document["trials"]][0] == id and document["trials"][0]["pictures"] == 1
    assert document["answer"] is None
    reference = study.results("reference")["id"][0]
    document = json.loads(call(study, "--trial", reference, "--json").stdout)
    assert [row["design"] for row in document["trials"]] == ["untuned backbone"]


def test_from_python_all_kept_trials_are_shown_beside_the_untuned_backbone(study, worker):
    found = noise_difference(study, error="residual")
    rows, frame = study.results(), found.to_frame().set_index("id")
    sizes = dict(zip(rows["id"], (maps.size for maps in of_kept(study, rows, worker)), strict=True))
    assert frame["size"][list(sizes)].to_dict() == pytest.approx(sizes)
    assert list(frame["design"]).count("untuned backbone") == 1 and len(frame) == len(rows) + 1
    assert set(found.shown()["id"]) == {id[:12] for id in frame.index}
    assert found.answer is not None and found.answer.explain() in found.explain()
    assert len(found.plot().axes) == len(frame) * TIMESTEPS + 1  # and the scale of colours
    page = found._repr_html_()
    assert "<table" in page and "untuned backbone" in page and "Is noise_difference larger" in page


@pytest.mark.parametrize(
    "words, told",
    [
        (("--trial", "a", "--best", 1), "--trial or --best, not both"),
        (("--trial", "zz"), "no trial of words"),
        (("--trial", ""), "10 trials of words"),
        (("--best", 1, "-o", "maps.jpg"), "expected .png"),
        (("--best", 1, "-o", "nowhere/maps.png"), "a folder that is there"),
        ((), "no trial of words"),
    ],
)
def test_faults_are_one_message(study, words, told):
    done = call(study, *words)
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_weights_that_were_not_kept_are_said_to_be_missing(study, tmp_path):
    """The same plan and rows in another store, without weights."""
    other = Study.load(study.store.folder.parent / "words.yaml", tmp_path / "store")
    for trial in other.trials:
        other.store.commit(TrialResult(trial, "done", scores={"clip_i": 0.5}), "words")
    for words in (("--best", 1), ("--trial", other.results()["id"][0])):
        done = call(study, *words, "--store", other.store.folder)
        assert done.exit_code == 2 and "with `keep: all` a run keeps those of every trial" in done.stderr
