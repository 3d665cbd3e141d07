"""The command `train` on domains and control tasks: the adapter of a study's trial, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from adapters.faults import InputFault
from study import recipe as recipes
from study.control_encoder import FILE
from study.loaded import Worker
from study.pack import run_pack
from study.store import Store
from study.tasks import resolve_task
from study.trained_adapter import train_adapter
from study.trial import Pack, Trial
from tests.study import tiny
from tests.study.one_adapter import RECIPE, adapter_study, files, generate, pixels

COUNT = 18
DOMAIN = "{kind: domain, pictures: lamps, captions: a lamp}"
CONTROL = "{kind: control, pictures: lamps, maps: maps, captions: a lamp}"
TASKS = {
    "domain": (DOMAIN, []),
    "domain of its own size": (DOMAIN.replace("captions", "size: 64, captions"), []),
    "control": (CONTROL, ["--map", "maps/00.png"]),
}
FEWER = "steps: 12, learning_rate: 2e-1, batch: 1, prior_pictures: 2", "steps: 3, learning_rate: 1e-2, batch: 2"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.pipeline_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(model, tmp_path, monkeypatch):
    """A folder with a recipe, pictures of lamps, and of each the map that is its negative; it is gone to."""
    (tmp_path / "small.yaml").write_text(RECIPE.format(backbone=model).replace(*FEWER))
    for name, pictures in (("lamps", tiny.pictures(COUNT)), ("maps", 255 - tiny.pictures(COUNT))):
        (tmp_path / name).mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{index:02d}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", TASKS)
def test_an_adapter_is_that_of_a_trial_and_draws(place, kind):
    task, options = TASKS[kind]
    ended = adapter_study("train", "small.yaml", "--task", task, "-o", "new")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].endswith("--map map.png -o out.png" if options else "lamp' -o out.png")
    # The referee: a study's own way through `run_pack` and the store, which scores and keeps.
    read, worker, store = recipes.read(place / "small.yaml"), Worker("cpu"), Store(place / "store")
    declared = {"name": "lamps", **dict(part.split(": ") for part in task[1:-1].split(", "))}
    spec = resolve_task({**declared, **({"size": 64} if "size" in declared else {})}, place)
    assert spec.name == f"{spec.kind}/lamps" + ("@64" if "size" in declared else "")
    folder = str(read.backbone.path)
    protocol = read.protocol.model_copy(update={"pictures": 1})  # what is drawn to be scored changes no weight
    trial = Trial(folder, read.design, spec.name, 0, protocol, task_hash=spec.content_hash(),
                  backbone_hash=worker.backbone(folder, "float32").hash)  # fmt: skip
    scores = {"clip_t": str(tiny.clip_folder(place))}
    run_pack(Pack((trial,), folder, {spec.name: spec}, scores, "all", str(place / "store")), worker,
             lambda result: store.commit(result, keep="all"))  # fmt: skip
    assert store.rows()["status"].tolist() == ["done"], store.rows()["error"].tolist()
    kept, made = files(store.adapter(trial.id)), files(place / "new")
    assert kept.keys() == made.keys() and (FILE in kept) == bool(options)
    assert all(kept[name] == made[name] for name in kept if name.endswith(".safetensors"))
    told, expected = (json.loads(each["adapter.json"]) for each in (made, kept))
    assert told["design"] == expected["design"] and told["metadata"]["pictures"] == len(spec.train.captions)
    for key in ("backbone_hash", "task", "seed", "size", "control"):
        assert told["metadata"].get(key) == expected["metadata"].get(key), key

    drawn = []
    for adapter in ("new", store.adapter(trial.id)):
        ended = generate(*options, adapter=str(adapter), prompt="a lamp")
        assert ended.exit_code == 0, ended.stderr
        drawn.append(pixels(place / "out.png"))
    assert drawn[0].shape == (spec.size or tiny.SIZE, spec.size or tiny.SIZE, 3)
    assert np.array_equal(*drawn)


def test_from_python_an_adapter_with_an_encoder_is_saved_and_replaced(place):
    spec = resolve_task({"kind": "control", "name": "lamps", "pictures": "lamps", "maps": "maps",
                         "captions": "a lamp"}, place)  # fmt: skip
    trained = train_adapter(recipes.read(place / "small.yaml"), spec)
    for _ in range(2):
        trained.save(place / "new")
    assert set(files(place / "new")) == {"adapter.json", "adapter.safetensors", FILE}
    assert trained.to_frame().iloc[0]["task"] == "control/lamps" and "learned: control/lamps" in trained.explain()
    assert adapter_study("train", "small.yaml", "--task", DOMAIN, "-o", "new").exit_code == 2
    ended = adapter_study("train", "small.yaml", "--task", DOMAIN, "-o", "new", "--overwrite")
    assert ended.exit_code == 0 and FILE not in files(place / "new"), ended.stderr


def test_a_folder_is_no_size_whatever_it_is_called(place):
    (place / "lamps").rename("lamps@64")
    ended = adapter_study("train", "small.yaml", "--task", DOMAIN.replace("lamps", "lamps@64"), "-o", "new")
    assert ended.exit_code == 0, ended.stderr
    told = json.loads((place / "new" / "adapter.json").read_text())["metadata"]
    assert (told["task"], told["size"]) == ("domain/lamps-64", tiny.SIZE)


def test_a_task_of_the_built_in_world_is_learned_by_its_name(place, monkeypatch):
    monkeypatch.setattr("study.tasks.domain_spec.WORLD_PICTURES", 4)
    monkeypatch.setattr("study.tasks.domain_spec.WORLD_HELD_OUT", 2)
    ended = adapter_study("train", "small.yaml", "--task", "domain/neon", "-o", "new")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads((place / "new" / "adapter.json").read_text())["metadata"]["task"] == "domain/neon"


WRONG = {
    "neither": ([], "neither --pictures nor --task"),
    "both": (["--pictures", "lamps", "--class", "lamp", "--task", "domain/neon"], "both --pictures and --task"),
    "no class": (["--pictures", "lamps"], "--class is missing"),
    "class of a task": (["--task", "domain/neon", "--class", "lamp"], "--class and --token go with --pictures"),
    "token of a task": (["--task", DOMAIN, "--token", "sks"], "--class and --token go with --pictures"),
    "not YAML": (["--task", "{kind: domain"], "--task: line 1: not YAML"),
    "twice": (["--task", "{kind: domain, pictures: lamps, pictures: maps}"], "--task: pictures is there twice"),
    "a number": (["--task", "3"], "task 3: expected subject/robot"),
    "nothing": (["--task", ""], "task None: expected subject/robot"),
    "a list": (["--task", "[domain/neon, domain/pixel]"], "expected subject/robot"),
    "kind": (["--task", "{kind: style, pictures: lamps}"], "task lamps: kind 'style' is unknown"),
    "unknown domain": (["--task", "domain/glow"], "task domain/glow: no domain 'glow'"),
    "unknown key": (["--task", DOMAIN.replace("captions", "caption")], "unknown keys 'caption'"),
    "no folder": (["--task", DOMAIN.replace("lamps", "lambs")], "lambs is no folder"),
    "no maps": (["--task", CONTROL.replace("maps: maps, ", "")], "maps is None, expected a folder"),
    "size": (["--task", DOMAIN.replace("captions", "size: 60, captions")], "whose edge is a multiple of 8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_task_is_one_message_and_nothing_written(place, wrong):
    words, told = WRONG[wrong]
    before = files(place)
    ended = adapter_study("train", "small.yaml", *words, "-o", "new")
    assert ended.exit_code == 2 and told in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stdout == "" and files(place) == before and not (place / "new").exists()


def test_a_task_that_is_no_text_and_no_mapping_is_a_fault(tmp_path):
    with pytest.raises(InputFault, match="task 3: expected subject/robot"):
        resolve_task(3, tmp_path)
