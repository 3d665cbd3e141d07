"""The shipped models: genuine folders that other programs load, small, unpickled, and as good as they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from study.backbones import load
from study.backbones.names import BUILTIN
from study.builtin.train.autoencoder import psnr
from study.builtin.train.measure import generate, generator_accuracy
from study.builtin.train.pool import held_out_pool
from study.builtin.train.scorers import AttributeClassifier
from study.scoring import cosines, load_scorer
from study.world import SUBJECTS

FOLDERS = [BUILTIN / name for name in ("micro-unet", "micro-dit", "micro-clip", "micro-dino")]


def test_weights_are_safetensors_and_all_together_small():
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}
    assert sum(file.stat().st_size for file in [*files, BUILTIN / "attributes.safetensors"]) <= 40e6


def test_any_diffusers_program_loads_the_pipeline_and_draws():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(BUILTIN / "micro-unet", local_files_only=True).to("cpu")
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline("a photo of a red ball on grass", num_inference_steps=2, height=64, width=64).images
    assert picture.size == (64, 64)


def test_micro_dit_is_a_pipeline_of_diffusers_whose_own_pictures_ours_are():
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(BUILTIN / "micro-dit", local_files_only=True)
    captions = ["a photo of a red ball on grass", "a photo of a sks robot on snow"]
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(captions, num_inference_steps=25, guidance_scale=4.0, height=64, width=64,
                      latents=torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)),
                      clean_caption=False, use_resolution_binning=False, output_type="np").images  # fmt: skip
    ours = generate(load("micro-dit"), captions, 0)
    assert np.abs(ours - 255 * theirs).max() <= 2  # of 255: they mask the padding to another length


def test_micro_dit_draws_what_its_captions_name():
    classifier = AttributeClassifier()
    classifier.load_state_dict(load_file(BUILTIN / "attributes.safetensors"))
    pool = held_out_pool(40, 0)
    found = generator_accuracy(load("micro-dit"), classifier, pool, 0)
    assert all(found[name] >= 0.85 for name in ("kind", "colour", "background"))


def test_the_built_in_backbones_have_one_autoencoder_and_one_tokenizer():
    for file in ("vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt"):
        assert (BUILTIN / "micro-dit" / file).read_bytes() == (BUILTIN / "micro-unet" / file).read_bytes()


def test_the_autoencoder_keeps_28_decibels_of_what_it_never_saw():
    backbone = load("micro-unet")
    assert psnr(backbone.pipeline.vae, held_out_pool(40, 0).pixels) >= 28


@pytest.mark.parametrize("name", ["micro-clip", "micro-dino"])
def test_scorers_tell_a_subject_from_all_others(name):
    scorer = load_scorer(name)
    features = [scorer.images(np.stack(subject.pictures())) for subject in list(SUBJECTS.values())[:8]]
    for i, own in enumerate(features):
        within = (cosines(own, own).sum() - len(own)) / (len(own) * (len(own) - 1))
        across = torch.stack([cosines(own, other).mean() for j, other in enumerate(features) if j != i])
        assert within > across.max()


def test_the_pipelines_text_encoder_is_not_the_scorers():
    backbone, clip = load("micro-unet"), load_scorer("micro-clip").model
    theirs = clip.text_model.state_dict()
    shared = [
        name
        for name, value in backbone.pipeline.text_encoder.state_dict().items()
        if value.numel() > 1 and value.is_floating_point() and value.std() > 0
        and any(value.shape == other.shape and torch.allclose(value, other.float()) for other in theirs.values())
    ]
    assert not shared


def test_folders_are_where_the_package_looks():
    assert all(Path(folder).is_dir() for folder in FOLDERS)
