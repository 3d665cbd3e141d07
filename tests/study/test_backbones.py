import json
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from adapters.faults import InputFault
from study.backbones import content_hash, load, resolve, resolve_scorer
from study.backbones.names import unknown_words
from tests.study import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.pipeline_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load(str(folder))


@pytest.fixture
def broken(tmp_path):
    """A sound folder of its own, for a test to break."""
    return tiny.pipeline_folder(tmp_path)


def test_half_precision_on_disk_is_float32_in_memory_and_frozen(backbone):
    parameters = [p for m in (backbone.denoiser, backbone.pipeline.vae) for p in m.parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)
    assert backbone.pipeline.safety_checker is None
    assert backbone.size == tiny.SIZE


def test_encode_and_decode_keep_the_scale_of_the_vae(backbone):
    latents = backbone.encode(tiny.pictures())
    # Oracle: the VAE's own calls, written out.
    vae = backbone.pipeline.vae
    with torch.no_grad():
        pixels = torch.from_numpy(tiny.pictures()).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        expected = vae.encode(pixels).latent_dist.mean * 0.5
        seen = ((vae.decode(expected / 0.5).sample / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(backbone.decode(latents).astype(float) - seen).max() <= 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target_follow_the_closed_form(tmp_path, prediction):
    backbone = load(str(tiny.pipeline_folder(tmp_path, prediction)))
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    timesteps = torch.tensor([0, 500, 999])
    # Oracle: x_t = sqrt(a) x + sqrt(1 - a) e; v = sqrt(a) e - sqrt(1 - a) x (2202.00512), a the product of 1 - beta.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = torch.cumprod(1 - betas, 0)[timesteps].view(3, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    torch.testing.assert_close(backbone.noised(latents, noise, timesteps).double(), noisy.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.target(latents, noise, timesteps).double(), target.double(), rtol=0, atol=1e-5)


def test_embedding_equals_the_pipeline_and_can_be_trained_through(backbone):
    prompts = ["a photo of a robot", "", "a photo of a robot"]
    expected = backbone.pipeline.encode_prompt(prompts, "cpu", 1, False)[0]  # oracle: the pipeline's own method
    torch.testing.assert_close(backbone.embed(prompts), expected)
    assert not backbone.embed(prompts).is_inference()


def test_prompts_that_are_cut_off_are_named(backbone):
    assert backbone.too_long(["a robot", "a " * 30]) == ["a " * 30]


def test_hash_depends_on_the_weights_alone_and_not_on_place_or_readme(folder, broken):
    before = content_hash(resolve(str(folder)))
    assert content_hash(resolve(str(broken))) == before
    (broken / "README.md").write_text("a model")
    assert content_hash(resolve(str(broken))) == before
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert content_hash(resolve(str(broken))) != before


def test_unknown_words_are_those_the_tokenizer_spells(folder):
    assert unknown_words(resolve(str(folder)), "red Robot zebra") == ["zebra"]


@pytest.mark.parametrize("name", ["no-such-model", "arch:sd99", "", "a/b/c", {"id": 3}, {"id": "a/b", "rev": "x"}])
def test_an_unknown_name_lists_what_is_known(name):
    with pytest.raises(InputFault, match=r"micro-unet|arch:sd15|id: org/model"):
        resolve(name)


def test_a_built_in_backbone_that_is_not_there_says_what_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("study.backbones.names.BUILTIN", tmp_path)
    with pytest.raises(InputFault, match="micro-dit: there is no folder .*--only generator-dit"):
        resolve("micro-dit")
    with pytest.raises(InputFault, match="micro-unet: there is no folder .*install the package again"):
        resolve("micro-unet")


def test_hub_ids_are_recognised_without_a_download():
    assert resolve("org/model").kind == "hub"
    pinned = resolve({"id": "org/model", "revision": "abc"})
    assert (pinned.id, pinned.revision) == ("org/model", "abc")
    assert resolve(pinned.name) == pinned
    assert resolve_scorer("openai/clip-vit-base-patch32").kind == "hub"


def _lacks_weights(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))


def _names_a_strange_library(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["os", "system"]
    (folder / "model_index.json").write_text(json.dumps(index))


def _is_another_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))


def _has_a_garbage_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _has_no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


BROKEN = {
    _lacks_weights: "pickled weights are not read",
    _names_a_strange_library: "'os'",
    _is_another_pipeline: "KandinskyPipeline",
    _has_a_garbage_index: "no JSON",
    _has_no_index: "model_index.json is missing",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_refused_before_anything_is_loaded(broken, damage):
    damage(broken)
    with pytest.raises(InputFault, match=BROKEN[damage]):
        resolve(str(broken))


def test_garbage_weights_are_one_message(broken):
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputFault, match="diffusion_pytorch_model.safetensors is damaged"):
        load(str(broken))


def test_a_backbone_that_predicts_something_else_is_refused(broken):
    DDPMScheduler(prediction_type="sample", steps_offset=1, clip_sample=False).save_pretrained(broken / "scheduler")
    with pytest.raises(InputFault, match="'sample', expected epsilon or v_prediction"):
        load(str(broken))


def test_names_never_import_torch():
    code = "import sys, study.backbones.names, study.tasks.specs, study.randomness; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
