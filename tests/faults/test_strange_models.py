"""Model folders of strangers: nothing in them is executed or unpickled. Each tries to make a file, the canary."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapters.faults import InputFault
from study import plan
from study.backbones.loading import load
from study.backbones.names import commit_of, fetch, resolve
from study.provenance import provenance
from study.scoring import load_scorer
from tests.faults.test_strangers import Evil
from tests.study import fakes, tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **values}))


def code(file: Path, canary: Path) -> None:
    """Write a module that makes the canary when it is imported, and has every class one may ask for."""
    file.write_text(f"open({str(canary)!r}, 'w')\nclass X:\n    pass\nclass CLIPTokenizer(X):\n    pass\n")


def pipeline_of_its_own(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    change(folder / "model_index.json", _class_name=["evil", "X"])


def pipeline_named_beside(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    code(folder / "pipeline.py", canary)
    change(folder / "model_index.json", custom_pipeline="evil", _custom_pipeline="evil", extra=["diffusers", "X"])


def library_of_its_own(folder: Path, canary: Path) -> None:
    code(folder / "text_encoder" / "evil.py", canary)
    change(folder / "model_index.json", text_encoder=["evil", "X"])


def unknown_component(folder: Path, canary: Path) -> None:
    (folder / "evil").mkdir()
    code(folder / "evil" / "evil.py", canary)
    change(folder / "model_index.json", evil=["evil", "X"])


def module_called_as_a_library(folder: Path, canary: Path) -> None:
    code(folder / "tokenizer" / "transformers.py", canary)


def pipeline_within(folder: Path, canary: Path) -> None:
    change(folder / "model_index.json", text_encoder=["diffusers", "DiffusionPipeline"])
    pipeline_of_its_own(folder / "text_encoder", canary)


def auto_classes(folder: Path, canary: Path) -> None:
    code(folder / "text_encoder" / "evil.py", canary)
    change(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.X", "AutoConfig": "evil.X"})
    change(folder / "model_index.json", text_encoder=["transformers", "AutoModel"])


def auto_tokenizer(folder: Path, canary: Path) -> None:
    code(folder / "tokenizer" / "evil.py", canary)
    change(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", None]})
    change(folder / "model_index.json", tokenizer=["transformers", "AutoTokenizer"])


def library_s_other_things(folder: Path, canary: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "utils"])


def pickled_weights(folder: Path, canary: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)))


def pickle_called_safetensors(folder: Path, canary: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps(Evil(canary)))


def shards_elsewhere(folder: Path, canary: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "w.safetensors")
    change(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json", weight_map={"a": "../w.safetensors"})


def adapter_beside_the_weights(folder: Path, canary: Path) -> None:
    change(folder / "text_encoder" / "adapter_config.json", peft_type="LORA", base_model_name_or_path="/elsewhere")
    (folder / "text_encoder" / "adapter_model.bin").write_bytes(pickle.dumps(Evil(canary)))


REFUSED: list[Callable[[Path, Path], None]] = [
    pipeline_of_its_own, library_of_its_own, unknown_component, module_called_as_a_library, pipeline_within,
    auto_classes, auto_tokenizer, library_s_other_things, pickled_weights, pickle_called_safetensors, shards_elsewhere,
    adapter_beside_the_weights,
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return tiny.pipeline_folder(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_model_folder_with_code_or_pickles_is_refused_and_nothing_runs(folder, tmp_path, make):
    make(folder, tmp_path / "canary")
    with pytest.raises(InputFault):
        load(str(folder))
    assert not (tmp_path / "canary").exists()


def test_code_that_nothing_asks_for_is_left_alone(folder, tmp_path, capsys):
    """Hints at code that other programs follow, beside sound weights: the model is loaded, and none is followed."""
    canary = tmp_path / "canary"
    pipeline_named_beside(folder, canary)
    code(folder / "text_encoder" / "evil.py", canary)
    change(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.X"})
    change(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.X"}, _module="evil")
    change(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", None]})
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)))
    assert load(str(folder)).embed(["a robot"]).isfinite().all()
    assert not canary.exists()


@pytest.mark.parametrize("broken", ["auto_map", "pickle", "adapter"])
def test_scorer_folder_with_code_or_pickles_is_refused_and_nothing_runs(tmp_path, broken):
    folder, canary = tiny.dino_folder(tmp_path), tmp_path / "canary"
    code(folder / "evil.py", canary)
    if broken == "auto_map":
        change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.X", "AutoModel": "evil.X"})
    elif broken == "pickle":
        (folder / "model.safetensors").rename(folder / "x")
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)))
    else:
        change(folder / "adapter_config.json", base_model_name_or_path="/elsewhere", peft_type="LORA")
    with pytest.raises(InputFault):
        load_scorer(str(folder))
    assert not canary.exists()


def test_model_of_the_hub_is_recorded_and_handed_on_by_its_commit(monkeypatch, tmp_path):
    """A branch may move between planning and training, and after: rows, packs, recipes and adapters name the commit."""
    there = tmp_path / "models--org--model" / "snapshots" / COMMIT
    fakes.pipeline(there, "StableDiffusionPipeline")
    asked = []

    def gives(id, revision, **named):
        asked.append(revision)
        assert all(pattern.endswith((".safetensors", ".json", ".txt", ".model")) for pattern in named["allow_patterns"])
        return there

    monkeypatch.setattr("huggingface_hub.snapshot_download", gives)
    source = resolve("org/model")
    fetch(source)
    assert commit_of(source) == COMMIT and commit_of(resolve("micro-unet")) is None
    assert plan.address(source) == {"id": "org/model", "revision": COMMIT}
    pinned = resolve(plan.address(source))
    fetch(pinned)
    assert asked[-1] == COMMIT
    row = json.loads(provenance(torch.device("cpu"), (source, resolve("micro-unet")))["versions_json"])
    assert row["org/model"] == COMMIT and "micro-unet" not in row
