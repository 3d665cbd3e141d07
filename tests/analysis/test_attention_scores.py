"""Attention maps: which tokens are a word's, and scores against closed forms, other libraries and what was drawn."""

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.proportion import proportion_confint
from transformers import CLIPTokenizer

from adapters.faults import InputFault
from analysis.attention import AttentionMap, capture, entropy
from analysis.attention_scores import against_mask, agreement, attention_change
from analysis.attention_words import caption_positions, token_positions, words
from tests.analysis.denoising import LENGTH, PROMPTS, TOKENIZER, inputs, run, tiny_unet


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def unet():
    return tiny_unet()


def test_heads_and_blocks_average_to_the_whole(unet, tokenizer):
    with capture(unet, tokenizer, PROMPTS) as maps:
        run(unet, *inputs())
    whole = maps.word("robot").values
    np.testing.assert_allclose(np.mean([each.values for each in maps.by("head", "robot").values()], 0), whole)
    blocks = maps.by("block", "robot", size=(8, 8))
    np.testing.assert_allclose(np.mean([each.values for each in blocks.values()], 0), whole)
    assert list(blocks) == maps.blocks() and len(blocks) == 7


def test_words_of_several_tokens_and_repeated_words_are_summed(unet, tokenizer):
    prompt = "a gizmo of a red gizmo robot on the robot"
    pieces = tokenizer("gizmo", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1  # no word of the world: spelled in pieces
    with capture(unet, tokenizer, [prompt]) as maps:
        run(unet, *inputs(1))
    name = maps.blocks()[0]
    means = maps.record.layers[name].means[0, 0].mean(0)
    ids = tokenizer(prompt)["input_ids"]
    begins = [at for at in range(len(ids)) if ids[at : at + len(pieces)] == pieces]
    assert len(begins) == 2
    first = means[:, begins[0] : begins[0] + len(pieces)].sum(-1).reshape(8, 8)
    both = first + means[:, begins[1] : begins[1] + len(pieces)].sum(-1).reshape(8, 8)
    np.testing.assert_allclose(maps.word("gizmo", blocks=[name], occurrence=0).values, first, rtol=1e-5)
    np.testing.assert_allclose(maps.word("GIZMO", blocks=[name]).values, both, rtol=1e-5)
    assert len(maps.word("robot").tokens) == 2 and len(maps.word("gizmo robot").tokens) == len(pieces) + 1
    with pytest.raises(InputFault, match="has it 2 times"):
        maps.word("robot", occurrence=2)


def test_a_word_is_no_part_of_another_and_padding_is_no_word(tokenizer):
    assert words("A red lamp's robot, a RED one.") == ["A", "red", "lamp's", "robot", "one"]
    own = caption_positions(tokenizer, PROMPTS[0], LENGTH)
    ids = tokenizer(PROMPTS[0], padding="max_length", max_length=LENGTH)["input_ids"]
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert own == [at for at, token in enumerate(ids) if token not in special]
    assert [token_positions(tokenizer, PROMPTS[0], word, LENGTH)[0] for word in ("photo", "robot")] == [(2,), (6,)]
    with pytest.raises(InputFault, match="has no word 'robo'; it has a, photo, of, red, robot"):
        token_positions(tokenizer, PROMPTS[0], "robo", LENGTH)
    with pytest.raises(InputFault, match="has no word ''"):
        token_positions(tokenizer, PROMPTS[0], "", LENGTH)
    long = "a red " * 15 + "robot"
    with pytest.raises(InputFault, match="beyond the 22 tokens"):
        token_positions(tokenizer, long, "robot", LENGTH)
    assert token_positions(tokenizer, long, "red", LENGTH - 24 + 40)[0] == (2,)


def attention_map(values: np.ndarray, word: str = "robot") -> AttentionMap:
    return AttentionMap(word, "a robot", np.asarray(values, float), (2,), ("block",), (0,), (0,), 1)


def test_entropy_is_one_for_an_even_map_and_zero_for_one_place():
    assert entropy(np.full((3, 5), 0.2)) == pytest.approx(1)
    assert entropy(np.eye(4)[:1]) == pytest.approx(0)
    half = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert entropy(half) == pytest.approx(np.log(2) / np.log(4))
    assert np.isnan(entropy(np.zeros((2, 2))))


def test_a_map_that_is_the_mask_scores_one_and_its_opposite_nothing():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    assert against_mask(attention_map(mask), mask) == {"pointing": 1, "iou": 1, "inside": 1}
    assert against_mask(attention_map(~mask), mask) == {"pointing": 0, "iou": 0, "inside": 0}
    shifted = np.roll(mask, 2, axis=1)
    found = against_mask(attention_map(shifted), mask)
    assert found["iou"] == pytest.approx(6 / 18) and found["inside"] == pytest.approx(1 / 2)
    for wrong in (np.zeros((8, 8), bool), np.ones((8, 8), bool), mask.astype(float), mask[0]):
        with pytest.raises(InputFault, match="expected bool"):
            against_mask(attention_map(mask), wrong)


def test_chance_is_what_random_maps_have():
    """200 random maps on 40 x 40 places: each mean within four standard errors of the chance that is named."""
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 40), bool)
    mask[5:30, 10:28] = True
    found = agreement([attention_map(rng.random((40, 40))) for _ in range(200)], [mask] * 200)
    for row in found.numbers.to_dict("records"):
        spread = found.each[row["number"]].std() / np.sqrt(200)
        assert abs(row["mean"] - row["even"]) < 4 * spread
        assert row["others"] == pytest.approx(row["mean"]) and row["gain"] == pytest.approx(0, abs=1e-12)


