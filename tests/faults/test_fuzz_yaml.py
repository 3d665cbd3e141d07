"""Hostile study files and recipes: one message, or a study that is sound in every part."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from adapters.designs import normalise
from study import config, plan, recipe
from study.config import Protocol, StudyConfig
from study.space import text
from study.store import Store
from study.trial import Pack, Trial
from tests.faults.fuzzing import THOUSANDS, fuzz
from tests.faults.mutators import yaml_bytes
from tests.study import fakes

PROTOCOL = {"steps": 3, "learning_rate": 1e-3, "batch": 2, "pictures": 2, "guidance": 4, "sampler": "ddim"}
WORLD = {
    "name": "world",
    "backbone": "micro-unet",
    "factors": {"method": ["lora", "adapter", "krona"], "budget": ["1%", "5%"]},
    "nested": [{"when": {"method": "adapter"}, "factors": {"input": ["SA_in", "CA_c"], "output": ["FFN_in"]}}],
    "forbid": [{"method": "lora", "budget": "5%"}],
    "tasks": ["subject/robot"],
    "tune": {"tasks": ["subject/cake"], "grid": {"learning_rate": [1e-3, 3e-3]}, "by": ["method"], "seeds": [1]},
    "seeds": [0, 3],
    "protocol": PROTOCOL,
    "protocol_by": {"method": {"krona": {"learning_rate": 5e-4}}},
    "scores": {"clip_i": "micro-clip", "colour": "world"},
    "primary": "clip_i",
    "keep": "best",
    "store": "runs/world",
}
SEARCHED = {
    **fakes.SECTIONS,
    "tune": {"tasks": [{"name": "jim", "pictures": "photos", "class": "cow"}], "by": ["method"],
             "ranges": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "steps": {"low": 1, "high": 9}},
             "strategy": {"kind": "optuna", "trials": 6, "sampler": "tpe", "seed": 1}},
    "confirm": {"tasks": [{"name": "ann", "pictures": "photos", "class": "sheep", "prompts": ["a {} here"]}],
                "seeds": 2, "margin": 0.02, "against": ["lora", "full"], "learning_rates": {"full": 1e-4}},
    "strategy": {"kind": "refine", "start": 3, "trials": 40},
    "resources": {"partition": "gpu", "time": "8h", "gpus": 1, "memory": "16G"},
    "store": "runs/searched",
}  # fmt: skip
SUBSET = {**fakes.SECTIONS, "strategy": {"kind": "subset", "size": 6, "interactions": "none"}}
STUDIES = [yaml.safe_dump(each, sort_keys=False) for each in (fakes.SECTIONS, WORLD, SEARCHED, SUBSET)]
RECIPES = [
    (recipe.SHIPPED / "position.yaml").read_text(encoding="utf-8"),
    yaml.safe_dump(
        {"name": "r", "backbone": "micro-unet", "design": {"method": "lora", "rank": 4, "targets": "attention"},
         "protocol": PROTOCOL, "evidence": {"clip_i": [0.7, 0.8]}, "provenance": {"study": "quick"}},
        sort_keys=False,
    ),
    yaml.safe_dump({"design": {"method": "peft", "kind": "waveft", "n_frequency": 100, "wavelet_family": "db1"}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    fakes.folders(folder)
    return folder


def read_study(root: Path, rng: random.Random) -> None:
    """Write and read a hostile study file; what is read can be planned, handed to a worker and stored."""
    file = root / "hostile.yaml"
    file.write_bytes(yaml_bytes(rng.choice(STUDIES), rng))
    found = config.read(file)
    check_study(found)


def check_study(found: StudyConfig) -> None:
    """Assert that a study is sound: it is what a sound file says, and what is planned from it can be done."""
    designs = found.space.designs
    assert designs and all(normalise(design) == design for design in designs)
    assert len({json.dumps(design, sort_keys=True) for design in designs}) == len(designs)
    assert Protocol.model_validate(found.protocol.model_dump()) == found.protocol
    assert found.seeds and len(set(found.seeds)) == len(found.seeds) and all(0 <= seed < 2**63 for seed in found.seeds)
    assert set(found.scores) and found.primary in found.scores
    for task in found.tasks:
        assert type(task).from_json(json.loads(json.dumps(task.to_json()))) == task
    for source in found.backbones:
        if source.kind == "hub":
            return  # its trials have no identity before it has been downloaded
    Path(found.store).exists()  # which raises where no file could be called so
    trials = plan.trials(found, [])[:3] if found.tune is None else []
    for trial in trials:
        assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
        assert all(len(text(level)) < 1000 for level in trial.design.values())
    if trials:
        pack = plan.packs(found, trials, {}, "store")[0]
        again = Pack.from_json(pack.to_json())
        assert [trial.id for trial in again.trials] == [trial.id for trial in pack.trials]
    assert Store(Path(found.store)).folder.name


def read_recipe(root: Path, rng: random.Random) -> None:
    """Write and read a hostile recipe; what is read says the same when it is written and read again."""
    file = root / "hostile-recipe.yaml"
    file.write_bytes(yaml_bytes(rng.choice(RECIPES), rng))
    found = recipe.read(file)
    assert normalise(found.design) == found.design and found.design["method"] != "none"
    assert Protocol.model_validate(found.protocol.model_dump()) == found.protocol
    given = {"name": found.name, "backbone": plan.address(found.backbone), "design": found.design,
             "protocol": found.protocol.model_dump(mode="json")}  # fmt: skip
    (root / "again.yaml").write_text(yaml.safe_dump(given, allow_unicode=True), encoding="utf-8")
    again = recipe.read(root / "again.yaml")
    assert asdict(again) | {"backbone": None} == asdict(found) | {"backbone": None}


TARGETS = {"study": read_study, "recipe": read_recipe}


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=THOUSANDS)])
@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_yaml_is_one_message_or_sound(root, kind, count):
    told = fuzz(kind, range(count), lambda rng: TARGETS[kind](root, rng))
    print(told)
    assert told.failures == [], told.failures[0]
    assert told.accepted and told.refused
