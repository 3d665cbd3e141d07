"""Rebuilding the built-in models: the parts that can be held to their promise without hours of training."""

import numpy as np
import pytest
import torch
from torch import nn

from study.builtin import architecture
from study.builtin.train import loop
from study.builtin.train.pool import draw_pool, held_out, held_out_pool
from study.builtin.train.scorers import ATTRIBUTES, AttributeClassifier, labels
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
