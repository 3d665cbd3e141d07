"""`adapter-study export`: what diffusers loads draws the same pictures as what was trained."""

import numpy as np
import pytest
import torch

from adapters import insert, load, save
from study.backbones.loading import load as load_backbone
from study.config import Protocol
from tests.study import tiny
from tests.study.one_adapter import adapter_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.pipeline_folder(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(str(folder))


def trained(backbone, design, path):
    """Save an adapter that provably changes pictures."""
    insertion = insert(backbone.denoiser, design, torch.Generator().manual_seed(1), backbone.text_encoder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    metadata = {
        "backbone": str(backbone.source.path),
        "backbone_hash": backbone.hash,
        "protocol": Protocol().model_dump(mode="json"),
    }
    save(path, design, insertion.state(), metadata)
    insertion.remove()
    return path


def pictures(pipeline):
    drawn = pipeline(
        ["a photo of a robot", "a red lamp"],
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    return drawn.images


@pytest.mark.parametrize(
    "design",
    [
        {"method": "lora", "rank": 2},
        {"method": "lora", "rank": 3, "alpha": 1, "rslora": True, "targets": "attention+ff+conv"},
        {"method": "lora", "rank": 2, "alpha": 5, "text_encoder": True},
        {"method": "dora", "rank": 2, "alpha": 4},
    ],
    ids=lambda d: " ".join(map(str, d.values())),
)
def test_load_lora_weights_draws_the_same_pictures(backbone, folder, tmp_path, design):
    path = trained(backbone, design, tmp_path / "adapter")
    untuned = pictures(backbone.pipeline)
    ours = load(backbone.pipeline, path)
    tuned = pictures(backbone.pipeline)
    ours.remove()
    assert np.abs(tuned - untuned).max() > 0.02
    done = adapter_study("export", path, "--format", "diffusers", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    fresh = load_backbone(str(folder)).pipeline
    fresh.load_lora_weights(tmp_path / "out")
    # float32, pictures in [0, 1]
    assert np.abs(pictures(fresh) - tuned).max() < 1e-3


def test_approximation_is_labelled(backbone, tmp_path):
    path = trained(backbone, {"method": "krona", "a1": 2, "a2": 2}, tmp_path / "adapter")
    done = adapter_study("export", path, "--format", "diffusers", "--approximate", 4, "-o", tmp_path / "out")
    assert done.exit_code == 0 and "approximation" in done.stdout and "%" in done.stdout


@pytest.mark.parametrize(
    ("design", "options", "message"),
    [
        ({"method": "krona", "a1": 2, "a2": 2}, ["--format", "diffusers"], "adapters.load(pipe, path)"),
        ({"method": "lora", "rank": 2}, ["--format", "onnx"], "diffusers"),
        ({"method": "lora", "rank": 2}, ["--format", "diffusers", "--approximate", "0"], "approximate"),
    ],
)
def test_wrong_input_is_one_message(backbone, tmp_path, design, options, message):
    path = trained(backbone, design, tmp_path / "adapter")
    done = adapter_study("export", path, *options, "-o", tmp_path / "out")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_backbone_is_refused(backbone, tmp_path):
    path = trained(backbone, {"method": "lora", "rank": 2}, tmp_path / "adapter")
    other = tiny.pipeline_folder(tmp_path, seed=5)
    done = adapter_study("export", path, "--format", "delta", "--backbone", other, "-o", tmp_path / "out")
    assert done.exit_code == 2 and "trained on" in done.stderr and not (tmp_path / "out").exists()
