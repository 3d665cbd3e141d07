"""Every architecture, built small by its own diffusers class: loaded, tuned in packs, drawn with, saved, loaded."""

import numpy as np
import pytest
import torch

import adapters
from adapters.faults import InputFault
from adapters.positions import PAIRS
from study.attention import noised_maps
from study.backbones import lacking, load, resolve
from study.backbones.flow import FlowMatching
from study.backbones.flux import Flux
from study.backbones.sdxl import StableDiffusionXL
from study.loaded import Worker
from study.sampling import sample, start_latents
from tests.study import tiny
from tests.study.tiny_models import MODELS, sd3_folder
from tests.study.together import assert_same, runner

PROMPTS = ["a photo of a robot", "a red robot dog on grass", "a dog"]


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return MODELS[request.param](tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load(str(folder)).at(tiny.SIZE)


def predicted(backbone, noisy):
    with torch.no_grad():
        times = backbone.times(torch.tensor([100, 500, 900]))
        return backbone.predict(noisy, times, backbone.embed(PROMPTS))


@pytest.fixture(scope="module")
def noisy(backbone):
    return torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("sampler", ["dpmsolver++", "euler"])
def test_sampling_equals_the_diffusers_pipeline(backbone, sampler, guidance):
    if type(backbone).__name__ == "DiT" and sampler == "euler":
        pytest.skip("DiTPipeline does not scale its start latents, which this scheduler needs")
    start, _ = start_latents(backbone, 0, "task", "picture", len(PROMPTS))
    ours = sample(backbone, backbone.embed(PROMPTS), start, sampler, 6, guidance)
    # Oracle: the pipeline's own call with the same scheduler and start latents.
    pipeline, kept = backbone.pipeline, backbone.pipeline.scheduler
    pipeline.scheduler = backbone.scheduler(sampler)
    if isinstance(backbone, Flux) and sampler == "dpmsolver++":  # the pipeline's shift, which this one is told before
        own = pipeline.scheduler.set_timesteps
        pipeline.scheduler.set_timesteps = lambda steps, device, mu: own(steps, device=device)
    given = {"num_inference_steps": 6, "guidance_scale": guidance}
    if type(backbone).__name__ == "DiT":  # which takes no latents and gives pictures only
        generator = torch.Generator().manual_seed(7)
        start = torch.randn(start.shape, generator=torch.Generator().manual_seed(7))
        ours = backbone.decode(sample(backbone, backbone.embed(PROMPTS), start, sampler, 6, guidance))
        theirs = pipeline([1, 3, 2], generator=generator, output_type="np", **given).images
        pipeline.scheduler = kept
        assert np.abs(ours - theirs * 255.0).max() <= 1
        return
    shown = pipeline._pack_latents(start, *start.shape) if isinstance(backbone, Flux) else start
    theirs = pipeline(PROMPTS, latents=shown, output_type="latent", height=tiny.SIZE, width=tiny.SIZE, **given).images
    pipeline.scheduler = kept
    if isinstance(backbone, Flux):
        theirs = pipeline._unpack_latents(theirs, tiny.SIZE, tiny.SIZE, pipeline.vae_scale_factor)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_packed_equals_alone_in_float64(tmp_path, folder):
    if "flux" in folder.name:  # of 1024 pixels unless its size is said
        pytest.skip("subjects are drawn at the backbone's own size; the packed step is tested below")
    designs = [
        {"method": "none"},
        {"method": "adapter", "input": "FFN_in", "output": "Trans_out", "width": 2},
        {"method": "lora", "rank": 2},
        {"method": "bitfit"},
    ]
    run = runner(tmp_path, Worker("cpu"), str(folder))
    for one, other in zip(run(designs, 100), run(designs, 1), strict=True):
        assert one.columns["pack_size"] == len(designs) and other.columns["pack_size"] == 1
        assert_same(one, other, 1e-9)


def test_one_step_of_a_pack_gives_the_gradients_that_each_design_gets_alone(folder):
    backbone = load(str(folder), dtype=torch.float64).at(tiny.SIZE)
    designs = [
        {"method": "adapter", "input": "SA_in", "output": "Trans_out", "width": 2},
        {"method": "adapter", "input": "FFN_in", "output": "FFN_in", "width": 2},
        {"method": "lora", "rank": 1, "targets": "attention+ff"},
    ]
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, *backbone.latent_shape, generator=generator, dtype=torch.float64)
    times = backbone.times(torch.tensor([20, 500, 980]))
    text = backbone.embed(PROMPTS)
    noised, wanted = backbone.noised(latents, noise, times), backbone.target(latents, noise, times)

    def gradients(insertion, slots, rows):
        with insertion.rows(slots):
            found = backbone.predict(noised[rows], times[rows], text[rows])
            (found - wanted[rows]).square().flatten(1).mean(1).sum().backward()
        return [[p.grad for p in insertion.parameters(slot)] for slot in sorted(set(slots))]

    seeds = [torch.Generator().manual_seed(slot) for slot in range(3)]
    pack = adapters.insert(backbone.denoiser, designs, seeds)
    together = gradients(pack, [0, 1, 2], [0, 1, 2])
    pack.remove()
    for slot, design in enumerate(designs):
        alone = adapters.insert(backbone.denoiser, design, seeds[slot])
        (own,) = gradients(alone, [0], [slot])
        alone.remove()
        assert any(bool(each.any()) for each in own)
        for one, other in zip(together[slot], own, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_every_position_is_there_or_refused_by_name(backbone, noisy):
    before, lacks = predicted(backbone, noisy), lacking(backbone.source)
    for read, write in PAIRS:
        design = {"method": "adapter", "input": read, "output": write, "width": 2, "init": "default"}
        if read in lacks or write in lacks:
            with pytest.raises(InputFault, match=f"no (ResNet blocks|cross-attention).*{read}|{read}.*no cross"):
                adapters.insert(backbone.denoiser, design)
            continue
        insertion = adapters.insert(backbone.denoiser, design, torch.Generator().manual_seed(1))
        assert not torch.allclose(predicted(backbone, noisy), before), (read, write)
        insertion.remove()
        assert torch.equal(predicted(backbone, noisy), before)
    assert len(lacks) in (0, 5)


def test_what_is_saved_is_loaded_on_a_fresh_pipeline(folder, backbone, noisy, tmp_path):
    design = adapters.normalise({"method": "adapter", "input": "SA_out", "output": "Trans_out", "width": 2})
    insertion = adapters.insert(backbone.denoiser, design, torch.Generator().manual_seed(1))
    tuned = predicted(backbone, noisy)
    adapters.save(tmp_path / "my", design, insertion.state(), {})
    insertion.remove()
    fresh = load(str(folder)).at(tiny.SIZE)
    adapters.load(fresh.pipeline, tmp_path / "my")
    torch.testing.assert_close(predicted(fresh, noisy), tuned)


def test_pictures_are_encoded_with_the_scale_and_shift_of_the_autoencoder(backbone):
    # Oracle: the pipelines' own line, (latents - shift) * scale.
    vae = backbone.pipeline.vae
    pixels = torch.from_numpy(tiny.pictures()).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
    shift = 0.1 if isinstance(backbone, FlowMatching) else 0.0
    latents = backbone.encode(tiny.pictures())
    torch.testing.assert_close(latents, (mean - shift) * 0.5)
    with torch.no_grad():
        seen = vae.decode(latents / 0.5 + shift).sample
    expected = ((seen / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(backbone.decode(latents).astype(float) - expected).max() <= 1


def test_sizes_are_whole_patches(backbone):
    assert backbone.at(48).latent_shape == (4, 12, 12)
    with pytest.raises(InputFault, match="multiple of 8 pixels"):
        backbone.at(44)


def test_text_encoders_that_are_several_or_none_are_not_tuned(backbone):
    if backbone.text_encoder is not None:
        pytest.skip("one text encoder, which can be tuned")
    design = {"method": "lora", "rank": 1, "text_encoder": True}
    with pytest.raises(InputFault, match="several text encoders .SDXL, SD 3, Flux. or none .DiT."):
        adapters.insert(backbone.denoiser, design, None, backbone.text_encoder)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_follows_the_closed_form(tmp_path, shift):
    backbone = load(str(sd3_folder(tmp_path, shift=shift)))
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    index = torch.tensor([0, 499, 999])
    # Oracle: x_σ = (1 - σ) x + σ ε and the target ε - x (2210.02747), at σ = s u / (1 + (s - 1) u) of
    # u = (index + 1) / 1000 (2403.03206, equation 23).
    u = (index + 1).double() / 1000
    sigma = (shift * u / (1 + (shift - 1) * u)).view(3, 1, 1, 1)
    times = backbone.times(index)
    torch.testing.assert_close(times.double(), 1000 * sigma.flatten(), rtol=1e-6, atol=0)
    expected = (1 - sigma) * latents + sigma * noise
    torch.testing.assert_close(backbone.noised(latents, noise, times).double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(backbone.target(latents, noise, times), noise - latents)
    # Oracle: the scheduler's own, which finds σ by its timestep.
    theirs = backbone.noiser.scale_noise(latents, times, noise)
    torch.testing.assert_close(backbone.noised(latents, noise, times), theirs)


def test_a_sampler_that_does_not_follow_flows_is_refused(tmp_path):
    with pytest.raises(InputFault, match="'ddim' does not follow flows; expected euler or dpmsolver"):
        load(str(sd3_folder(tmp_path))).scheduler("ddim")


def test_classes_are_named_by_label_or_number(tmp_path):
    dit = load(str(MODELS["dit"](tmp_path)))
    prompts = ["a photo of a Robot", "robot dog", "domestic dog", "class 207", "999", ""]
    assert dit.embed(prompts).flatten().tolist() == [1, 3, 2, 207, 999, 1000]
    assert dit.too_long(["a " * 100]) == []
    for unknown in ("a photo of a lamp", "class 1000"):
        with pytest.raises(InputFault, match="knows classes and no text.*domestic dog.*class 0 to class 999"):
            dit.embed([unknown])


def test_no_prompt_is_zeros_where_the_pipeline_says_so(tmp_path):
    # Oracle: the pipeline's own negative text where none is given.
    sdxl = load(str(MODELS["sdxl"](tmp_path)))
    assert isinstance(sdxl, StableDiffusionXL)
    for zeros in (True, False):
        sdxl.pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
        _, negative, _, pooled = sdxl.pipeline.encode_prompt(["a dog"], do_classifier_free_guidance=True)
        empty, _ = sdxl.guided(sdxl.embed(["a dog"]), 2.0)
        torch.testing.assert_close(empty[:, :-1], negative)
        torch.testing.assert_close(empty[:, -1, :12], pooled)


def test_a_hash_is_of_every_text_encoder_and_null_ones_are_left_out(tmp_path):
    from study.backbones import content_hash

    folder = sd3_folder(tmp_path)
    before = content_hash(resolve(str(folder)))
    weights = folder / "text_encoder_3" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert content_hash(resolve(str(folder))) != before
    assert load(str(sd3_folder(tmp_path, t5=False))).pipeline.text_encoder_3 is None


@pytest.mark.parametrize("name", ["dit", "sd3", "flux schnell"])
def test_attention_maps_of_other_kinds_are_refused(tmp_path, name):
    backbone = load(str(MODELS[name](tmp_path))).at(tiny.SIZE)
    with pytest.raises(InputFault, match="attention"):
        next(noised_maps(backbone, tiny.pictures(), PROMPTS, "key"))
