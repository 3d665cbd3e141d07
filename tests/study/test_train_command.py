"""The command `train`: one adapter from a recipe and a folder of pictures, whole or not at all."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from adapters.faults import InputFault
from study import recipe as recipes
from study import trained_adapter
from study.loaded import Worker
from study.pack import run_pack
from study.tasks import resolve_task
from study.training import Trained
from study.trial import Pack, Trial
from tests.study import tiny
from tests.study.one_adapter import PROMPT, RECIPE, adapter_study, files, generate, make_home, make_place, pixels, train

ROOT = Path(__file__).resolve().parents[2]
DESIGNS = {
    "position": "{method: adapter, input: SA_in, output: FFN_in, width: 3}",
    "text encoder": "{method: lora, rank: 2, text_encoder: true}",
    "penalty": "{method: tlora, transform_rank: 2, residual_rank: 1}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def place(home, tmp_path, monkeypatch):
    return make_place(home, tmp_path, monkeypatch)


def test_train_says_what_it_did_and_the_command_it_prints_draws_a_picture(home, place):
    said = (home / "said.txt").read_text().splitlines()
    weights = load_file(place / "my" / "adapter.safetensors")
    assert f"{sum(value.numel() for value in weights.values()):,} parameters" in said[0] and "final loss" in said[0]
    words = shlex.split(said[-1])
    assert words[:2] == ["adapter-study", "generate"] and PROMPT in words
    assert adapter_study(*words[1:]).exit_code == 0
    assert pixels(place / "out.png").shape == (tiny.SIZE, tiny.SIZE, 3)


def test_from_python_the_same_adapter_is_trained_shown_and_saved(home, place):
    spec = resolve_task({"name": "toy", "pictures": "toy", "class": "robot"}, place)
    trained = trained_adapter.train_adapter(recipes.read(place / "small.yaml"), spec)
    trained.save(place / "python")
    trained.save(place / "python")  # an adapter is replaced
    assert files(place / "python")["adapter.safetensors"] == files(place / "my")["adapter.safetensors"]
    row = trained.to_frame().iloc[0]
    assert row["parameters"] == sum(value.numel() for value in trained.state.values()) and row["class"] == "robot"
    assert f"{row['parameters']:,} parameters" in trained.explain() and "<table" in trained._repr_html_()
    with pytest.raises(InputFault, match="no adapter"):
        trained.save(place / "toy")
    diverged = replace(trained, training=Trained(diverged="the loss is not finite"))
    with pytest.raises(InputFault, match="the loss is not finite.*lower learning_rate"):
        diverged.save(place / "diverged")
    assert not (place / "diverged").exists() and len(list((place / "toy").iterdir())) == 3


def test_adapter_folder_says_how_it_was_made(home):
    metadata = json.loads((home / "my" / "adapter.json").read_text())["metadata"]
    read = recipes.read(home / "small.yaml")
    expected = {"recipe": "small", "backbone": str(home / "tiny-epsilon-0"), "token": "sks", "class": "robot",
                "instance_prompt": "a photo of a sks robot", "pictures": 3, "seed": 0,
                "protocol": read.protocol.model_dump(mode="json")}  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["backbone_hash"] == Worker("cpu").backbone(str(home / "tiny-epsilon-0"), "float32").hash
    assert metadata["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("design", DESIGNS)
def test_weights_are_those_of_a_trial(place, tmp_path, design):
    text = RECIPE.format(backbone="tiny-epsilon-0").replace(DESIGNS["position"], DESIGNS[design])
    assert DESIGNS[design] in text
    (place / "recipe.yaml").write_text(text)
    assert train(recipe="recipe.yaml").exit_code == 0
    # The referee: a study's own way through `run_pack`, which scores too.
    read, worker = recipes.read(place / "recipe.yaml"), Worker()
    spec = resolve_task({"name": "toy", "pictures": "toy", "class": "robot"}, place)
    folder = str(read.backbone.path)
    trial = Trial("tiny", read.design, spec.name, 0, read.protocol, task_hash=spec.content_hash(),
                  backbone_hash=worker.backbone(folder, "float32").hash)  # fmt: skip
    scores, results = {"dino_i": str(tiny.dino_folder(tmp_path))}, []
    run_pack(Pack((trial,), folder, {spec.name: spec}, scores, "all", str(tmp_path)), worker, results.append)
    assert results[0].status == "done", results[0].error
    weights = load_file(place / "new" / "adapter.safetensors")
    assert weights.keys() == results[0].adapter.keys()
    assert all(torch.equal(weights[name], results[0].adapter[name]) for name in weights)
    assert generate(adapter="new").exit_code == 0


def test_class_pictures_are_kept_in_the_users_cache_and_drawn_once(home, place):
    (kept,) = (home / "cache" / "adapter-study").iterdir()
    before = kept.stat().st_mtime_ns
    assert train("--seed", 1).exit_code == 0
    assert list((home / "cache" / "adapter-study").iterdir()) == [kept] and kept.stat().st_mtime_ns == before
    assert files(place / "new")["adapter.safetensors"] != files(place / "my")["adapter.safetensors"]


def test_without_a_usable_cache_folder_a_temporary_one_serves(place, monkeypatch):
    (place / "no-folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "no-folder"))
    assert train().exit_code == 0
    assert files(place / "new")["adapter.safetensors"] == files(place / "my")["adapter.safetensors"]


def test_class_word_the_backbone_never_saw_is_warned_about_once(place):
    ended = adapter_study("train", "small.yaml", "--pictures", "toy", "--class", "zeppelin", "-o", "new")
    assert ended.exit_code == 0
    assert "spells 'zeppelin' letter by letter" in ended.stderr and ended.stderr.count("zeppelin") == 1
    known = train(out="other")
    assert known.exit_code == 0 and "robot" not in known.stderr


def test_diverged_training_is_told_and_writes_nothing(place):
    (place / "wild.yaml").write_text(
        RECIPE.format(backbone="tiny-epsilon-0").replace("2e-1", "1e30").replace("width: 3", "width: 3, scale: 1e9")
    )
    before = sorted(place.iterdir())
    ended = train(recipe="wild.yaml")
    assert ended.exit_code == 1 and "diverged" in ended.stderr and "learning_rate" in ended.stderr
    assert ended.stdout == "" and sorted(place.iterdir()) == before


def test_too_little_memory_is_told_and_writes_nothing(place, monkeypatch):
    def unlucky(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("study.trained_adapter.train", unlucky)
    before = sorted(place.iterdir())
    ended = train()
    assert ended.exit_code == 1 and "memory" in ended.stderr and "`batch`" in ended.stderr
    assert "Traceback" not in ended.stderr and sorted(place.iterdir()) == before


def test_overwrite_replaces_an_adapter_and_nothing_else(place):
    old = files(place / "my")
    assert train(out="my").exit_code == 2 and files(place / "my") == old
    assert train("--seed", 3, "--overwrite", out="my").exit_code == 0
    assert files(place / "my")["adapter.safetensors"] != old["adapter.safetensors"]
    (place / "my" / "diary.txt").write_text("dear")
    kept = files(place / "my")
    ended = train("--overwrite", out="my")
    assert ended.exit_code == 2 and "diary.txt" in ended.stderr and files(place / "my") == kept


def test_empty_folder_takes_an_adapter(place):
    (place / "new").mkdir()
    assert train().exit_code == 0 and sorted(files(place / "new")) == ["adapter.json", "adapter.safetensors"]


WRONG_TRAIN = {
    "no recipe": (["positon", "--pictures", "toy", "--class", "robot", "-o", "new"], "no recipe 'positon'"),
    "recipe": (["wrong.yaml", "--pictures", "toy", "--class", "robot", "-o", "new"], "2 faults"),
    "no folder": (["small.yaml", "--pictures", "toys", "--class", "robot", "-o", "new"], "is no folder"),
    "no picture": (["small.yaml", "--pictures", "my", "--class", "robot", "-o", "new"], "holds no picture"),
    "broken": (["small.yaml", "--pictures", "broken", "--class", "robot", "-o", "new"], "a.png"),
    "class": (["small.yaml", "--pictures", "toy", "--class", " ", "-o", "new"], "class is ' '"),
    "token": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "new", "--token", ""], "token is ''"),
    "seed": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "new", "--seed", "-1"], "--seed"),
    "taken": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "my"], "--overwrite"),
    "pictures": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "toy", "--overwrite"], "0.png"),
    "file": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "small.yaml"], "is a file"),
    "parent": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "no/new"], "no folder that can be"),
    "backbone": (["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "new", "--backbone", "x"], "'x'"),
    "weightless": (
        ["small.yaml", "--pictures", "toy", "--class", "robot", "-o", "new", "--backbone", "arch:sd15"],
        "has no weights",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_TRAIN)
def test_wrong_input_to_train_is_one_message_and_nothing_written(place, wrong):
    words, word = WRONG_TRAIN[wrong]
    (place / "wrong.yaml").write_text("design: {method: adapter, input: SA, output: FFN_in, width: 3}\nprotocoll: {}\n")
    (place / "broken").mkdir()
    (place / "broken" / "a.png").write_bytes(b"no picture")
    before = files(place)
    ended = adapter_study("train", *words)
    assert ended.exit_code == 2 and word in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stdout == "" and files(place) == before and not (place / "new").exists()


@pytest.mark.parametrize("words", [["train", "positon", "--pictures", "toy", "--class", "robot", "-o", "new"],
                                   ["generate", "my", "--prompt", "x", "-o", "out.gif"]])  # fmt: skip
def test_wrong_input_is_told_before_torch_is_imported(place, words):
    code = (
        "import sys\nfrom study.cli.main import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert ended.stdout.split() == ["2", "False"], ended.stderr


def test_interrupted_training_exits_with_130_and_writes_nothing(place, monkeypatch):
    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)

    before = files(place)
    monkeypatch.setattr(trained_adapter, "train", interrupted)
    ended = train()
    assert ended.exit_code == 130 and "interrupted" in ended.stderr and files(place) == before
    assert not (place / "new").exists()


@pytest.mark.parametrize("out", ["new", "my"])
@pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
def test_interrupted_writing_leaves_what_was_there(place, monkeypatch, out, call):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)

    trained = {"my": files(place / "my")}
    with monkeypatch.context() as patch:
        patch.setattr(os, call, interrupted)
        ended = train("--seed", 4, "--overwrite", out=out)
    assert ended.exit_code == 130, ended.output
    assert sorted(path.name for path in place.iterdir()) == ["my", "small.yaml", "tiny-epsilon-0", "toy"]
    assert files(place / "my") == trained["my"]


def kill_at_call(number: int) -> None:
    """Make this process kill itself before the n-th call that changes what is on the disk."""
    left = [number]

    def counted(call):
        def run(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return run

    for name in ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("there, outcomes", [(False, {"none", "new"}), (True, {"old", "none", "new"})])
def test_kill_at_any_moment_of_the_writing_leaves_no_adapter_or_a_whole_one(place, monkeypatch, there, outcomes):
    true, done = trained_adapter.train_adapter, []
    monkeypatch.setattr(trained_adapter, "train_adapter", lambda *given: done.append(true(*given)) or done[0])
    assert train("--seed", 4, out="reference").exit_code == 0
    monkeypatch.setattr(trained_adapter, "train_adapter", lambda *given: done[0])
    whole = {"old": files(place / "my"), "new": files(place / "reference")}
    seen = []
    for number in range(1, 60):
        out = f"case-{number}"
        if there:
            shutil.copytree(place / "my", place / out)
        child = os.fork()
        if child == 0:
            kill_at_call(number)
            os._exit(train("--seed", 4, "--overwrite", out=out).exit_code)
        _, status = os.waitpid(child, 0)
        found = files(place / out) if (place / out).exists() else None
        (name,) = (name for name, content in {"none": None, **whole}.items() if content == found)
        seen.append(name)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert status == 0 and set(seen) == outcomes and seen[-1] == "new"


@pytest.mark.slow
def test_shipped_recipe_teaches_the_built_in_model_a_subject(tmp_path, monkeypatch):
    from study.scoring import load_scorer
    from study.world import SUBJECTS

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("toy").mkdir()
    subject = SUBJECTS["robot-2"]
    for index, picture in enumerate(subject.pictures()):
        Image.fromarray(picture).save(f"toy/{index}.png")
    assert train(recipe="position", out="my").exit_code == 0
    judge = load_scorer("micro-dino", "cpu")
    real = judge.images(np.stack(subject.pictures()))

    def likeness(drawn: list[np.ndarray]) -> float:
        return float((judge.images(np.stack(drawn)) @ real.T).mean())

    base, metadata = trained_adapter.backbone_of(Path("my"))
    untuned = list(trained_adapter.draw(base, PROMPT, 8, 0, metadata.protocol))
    assert generate("--count", 8).exit_code == 0
    tuned = [np.asarray(Image.open(f"out-{index}.png")) for index in range(8)]
    # The gate (docs/builtin.md) closes .65 of the way from the untuned backbone to full tuning in half the steps.
    assert likeness(tuned) > likeness(untuned) + 0.3
