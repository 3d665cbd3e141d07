import pytest
import torch

from adapters.faults import InputFault
from study.backbones import load
from study.backbones.pixart import PixArt
from study.sampling import sample, start_latents
from tests.study import tiny

PROMPTS = ["a photo of a robot", "a red lamp on grass", "a dog"]


KINDS = {
    "epsilon": tiny.pipeline_folder,
    "v_prediction": lambda root: tiny.pipeline_folder(root, "v_prediction"),
    "pixart": tiny.pixart_folder,
    "pixart with a T5 that predicts a variance": lambda root: tiny.pixart_folder(root, "epsilon", "t5"),
    "pixart of 1024 pixels": lambda root: tiny.pixart_folder(root, sample_size=128),
}


@pytest.fixture(scope="module", params=KINDS)
def backbone(request, tmp_path_factory):
    return load(str(KINDS[request.param](tmp_path_factory.mktemp("models")))).at(tiny.SIZE)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim", "euler"])
def test_sampling_equals_the_diffusers_pipeline(backbone, sampler, guidance):
    start, _ = start_latents(backbone, 0, "task", "picture", len(PROMPTS))
    ours = sample(backbone, backbone.embed(PROMPTS), start, sampler, 6, guidance)
    # Oracle: the pipeline's own call with the same scheduler and start latents.
    kept = backbone.pipeline.scheduler
    backbone.pipeline.scheduler = backbone.scheduler(sampler)
    pixart = {"clean_caption": False, "use_resolution_binning": False} if isinstance(backbone, PixArt) else {}
    theirs = backbone.pipeline(
        PROMPTS, num_inference_steps=6, guidance_scale=guidance, latents=start, output_type="latent",
        height=tiny.SIZE, width=tiny.SIZE, **pixart,
    ).images  # fmt: skip
    backbone.pipeline.scheduler = kept
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_large_numbers_of_pictures_go_in_parts_with_the_same_result(backbone, monkeypatch):
    start, _ = start_latents(backbone, 0, "task", "picture", 3)
    whole = sample(backbone, backbone.embed(PROMPTS), start, steps=3)
    monkeypatch.setattr("study.sampling.VALUES", 4 * 4 * 8 * 8)  # two pictures with guidance
    torch.testing.assert_close(sample(backbone, backbone.embed(PROMPTS), start, steps=3), whole, rtol=1e-4, atol=1e-4)


def test_a_picture_starts_the_same_however_many_are_asked_for(backbone):
    few, seeds = start_latents(backbone, 0, "task", "picture", 2)
    many, more = start_latents(backbone, 0, "task", "picture", 5)
    assert torch.equal(few, many[:2])
    assert seeds == more[:2]
    assert not torch.equal(few, start_latents(backbone, 1, "task", "picture", 2)[0])
    # Oracle: the published way to get a picture's start latents from its seed.
    assert torch.equal(many[3], torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(more[3])))


def test_what_sampling_embeds_can_be_trained_with(backbone):
    start, _ = start_latents(backbone, 0, "task", "picture", 1)
    sample(backbone, backbone.embed(["a dog"]), start, steps=1)
    assert not backbone.embed([""]).is_inference()


def test_an_unknown_sampler_lists_the_known_ones(backbone):
    with pytest.raises(InputFault, match=r"dpmsolver\+\+, ddim"):
        backbone.scheduler("heun")
