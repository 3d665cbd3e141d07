"""The shipped study of DreamBooth's subjects; the photographs themselves are not part of this repository."""

import re
from pathlib import Path

import numpy as np
import pytest

from adapters.faults import InputFault
from study import Study, config
from study.tasks import prompt_sets, resolve_task
from study.yaml_lines import read_yaml

SHARED = Path(__file__).parents[3] / "shared"
LISTED = SHARED / "data" / "dreambooth" / "prompts_and_classes.txt"
needs_photographs = pytest.mark.skipif(not LISTED.is_file(), reason=f"{LISTED.parent} is not there")


def sections():
    data, _ = read_yaml(config.find("dreambooth"))
    return data


def on_micro_unet(store, subjects, **protocol):
    """The shipped study as somebody would copy and shorten it: on the built-in model, with some of its subjects."""
    scores = {"clip_i": "micro-clip", "clip_t": "micro-clip", "dino_i": "micro-dino", "dinov2_i": "micro-dino"}
    given = sections()
    changes = {
        "backbone": "micro-unet",
        "tasks": [task for task in given["tasks"] if task["name"] in subjects],
        "protocol": {**given["protocol"], **protocol},
        "protocol_by": {},
        "scores": scores,
    }
    return Study(root=SHARED, **{**given, **changes, "store": str(store)})


def test_the_prompts_are_25_for_things_and_25_for_animals():
    for prompts in (prompt_sets.OBJECTS, prompt_sets.LIVE):
        assert len(set(prompts)) == 25 and all(prompt.count("{}") == 1 for prompt in prompts)


@needs_photographs
def test_prompts_and_classes_are_those_of_the_data_set():
    text = LISTED.read_text()
    objects, live = re.split("Live Subject Prompts", text)
    for listed, ours in ((objects, prompt_sets.OBJECTS), (live, prompt_sets.LIVE)):
        assert [each.replace("{0} {1}", "{}") for each in re.findall(r"^'(.*)'\.format", listed, re.M)] == list(ours)
    classes = dict(line.split(",") for line in text.split("Prompts")[0].splitlines() if "," in line)
    classes.pop("subject_name")
    given = {task["name"]: task for task in sections()["tasks"]}
    assert {name: task["class"] for name, task in given.items()} == classes and len(given) == 30
    animals = {name for name, task in given.items() if task["prompts"] == "live"}
    assert animals == {name for name, word in classes.items() if word in ("cat", "dog")} and len(animals) == 9


def test_without_the_photographs_one_line_says_which_folder_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputFault) as fault:
        Study.load("dreambooth")
    told = str(fault.value)
    # Folders of a shipped study are looked for where one is, not inside the package.
    assert told.count(f"there is no folder {tmp_path / 'data' / 'dreambooth'},") == 1 and "and so for 29 more" in told
    assert "models/dino-vits16" in told and len(told.splitlines()) == 3


def test_a_subject_that_lacks_among_others_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputFault, match=r"task dog: pictures: .*data/dog is no folder"):
        resolve_task({"name": "dog", "pictures": "data/dog", "class": "dog"}, tmp_path)


@needs_photographs
def test_the_plan_is_every_method_on_every_subject(tmp_path):
    study = on_micro_unet(tmp_path / "store", {task["name"] for task in sections()["tasks"]})
    assert [len(study.config.tasks), len(study.config.space.designs), len(study.trials)] == [30, 3, 30 * (3 + 1)]
    dog = next(task for task in study.config.tasks if task.name == "subject/dog")
    assert dog.prompt(10) == "a sks dog wearing a red hat" and dog.described(10) == "a dog wearing a red hat"
    assert study.config.protocol.pictures == 4 * len(dog.prompts)


@needs_photographs
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:task subject")  # the built-in model knows no dog, and reads 16 words
def test_two_subjects_go_the_whole_way(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the worker
    few = {"steps": 20, "learning_rate": 1e-3, "prior_pictures": 4, "sampling_steps": 6, "pictures": 6}
    study = on_micro_unet(tmp_path / "store", {"dog", "rc_car"}, precision="float32", **few)
    assert study.run(workers=1).counts == {"done": 2 * (3 + 1)}
    frame = study.results()
    assert len(frame) == 6 and set(frame["status"]) == {"done"}
    for score in ("clip_i", "clip_t", "dino_i", "dinov2_i", "diversity", "loss_heldout"):
        assert np.isfinite(frame[score]).all()
    assert frame["dinov2_i"].tolist() == frame["dino_i"].tolist()  # here both are by one model
    images = study.store.images()
    assert images["dinov2_i"].notna().all()
    dog = images[images["id"].isin(frame[frame["task"] == "subject/dog"]["id"])]
    assert set(dog["prompt"]) == {prompt.replace("{}", "sks dog") for prompt in prompt_sets.LIVE[:6]}