def test_a_map_of_the_middle_gains_nothing_over_the_objects_of_other_pictures():
    """Objects about the middle: a map that always points there beats random places and not the other pictures."""
    rng = np.random.default_rng(1)
    row, column = np.mgrid[0:32, 0:32]
    centres = rng.uniform(14, 18, (30, 2))
    masks = [(row - y) ** 2 + (column - x) ** 2 < 64 for y, x in centres]
    middle = attention_map(np.exp(-((row - 16) ** 2 + (column - 16) ** 2) / 50))
    blind = agreement([middle] * 30, masks).numbers.set_index("number")
    assert blind.loc["iou", "mean"] > 2 * blind.loc["iou", "even"]
    assert blind.loc["iou", "gain"] == pytest.approx(0, abs=0.01)
    seeing = agreement([attention_map(mask) for mask in masks], masks).numbers.set_index("number")
    assert seeing.loc["iou", "gain_lower"] > 0.1


def test_intervals_equal_wilson_and_the_paired_t_test():
    rng = np.random.default_rng(2)
    masks = []
    for _ in range(12):
        mask = np.zeros((10, 10), bool)
        at = rng.integers(0, 5, 2)
        mask[at[0] : at[0] + 5, at[1] : at[1] + 4] = True
        masks.append(mask)
    before = [attention_map(rng.random((10, 10)) + mask * 0.02) for mask in masks]
    after = [attention_map(rng.random((10, 10)) + mask * 0.04) for mask in masks]
    found = agreement(after, masks, level=0.9)
    hits = int(found.each["pointing"].sum())
    wilson = proportion_confint(hits, 12, alpha=0.1, method="wilson")
    assert 0 < hits < 12
    assert found.numbers.loc[0, ["lower", "upper"]].tolist() == pytest.approx(list(wilson))
    change = attention_change(before, after, masks, level=0.9)
    rows = change.numbers.set_index("number")
    old, new = ([against_mask(each, mask)["iou"] for each, mask in zip(maps, masks, strict=True)]
                for maps in (before, after))  # fmt: skip
    theirs = ttest_rel(new, old).confidence_interval(0.9)
    assert rows.loc["iou", ["change", "lower", "upper"]].tolist() == pytest.approx(
        [np.mean(new) - np.mean(old), theirs.low, theirs.high]
    )
    assert rows.index.tolist() == ["mean", "entropy", "pointing", "iou", "inside", "distance"]
    assert "Overlap with the object (IoU) goes from" in change.explain() and "12 pictures" in change.explain()
    assert change.plot().axes and "IoU" in found.explain()


def test_distance_is_zero_for_the_same_map_and_one_apart():
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[:, 0], right[:, 3] = 1, 2
    same = attention_change([attention_map(left)] * 2, [attention_map(left * 3)] * 2).numbers.set_index("number")
    assert same.loc["distance", "change"] == pytest.approx(0) and np.isnan(same.loc["distance", "lower"])
    apart = attention_change([attention_map(left)] * 2, [attention_map(right)] * 2).numbers.set_index("number")
    assert apart.loc["distance", "change"] == pytest.approx(1)
    assert "no interval" in attention_change([attention_map(left)] * 2, [attention_map(right)] * 2).explain()
    for before, after, masks in (([left], [left], None), ([left] * 2, [left] * 3, None), ([left] * 2, [left] * 2, [])):
        with pytest.raises(InputFault, match="at least 2"):
            attention_change([attention_map(each) for each in before], [attention_map(each) for each in after], masks)


def test_a_map_tells_itself(unet, tokenizer):
    with capture(unet, tokenizer, PROMPTS) as maps:
        run(unet, *inputs())
    found = maps.word("robot")
    row = found.to_frame().iloc[0]
    at = np.unravel_index(found.values.argmax(), found.values.shape)
    assert (row["row"], row["column"]) == ((at[0] + 0.5) / 8, (at[1] + 0.5) / 8)
    assert "mean over 7 attentions, 2 heads and 1 passes" in found.explain()
    assert len(found.plot(np.zeros((32, 32, 3), np.uint8)).axes) == 2


def test_maps_of_the_untuned_micro_unet_point_at_the_drawn_object():
    """100 captioned drawings: far above random places, and above the objects of other pictures, which stand alike."""
    from benchmarks.attention import pointing

    found = pointing("micro-unet", 100, seed=1)
    assert found["pointing"]["lower"] > found["pointing"]["even"] + 0.3
    assert found["iou"]["lower"] > 1.5 * found["iou"]["even"]
    assert found["iou"]["gain_lower"] > 0.02
