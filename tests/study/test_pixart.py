"""A diffusion transformer with text, as PixArt's pipelines have, is a backbone like a U-Net."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

import adapters
from adapters.export import export
from adapters.faults import InputFault
from adapters.positions import PAIRS
from study.attention import draw
from study.backbones import content_hash, load, resolve
from study.backbones.architectures import architecture, denoiser_of
from study.backbones.names import unknown_words
from study.backbones.pixart import PixArt
from study.config import Protocol
from study.loaded import Worker
from study.noise_difference import subject_maps
from study.randomness import stream
from study.tasks import resolve_task
from study.tasks.subject import SubjectTask
from tests.study import tiny
from tests.study.one_adapter import PROMPT, RECIPE, adapter_study, generate, train
from tests.study.together import METHODS, assert_same, runner

DESIGNS = [
    *({"method": "adapter", "input": a, "output": b, "width": 1} for a, b in PAIRS if not a.startswith("Res_")),
    *METHODS,
    {"method": "lora", "rank": 2, "targets": "attention+ff"},
    {"method": "vpt", "tokens": 2, "place": "sequence"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.pixart_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tiny.pixart_folder(tmp_path_factory.mktemp("models"), "epsilon", "t5")


@pytest.fixture(scope="module")
def backbone(folder):
    return load(str(folder))


def test_packed_equals_alone_in_float64_for_every_method_and_position(tmp_path, folder):
    run = runner(tmp_path, Worker("cpu"), str(folder))
    alone, packed = run(DESIGNS, 1), run(DESIGNS, 100)
    assert {result.columns["pack_size"] for result in packed} == {len(DESIGNS)}
    assert {result.columns["pack_size"] for result in alone} == {1}
    for one, other in zip(packed, alone, strict=True):
        assert_same(one, other, 1e-9)


def test_text_is_what_the_pipeline_makes_of_it_with_its_mask(backbone, t5):
    for each in (backbone, load(str(t5))):
        prompts = ["a photo of a robot", "", "a photo of a robot"]
        # Oracle: the pipeline's own method.
        text, mask, _, _ = each.pipeline.encode_prompt(prompts, False, max_sequence_length=each.tokens)
        found = each.embed(prompts)
        torch.testing.assert_close(found[..., :-1], text)
        assert found[..., -1].equal(mask.to(text.dtype)) and 0 < mask[0].sum() < mask.shape[1]


def test_as_many_tokens_are_read_as_the_text_encoder_or_the_pipeline_has(backbone, t5):
    # The tokenizer of the CLIP says 16, that of the T5 512, of which diffusers' pipeline reads 120.
    assert backbone.tokens == 16 and load(str(t5)).tokens == 120
    assert backbone.too_long(["a robot", "a " * 30]) == ["a " * 30]


def test_what_pads_a_prompt_changes_nothing(backbone):
    noisy, text = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), backbone.embed(["a robot"])
    padded = text[..., -1:] == 0
    other = torch.where(padded & (torch.arange(text.shape[-1]) < text.shape[-1] - 1), text + 1, text)
    assert not other.equal(text)
    time = torch.tensor([500])
    with torch.no_grad():
        torch.testing.assert_close(backbone.predict(noisy, time, other), backbone.predict(noisy, time, text))
        assert not torch.allclose(backbone.predict(noisy, time, backbone.embed(["dog"])),
                                  backbone.predict(noisy, time, text))  # fmt: skip


def test_a_tuned_text_encoder_gets_gradients_through_the_text(backbone):
    insertion = adapters.insert(
        backbone.denoiser, {"method": "lora", "rank": 1, "text_encoder": True}, stream(0, "t", "init"),
        backbone.text_encoder,
    )  # fmt: skip
    try:
        with backbone.tuned_text():
            backbone.predict(torch.ones(1, 4, 8, 8), torch.tensor([5]), backbone.embed(["dog"])).sum().backward()
        assert any(bool(parameter.grad.any()) for parameter in insertion.parameters())
    finally:
        insertion.remove()


def test_pictures_of_other_sizes_are_whole_patches(backbone):
    other = backbone.at(48)
    assert isinstance(other, PixArt) and other.latent_shape == (4, 12, 12)
    assert other.predict(torch.zeros(1, 4, 12, 12), torch.tensor(1), other.embed([""])).shape == (1, 4, 12, 12)
    with pytest.raises(InputFault, match="multiple of 8 pixels"):  # patches of 2 latents of 4 pixels
        backbone.at(44)


def test_at_another_size_positions_are_spread_over_the_same_range(backbone):
    """At twice the edge every second patch stands where the patches stood before, so positions are interpolated."""
    embed = backbone.denoiser.pos_embed
    before = backbone.predict(torch.ones(1, 4, 8, 8), torch.tensor(5), backbone.embed(["dog"]))

    def places(latents):
        zeros = torch.zeros(1, 4, latents, latents)
        placed = embed(zeros) - embed.proj(zeros).flatten(2).transpose(1, 2)
        return placed.view(latents // 2, latents // 2, -1)

    assert torch.allclose(places(16)[::2, ::2], places(8), atol=1e-6)
    assert torch.allclose(places(12)[::3, ::3], places(8)[::2, ::2], atol=1e-6)
    assert not torch.allclose(places(16)[1::2, ::2], places(8), atol=1e-2)
    after = backbone.predict(torch.ones(1, 4, 8, 8), torch.tensor(5), backbone.embed(["dog"]))
    assert torch.equal(before, after)


def test_attention_and_noise_differences_are_mapped(backbone, tmp_path):
    (tmp_path / "toy").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(tmp_path / "toy" / f"{index}.png")
    spec = resolve_task({"name": "toy", "pictures": "toy", "class": "robot", "prompts": ["a {} on grass"]}, tmp_path)
    protocol = Protocol(sampling_steps=2, guidance=3, prior_pictures=2, prior_weight=1)
    picture, maps = draw(backbone, spec, "a red robot on grass", 0, protocol)
    assert picture.shape == (32, 32, 3) and [each.word for each in maps] == ["a", "red", "robot", "on", "grass"]
    assert all(each.values.shape == (4, 4) for each in maps)  # 8x8 latents in patches of 2
    task = Worker("cpu").task(spec, backbone, protocol, str(tmp_path / "store"))
    assert isinstance(task, SubjectTask)
    assert subject_maps(task, task.prior).size > 0


def test_recipe_trains_draws_and_exports(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(RECIPE.format(backbone=folder))
    (tmp_path / "toy").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(tmp_path / "toy" / f"{index}.png")
    assert (ended := train(out="my")).exit_code == 0, ended.output
    assert "Expected types" not in ended.output
    assert (ended := generate(prompt=PROMPT)).exit_code == 0, ended.output
    with Image.open("out.png") as drawn:
        assert drawn.size == (32, 32)
    refused = adapter_study("export", "my", "--format", "delta", "-o", "delta")
    assert refused.exit_code == 2 and "cannot be merged" in refused.output


def test_a_lora_is_exported_for_peft_and_diffusers_is_refused(folder, backbone, tmp_path):
    design = {"method": "lora", "rank": 2, "alpha": 3}
    insertion = adapters.insert(backbone.denoiser, design, torch.Generator().manual_seed(1))
    noisy, time, text = torch.ones(1, 4, 8, 8), torch.tensor([7]), backbone.embed(["a robot"])
    with torch.no_grad():
        before = backbone.predict(noisy, time, text)
        for parameter in insertion.parameters():
            parameter += 0.3
        tuned = backbone.predict(noisy, time, text)
    adapters.save(tmp_path / "my", adapters.normalise(design), insertion.state(), {})
    insertion.remove()
    assert (tuned - before).abs().max() > 1e-2
    export(tmp_path / "my", "peft", tmp_path / "peft", backbone.pipeline)
    fresh = load(str(folder))
    fresh.denoiser = PeftModel.from_pretrained(fresh.denoiser, tmp_path / "peft")  # oracle: peft itself
    fresh.denoiser.use_additional_conditions = False
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict(noisy, time, text), tuned, rtol=1e-4, atol=1e-5)
    for pipe in (backbone.pipeline, backbone.denoiser):
        with pytest.raises(InputFault, match="written for U-Nets only.*--format peft"):
            export(tmp_path / "my", "diffusers", tmp_path / "out", pipe)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "transformer" / "diffusion_pytorch_model.safetensors").unlink(),
         "transformer/diffusion_pytorch_model.safetensors is missing"),
        (lambda f: (f / "transformer").rename(f / "unet"), "transformer/ is missing"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}'),
         "'KandinskyPipeline', expected one of StableDiffusionPipeline, StableDiffusionXLPipeline"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_refused(tmp_path, damage, told):
    folder = tiny.pixart_folder(tmp_path)
    damage(folder)
    with pytest.raises(InputFault, match=told):
        resolve(str(folder))


def test_the_hash_is_of_the_transformer_and_of_the_vocabulary(t5):
    source = resolve(str(t5))
    before = content_hash(source)
    for file in (t5 / "transformer" / "diffusion_pytorch_model.safetensors", t5 / "tokenizer" / "spiece.model"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert content_hash(source) != before
        file.write_bytes(content)


def test_a_vocabulary_of_parts_of_words_says_nothing_of_words(t5):
    assert unknown_words(resolve(str(t5)), "red zebra") == []


def test_denoisers_are_built_from_configurations_alone(folder, tmp_path, backbone):
    built = denoiser_of(folder)
    assert {n: p.shape for n, p in built.named_parameters()} == {
        n: p.shape for n, p in backbone.denoiser.named_parameters()
    }
    # Early folders of PixArt call the class Transformer2DModel; diffusers tells it by its norm.
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config | {"_class_name": "Transformer2DModel"}))
    assert type(denoiser_of(tmp_path)).__name__ == "PixArtTransformer2DModel"


def test_parameters_of_pixart_alpha_are_the_published_ones():
    # Closed form: 28 blocks of two attentions 4(d² + d), a feed-forward 8d² + 5d and six modulations, d = 1152; patches
    # 4·4·d + d; the modulation of all blocks 6d² + 6d with its embedder of 256 frequencies (256d + d) + (d² + d); the
    # text's projection 4096d + d + d² + d; last layer 32d + 32 with two modulations.
    d = 1152
    block = 2 * 4 * (d * d + d) + 8 * d * d + 5 * d + 6 * d
    rest = 17 * d + (6 * d * d + 6 * d) + (257 * d + d * d + d) + (4097 * d + d * d + d) + (32 * d + 32) + 2 * d
    assert sum(p.numel() for p in architecture("pixart-alpha").parameters()) == 28 * block + rest


def test_params_counts_on_a_folder(folder):
    ended = adapter_study("params", "--backbone", folder, "--json", "--design", "method=lora,rank=2")
    # 2 blocks × 2 attentions × 4 projections of 24 × 24: A and B have 2 · 24 each.
    assert json.loads(ended.stdout)["trainable"] == 2 * 2 * 4 * 2 * 2 * 24
    resnet = "method=adapter,input=Res_in,output=Res_in,width=1"
    refused = adapter_study("params", "--backbone", folder, "--design", resnet)
    assert refused.exit_code == 2 and "has no ResNet blocks" in refused.output


def test_pictures_of_bytes_are_drawn(backbone):
    latents = backbone.encode(tiny.pictures())
    assert latents.shape == (3, 4, 8, 8) and backbone.decode(latents).dtype == np.uint8
