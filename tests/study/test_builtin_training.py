"""Rebuilding the built-in models: the parts that can be held to their promise without hours of training."""

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file
from scipy.stats import chi2
from torch import nn

from adapters.positions import PAIRS, blocks
from study.builtin import architecture
from study.builtin.train import loop
from study.builtin.train.pool import draw_pool, held_out, held_out_pool
from study.builtin.train.scorers import ATTRIBUTES, AttributeClassifier, labels
from study.builtin.train.transformer import ODDS, CaptionedBatches, read_mask, train_transformer
from study.world.captions import RARE_TOKENS, WORDS, caption


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return architecture.tokenizer(tmp_path_factory.mktemp("words"))


def test_words_of_the_world_are_one_token_each_and_any_text_can_be_written(words):
    assert all(len(words.tokenize(word)) == 1 for word in (*WORDS, *RARE_TOKENS))
    assert words.unk_token not in words.tokenize("Ein Kätzchen, 日本 🙂!")
    assert len(words("a photo of a sks robot on grass", padding="max_length").input_ids) == architecture.TOKENS


def test_the_denoiser_has_attention_blocks_at_two_resolutions_and_in_the_middle():
    unet = architecture.unet()
    blocks = [name for name, module in unet.named_modules() if type(module).__name__ == "BasicTransformerBlock"]
    places = {name.split(".transformer_blocks")[0].split(".attentions")[0] for name in blocks}
    assert places == {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"}


def test_training_pictures_leave_out_what_is_tested_and_come_from_the_seed(tmp_path):
    first, again = draw_pool(30, 3, 1, tmp_path / "a"), draw_pool(30, 3, 2, tmp_path / "b")
    assert (first.pixels == again.pixels).all() and first.scenes == again.scenes
    assert not any(held_out(scene) for scene in first.scenes)
    test = held_out_pool(40, 3)
    assert all(held_out(scene) for scene in test.scenes)
    assert len({caption(scene) for scene in test.scenes}) == 40


class Line(nn.Module):
    """y = a x, whose least-squares slope is known."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))


def loss_of(line):
    def loss(step, shard):
        x = torch.from_numpy(np.random.default_rng([step, shard]).standard_normal(16))
        return (line.slope * x - 3 * x).square().mean()

    return loss


def test_a_stopped_training_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 10)
    whole, stopped = Line(), Line()
    loop.optimise("line", [whole], loss_of(whole), 40, 0.1, tmp_path / "whole", shards=2)

    def dies(step, shard):
        if step == 27:
            raise KeyboardInterrupt
        return loss_of(stopped)(step, shard)

    with pytest.raises(KeyboardInterrupt):
        loop.optimise("line", [stopped], dies, 40, 0.1, tmp_path / "stopped", shards=2)
    fresh = Line()
    loop.optimise("line", [fresh], loss_of(fresh), 40, 0.1, tmp_path / "stopped", shards=2)
    assert fresh.slope.item() == whole.slope.item()


def test_training_finds_the_known_slope(tmp_path):
    line = Line()
    loop.optimise("line", [line], loss_of(line), 1500, 0.05, tmp_path)
    assert line.slope.item() == pytest.approx(3, abs=0.02)


def test_the_classifier_reads_every_attribute_and_ignores_nameless_colours():
    pool = held_out_pool(4, 0)
    logits = AttributeClassifier()(loop.to_tensor(pool.pixels))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        name: (4, len(levels)) for name, levels in ATTRIBUTES.items()
    }
    truth = labels(pool.scenes)
    assert [ATTRIBUTES["kind"][i] for i in truth["kind"]] == [scene.kind for scene in pool.scenes]
    assert labels([type(pool.scenes[0])(**{**vars(pool.scenes[0]), "colour": None})])["colour"].item() == -100


def test_a_training_of_given_minutes_counts_those_before_it_was_stopped(tmp_path, monkeypatch, capsys):
    clock = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 10)
    line = Line()

    def dies(step, shard):
        if step == 25:
            raise KeyboardInterrupt
        return loss_of(line)(step, shard)

    with pytest.raises(KeyboardInterrupt):
        loop.optimise("line", [line], dies, 1, 0.1, tmp_path, minutes=1, warm_up=5)
    loop.optimise("line", [line], loss_of(line), 1, 0.1, tmp_path, minutes=1, warm_up=5)
    # The clock ticks as each part starts and at each step: second 60 comes before a 60th step. 20 seconds are resumed.
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2].rstrip(",") for line in lines] == ["10", "20", "30", "40", "50"]
    # Full until the last 15 seconds, of which 10 are left at the 50th step.
    assert [line.split("rate ")[1].split(",")[0] for line in lines] == ["0.1"] * 4 + [f"{0.1 * 10 / 15:.2g}"]
    assert load_file(tmp_path / "line.safetensors")["step"] == 59


def test_captions_drawn_ahead_by_other_processes_train_the_same_transformer(tmp_path, words):
    pool = held_out_pool(4, 0)
    latents = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def train(folder, workers):
        torch.manual_seed(0)
        small = PixArtTransformer2DModel(
            sample_size=4, in_channels=2, out_channels=2, patch_size=2, num_layers=1, num_attention_heads=2,
            attention_head_dim=8, cross_attention_dim=16, caption_channels=96)
        networks = small, architecture.text_encoder(words, architecture.PIXART_TOKENS)
        train_transformer(*networks, words, architecture.scheduler(), latents, pool.scenes, 6, 0, folder, 8,
                          workers=workers)
        return networks[0].state_dict()

    whole = train(tmp_path / "whole", 0)
    ahead = train(tmp_path / "ahead", 1)
    assert all(torch.equal(whole[name], ahead[name]) for name in whole)


def test_what_is_read_of_a_caption_is_what_the_tokenizer_says(words):
    captions = ["", "a photo of a robot", "sks " * 40]
    said = words(captions, padding="max_length", max_length=architecture.TOKENS, truncation=True, return_tensors="pt")
    assert read_mask(said.input_ids, words.eos_token_id).equal(said.attention_mask)


def test_fine_textures_are_trained_on_more_often_and_within_a_texture_every_drawing_as_often(tmp_path, words):
    scenes = draw_pool(40, 2, 1, tmp_path).scenes
    batch = 20_000
    chosen, ids = CaptionedBatches(scenes, words, 1, batch)[0]
    assert len(ids) == batch and chosen.max() < len(scenes)
    odds = np.array([ODDS[scene.texture] for scene in scenes])
    expected = batch * odds / odds.sum()
    found = np.bincount(chosen, minlength=len(scenes))
    # Pearson's statistic of 40 cells: above its 1 - 1e-6 quantile once in a million draws, and this one is fixed.
    assert ((found - expected) ** 2 / expected).sum() < chi2.isf(1e-6, len(scenes) - 1)
    assert ((found - batch / 40) ** 2 / (batch / 40)).sum() > 1000, "as if all were drawn as often"


def test_the_diffusion_transformer_starts_as_nothing_and_has_every_position_of_a_transformer_block():
    transformer = architecture.transformer()
    with torch.no_grad():
        predicted = transformer(torch.randn(1, 8, 16, 16), torch.randn(1, 24, 96), torch.tensor([5])).sample
    assert predicted.abs().max() == 0
    pairs = [pair for pair in PAIRS if not pair[0].startswith("Res_")]
    assert len(pairs) == 17 and all(len(blocks(transformer, *pair)) == 8 for pair in pairs)
