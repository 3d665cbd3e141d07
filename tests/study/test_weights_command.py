"""`adapter-study weights`: full tuning's trials from their kept weights, and the command's words."""

import json

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import adapters
from adapters.layers import find_layers
from analysis.weight_sources import of_folder, of_pipelines
from analysis.weight_structures import Structure
from analysis.weights import weight_changes
from study import plan
from study.cli import weights as cli
from study.cli.main import guarded
from study.loaded import Worker
from study.pack import run_pack
from study.study import Study
from tests.study import tiny

PROTOCOL = {
    "steps": 2, "sampling_steps": 2, "pictures": 2, "prior_pictures": 2, "batch": 1, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of full tuning on two tasks, and of a LoRA, that was run in this process, its weights kept."""
    root = tmp_path_factory.mktemp("changes")
    sections = {
        "name": "changes",
        "backbone": str(tiny.pipeline_folder(root)),
        "factors": {"method": ["full", "lora"]},
        "nested": [{"when": {"method": "lora"}, "factors": {"rank": [1]}},
                   {"when": {"method": "full"}, "factors": {"part": ["cross_attention_kv"]}}],
        "fixed": {},
        "tasks": ["subject/robot", "subject/lamp"],
        "protocol": PROTOCOL,
        "scores": {"clip_i": str(tiny.clip_folder(root))},
        "keep": "all",
        "store": str(root / "store"),
    }  # fmt: skip
    (root / "changes.yaml").write_text(json.dumps(sections))
    study = Study.load(root / "changes.yaml")
    worker = Worker("cpu")
    for pack in plan.packs(study.config, study.trials, {}, str(study.store.folder), together=1):
        run_pack(pack, worker, lambda result: study.store.commit(result, "changes", keep="all"))
    assert set(study.store.rows()["status"]) == {"done"}
    return study


@pytest.fixture(autouse=True)
def few_structures(monkeypatch):
    """Two structures in place of the eleven that are fitted by default, which have tests of their own."""
    few = (Structure("tlora_star", (1, 1)), Structure("krona", (2, 2)))
    monkeypatch.setattr("analysis.weights.default_structures", lambda shapes: few)


def call(study: Study, *words: object):
    """Run the command on the study in this process."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(cli.command))
    file = study.store.folder.parent / "changes.yaml"
    return CliRunner().invoke(app, [str(file), *(str(word) for word in words)])


def of_method(study: Study, method: str) -> dict:
    rows = study.results()
    return rows[rows["method"] == method].iloc[0].to_dict()


def test_the_best_trials_are_compared_over_their_tasks(study, tmp_path):
    out = tmp_path / "claim.png"
    done = call(study, "--best", 3, "--transforms", 1, "-o", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert "2 trials of full tuning have kept weights, fewer than 3" in done.stderr
    ((name, told),) = json.loads(done.stdout)["designs"].items()
    assert name == "full part cross_attention_kv"
    assert set(told["models"]) == {"subject/robot, seed 0", "subject/lamp, seed 0"}
    assert told["matrices"] == 14  # seven blocks, key and value of each cross-attention; the rest did not change
    assert all(each["lower"] <= each["difference"] <= each["upper"] for each in told["comparisons"])
    with Image.open(out) as figure:
        assert figure.width > 1000


def test_one_trial_is_what_the_weights_of_its_folder_say(study):
    row = of_method(study, "full")
    done = call(study, "--trial", row["id"][:10], "--transforms", 1)
    assert done.exit_code == 0, done.stderr
    pipeline = Worker("cpu").backbone(str(study.config.backbones[0].path), "float32").pipeline
    before = {layer.name: layer.module.weight.detach().clone() for layer in find_layers(pipeline.unet, "attention")}
    pairs = of_folder(pipeline, study.store.adapter(row["id"]))
    expected = weight_changes({f"{row['task']}, seed 0": pairs}, (1,))
    assert expected.explain().splitlines()[0] in " ".join(done.stdout.split())
    # The pipeline is as before, and the folder's own tensors are what it was changed to.
    assert all((layer.module.weight == before[layer.name]).all() for layer in find_layers(pipeline.unet, "attention"))
    insertion = adapters.load(pipeline, study.store.adapter(row["id"]))
    state = insertion.state()
    insertion.remove()
    changed = [name for name, (old, new) in pairs.items() if (old != new).any()]
    assert len(changed) == 14
    assert all((pairs[name][1] == state[f"{name}.weight"].double().numpy()).all() for name in changed)


def test_two_pipelines_are_paired_by_layer(study, tmp_path):
    worker = Worker("cpu")
    first = worker.backbone(str(study.config.backbones[0].path), "float32").pipeline
    second = worker.backbone(str(tiny.pipeline_folder(tmp_path, seed=3)), "float32").pipeline
    pairs = of_pipelines(first, second.unet)
    assert list(pairs) == [layer.name for layer in find_layers(first.unet, "attention")]
    name, (before, after) = next(iter(pairs.items()))
    assert (before == first.unet.get_submodule(name).weight.double().numpy(force=True)).all()
    assert (after == second.unet.get_submodule(name).weight.double().numpy(force=True)).all()
    with pytest.raises(adapters.InputFault, match="kernel is no matrix"):
        of_pipelines(first, second, "attention+conv")
    with pytest.raises(adapters.InputFault, match="the models differ in"):
        of_pipelines(first, first.vae.encoder.mid_block)


def test_what_cannot_be_done_is_one_message_and_exit_code_2(study, tmp_path):
    full, lora = of_method(study, "full")["id"], of_method(study, "lora")["id"]
    reference = study.results("reference")["id"].iloc[0]
    for words, said in (
        ((), "give either --trial ID or --best N"),
        (("--trial", full, "--best", 1), "give either --trial ID or --best N"),
        (("--trial", "nothing"), "no trial of changes"),
        (("--trial", reference), "it is the untuned backbone, or they were not kept"),
        (("--trial", lora), "expected method full, whose change is free"),
        (("--trial", full, "--targets", "conv"), "kernel is no matrix"),
        (("--trial", full, "--targets", "ff"), "none of its"),
        (("--trial", full, "--transforms", "1,x"), "expected ring ranks of at least 1"),
        (("--trial", full, "-o", tmp_path / "maps.jpg"), "expected .png"),
    ):
        done = call(study, *words)
        assert done.exit_code == 2 and said in done.stderr, (words, done.stderr)
    assert not list(tmp_path.iterdir())
