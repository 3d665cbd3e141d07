"""Attention maps: against a softmax written out by hand, and that nothing is left behind."""

import gc

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from transformers import CLIPTokenizer

import adapters
from adapters.faults import InputFault
from analysis import attention_capture
from analysis.attention import capture
from analysis.attention_words import token_positions
from tests.analysis.denoising import LENGTH, PROMPTS, TOKENIZER, inputs, run, tiny_unet


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def unet():
    return tiny_unet()


@pytest.fixture
def dit():
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10,
    ).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture
def pixart():
    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=8,
        patch_size=2, cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    ).eval().requires_grad_(False)  # fmt: skip


class ByHand:
    """The softmax of q·k, from what the layers to_q and to_k put out at the end of all their hooks."""

    def __init__(self, denoiser):
        self.put_out: dict[str, torch.Tensor] = {}
        self.heads: dict[str, int] = {}
        self.handles = []
        for name, module in denoiser.named_modules():
            if name.endswith((".to_q", ".to_k")):
                self.handles.append(module.register_forward_hook(self._keep(name)))
            if hasattr(module, "to_q"):
                self.heads[name] = module.heads

    def _keep(self, name):
        def hook(_module, _args, output):
            self.put_out[name] = output.detach()

        return hook

    def probabilities(self, name: str, bias: torch.Tensor | None = None) -> np.ndarray:
        q, k = (self.put_out[f"{name}.{part}"].double().numpy() for part in ("to_q", "to_k"))
        heads = self.heads[name]
        q, k = (part.reshape(len(part), part.shape[1], heads, -1) for part in (q, k))
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + bias.double().numpy()[:, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def test_equals_an_explicit_softmax_in_every_block_and_head(unet, tokenizer):
    by_hand = ByHand(unet)
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        run(unet, *inputs())
    layers = maps.record.layers
    assert len(layers) == 2 * 7 and [layer.heads for layer in layers.values()] == [2] * 14
    for name, layer in layers.items():
        np.testing.assert_allclose(layer.means[0].numpy(), by_hand.probabilities(name), atol=2e-6)
    assert {(layer.height, layer.width) for layer in layers.values()} == {(8, 8), (4, 4)}


def test_a_mask_of_the_text_is_in_the_maps(unet, tokenizer):
    by_hand = ByHand(unet)
    seen = torch.ones(2, LENGTH)
    seen[:, 9:] = 0
    with capture(unet, tokenizer, PROMPTS) as maps:
        run(unet, *inputs(), encoder_attention_mask=seen)
    bias = ((1 - seen) * -10000.0)[:, None]  # what diffusers makes of it
    for name, layer in maps.record.layers.items():
        np.testing.assert_allclose(layer.means[0].numpy(), by_hand.probabilities(name, bias), atol=2e-6)
        assert layer.means[..., 9:].max() == 0


@pytest.mark.parametrize("processor", [AttnProcessor(), SlicedAttnProcessor(1)], ids=["explicit", "sliced"])
def test_processors_that_write_attention_out_give_the_same(unet, tokenizer, processor):
    text = inputs()
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as expected:
        run(unet, *text)
    unet.set_attn_processor(processor)
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        run(unet, *text)
    for name, layer in maps.record.layers.items():
        np.testing.assert_allclose(layer.means, expected.record.layers[name].means, atol=2e-6)


def test_sums_over_tokens_and_over_places_are_one(unet, tokenizer):
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        for timestep in (900, 500, 100):
            run(unet, *inputs(), timestep)
    for layer in maps.record.layers.values():
        np.testing.assert_allclose(layer.means.sum(-1), 1, atol=1e-5)
    shares = np.sum([each.values for each in maps.words(share=True)], axis=0)
    np.testing.assert_allclose(shares, 1, atol=1e-5)
    assert np.sum([each.values for each in maps.words()], axis=0).max() < 1
    np.testing.assert_allclose(maps.place(0.5, 0.2).values.sum() / 64, maps.place(0.5, 0.2).mean, rtol=1e-12)


def test_lower_precision_is_read_in_float32(unet, tokenizer):
    given = inputs()
    with capture(unet, tokenizer, PROMPTS) as expected:
        run(unet, *given)
    with torch.autocast("cpu", torch.bfloat16):
        plain = run(unet, *given)
        with capture(unet, tokenizer, PROMPTS) as cast:
            assert torch.equal(run(unet, *given), plain)
    with capture(unet.bfloat16(), tokenizer, PROMPTS) as half:
        run(unet, *(each.bfloat16() for each in given))
    for maps in (cast, half):
        layers = maps.record.layers.values()
        assert {layer.means.dtype for layer in layers} == {torch.float32}
        assert max(float((layer.means.sum(-1) - 1).abs().max()) for layer in layers) < 1e-5
        np.testing.assert_allclose(maps.word("robot").values, expected.word("robot").values, rtol=0.05)


def test_self_attention_over_many_places_is_left_out(unet, tokenizer, monkeypatch):
    monkeypatch.setattr(attention_capture, "LARGEST_SELF", 16)
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        run(unet, *inputs())
    layers = maps.record.layers
    assert {layers[name].height for name in maps.blocks("self")} == {4}
    assert {layers[name].height for name in maps.blocks("cross")} == {4, 8}
    monkeypatch.setattr(attention_capture, "LARGEST_SELF", 15)
    with (
        pytest.raises(InputFault, match="7 self-attentions have more than 15 places"),
        capture(unet, tokenizer, PROMPTS, kinds=("self",)),
    ):
        run(unet, *inputs())


def hooks(denoiser) -> list:
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._forward_hooks_always_called),
         id(getattr(module, "processor", None)), sorted(module.__dict__))
        for name, module in denoiser.named_modules()
    ]  # fmt: skip


def test_the_prediction_is_bit_equal_and_nothing_is_left_even_after_an_error(unet, tokenizer):
    given = inputs()
    before, expected = hooks(unet), run(unet, *given)
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")):
        assert torch.equal(run(unet, *given), expected)
        assert hooks(unet) != before
    assert hooks(unet) == before
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    failing = attention.to_v.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), capture(unet, tokenizer, PROMPTS):
        run(unet, *given)
    failing.remove()
    assert hooks(unet) == before
    assert torch.equal(run(unet, *given), expected)
    assert torch.overrides._get_current_function_mode() is None


def test_a_pass_that_failed_is_in_no_mean_of_its_block(unet, tokenizer):
    given = inputs()
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    with capture(unet, tokenizer, PROMPTS) as maps:
        failing = attention.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(unet, *given)
        failing.remove()
        run(unet, *given)
    assert maps.record.passes == 1 and maps.record.layers[name].means.sum(-1).allclose(torch.tensor(1.0))


def test_means_run_along_and_levels_keep_them_apart(unet, tokenizer):
    noisy, text = inputs()
    times = [990, 700, 400, 10]
    alone = []
    for time in times:
        with capture(unet, tokenizer, PROMPTS) as maps:
            run(unet, noisy, text, time)
        alone.append(maps.word("robot").values)
    with capture(unet, tokenizer, PROMPTS) as whole, capture(unet, tokenizer, PROMPTS, levels=2) as parts:
        for time in times:
            run(unet, noisy, text, time)
    np.testing.assert_allclose(whole.word("robot").values, np.mean(alone, axis=0), rtol=1e-5)
    np.testing.assert_allclose(parts.word("robot").values, np.mean(alone, axis=0), rtol=1e-5)
    by = parts.by("level", "robot")
    assert list(by) == [0, 1] and by[0].passes == 2
    np.testing.assert_allclose(by[0].values, np.mean(alone[2:], axis=0), rtol=1e-5)
    np.testing.assert_allclose(by[1].values, np.mean(alone[:2], axis=0), rtol=1e-5)
    assert whole.word("robot").passes == 4


def test_rows_at_their_own_timesteps_go_to_their_own_levels(unet, tokenizer):
    noisy, text = inputs()
    with capture(unet, tokenizer, PROMPTS, levels=4) as maps:
        run(unet, noisy, text, [990, 10])
    assert maps.levels(0) == [3] and maps.levels(1) == [0]
    with pytest.raises(InputFault, match=r"levels \[0\] of picture 0: captured are \[3\]"):
        maps.word("robot", levels=[0])


def tensor_bytes() -> int:
    gc.collect()
    return sum(each.nbytes for each in gc.get_objects() if issubclass(type(each), torch.Tensor))


def test_memory_does_not_grow_with_the_steps(unet, tokenizer):
    noisy, text = inputs()
    held = []
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self"), levels=2):
        for step in range(12):
            run(unet, noisy, text, 999 - 80 * step)
            if step in (6, 11):
                held.append(tensor_bytes())
    assert held[0] == held[1]


def test_pictures_need_not_be_square(unet, tokenizer):
    by_hand = ByHand(unet)
    with capture(unet, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        run(unet, *inputs(height=8, width=12))
    found = maps.word("robot")
    assert found.values.shape == (8, 12) and found.on(16, 24).shape == (16, 24)
    name = maps.blocks()[0]
    place = token_positions(tokenizer, PROMPTS[0], "robot", LENGTH)[0]
    expected = by_hand.probabilities(name)[0].mean(0)[:, list(place)].sum(-1)
    layer = maps.record.layers[name]
    one = maps.word("robot", blocks=[name]).values
    # The sequence is the picture row by row.
    assert [one[row, column] for row in (0, 3) for column in (1, layer.width - 1)] == pytest.approx(
        [expected[row * layer.width + column] for row in (0, 3) for column in (1, layer.width - 1)], rel=1e-4
    )
    sizes = {each.values.shape for each in maps.by("block", "robot").values()}
    assert sizes == {(8, 12), (4, 6)}
    looked = maps.place(0.0, 0.99, blocks=[maps.blocks("self")[0]]).values
    weights = by_hand.probabilities(maps.blocks("self")[0])[0].mean(0)
    np.testing.assert_allclose(looked.ravel(), weights[looked.shape[1] - 1], atol=1e-6)


def test_guidance_rows_are_left_out(unet, tokenizer):
    noisy, text = inputs()
    empty = torch.zeros_like(text)
    with capture(unet, tokenizer, PROMPTS) as alone:
        run(unet, noisy, text)
    with capture(unet, tokenizer, PROMPTS) as guided:
        run(unet, torch.cat([noisy, noisy]), torch.cat([empty, text]))
    for picture, word in enumerate(("robot", "lamp")):
        np.testing.assert_allclose(guided.word(word, picture).values, alone.word(word, picture).values, atol=1e-6)


def test_pictures_of_a_batch_have_the_maps_they_have_alone(unet, tokenizer):
    noisy, text = inputs()
    with capture(unet, tokenizer, PROMPTS) as both:
        run(unet, noisy, text)
    for picture, word in enumerate(("robot", "lamp")):
        with capture(unet, tokenizer, [PROMPTS[picture]]) as alone:
            run(unet, noisy[[picture]], text[[picture]])
        np.testing.assert_allclose(both.word(word, picture).values, alone.word(word).values, atol=1e-6)


def test_diffusion_transformers_have_maps_too(dit, pixart, tokenizer):
    noisy, text = inputs(height=8, width=12)
    by_hand = ByHand(pixart)
    with capture(pixart, tokenizer, PROMPTS, kinds=("cross", "self")) as maps:
        run(pixart, noisy, text, [500, 500])
    assert maps.word("robot").values.shape == (4, 6)
    for name, layer in maps.record.layers.items():
        np.testing.assert_allclose(layer.means[0].numpy(), by_hand.probabilities(name), atol=2e-6)
    by_hand = ByHand(dit)
    with capture(dit, None, ["", ""], kinds=("self",)) as places, torch.no_grad():
        dit(noisy, timestep=torch.tensor([500, 500]), class_labels=torch.tensor([1, 2]))
    for name, layer in places.record.layers.items():
        np.testing.assert_allclose(layer.means[0].numpy(), by_hand.probabilities(name), atol=2e-6)
    assert places.place(0.1, 0.9).values.shape == (4, 6)
    with pytest.raises(InputFault, match="words need a tokenizer"):
        places.word("robot")


def test_nothing_captured_is_an_error(unet, dit, tokenizer):
    with pytest.raises(InputFault, match="the UNet2DConditionModel did not run"), capture(unet, tokenizer, PROMPTS):
        pass
    with (
        pytest.raises(InputFault, match="no cross-attention was recorded: none of the 2 attentions"),
        torch.no_grad(),
        capture(dit, tokenizer, PROMPTS),
    ):
        dit(inputs()[0], timestep=torch.tensor([500, 500]), class_labels=torch.tensor([1, 2]))

    class Own:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return hidden_states

    unet.set_attn_processor(Own())
    with pytest.raises(InputFault, match="use diffusers' own attention processors"), capture(unet, tokenizer, PROMPTS):
        run(unet, *inputs())


def test_what_cannot_be_told_is_an_error(unet, tokenizer):
    joint = SD3Transformer2DModel(
        sample_size=8, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=12,
        caption_projection_dim=16, pooled_projection_dim=8, in_channels=4, out_channels=4,
    )  # fmt: skip
    with (
        pytest.raises(InputFault, match="attends to text and picture at once"),
        capture(joint, tokenizer, PROMPTS),
    ):
        pass
    with pytest.raises(InputFault, match="batch of 3 rows, but there are 2 prompts"), capture(unet, tokenizer, PROMPTS):
        run(unet, *inputs(3))
    with (
        pytest.raises(InputFault, match="use a context for each size"),
        capture(unet, tokenizer, PROMPTS),
    ):
        run(unet, *inputs())
        run(unet, *inputs(height=16))
    with pytest.raises(InputFault, match="expected a sequence of prompts"), capture(unet, tokenizer, "a robot"):
        pass
    with pytest.raises(InputFault, match="expected some of cross, self"), capture(unet, tokenizer, PROMPTS, ("joint",)):
        pass
    with capture(unet, tokenizer, PROMPTS) as maps:
        run(unet, *inputs())
    for ask, said in (
        (lambda: maps.word("robot", 2), "picture 2: 2 were captured"),
        (lambda: maps.word("lamp"), "has no word 'lamp'"),
        (lambda: maps.word("robot", heads=[2]), "has 2 heads"),
        (lambda: maps.word("robot", heads=[]), "has 2 heads"),
        (lambda: maps.word("robot", blocks=["nowhere"]), r"blocks \['nowhere'\]: expected some of down_blocks"),
        (lambda: maps.word("robot", blocks=[]), "expected some of down_blocks"),
        (lambda: maps.place(0.5, 0.5), "no self-attention was captured"),
        (lambda: maps.place(1.5, 0.5), "expected shares"),
        (lambda: maps.by("step", "robot"), "expected block, head or level"),
    ):
        with pytest.raises(InputFault, match=said):
            ask()


DESIGNS = [
    {"method": "lora", "rank": 2, "targets": "attention"},
    {"method": "adapter", "input": "CA_c", "output": "CA_c", "width": 3},
    {"method": "adapter", "input": "SA_in", "output": "CA_in", "width": 3},
    {"method": "vpt", "tokens": 3, "place": "context"},
    {"method": "vpt", "tokens": 3, "place": "sequence"},
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: " ".join(map(str, design.values())))
def test_what_an_adapter_adds_is_in_the_maps(unet, tokenizer, design):
    given = inputs()
    with capture(unet, tokenizer, PROMPTS) as before:
        run(unet, *given)
    insertion = adapters.insert(unet, design, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    by_hand = ByHand(unet)
    expected = run(unet, *given)
    with capture(unet, tokenizer, PROMPTS) as after:
        assert torch.equal(run(unet, *given), expected)
    changed = []
    for name, layer in after.record.layers.items():
        places = layer.height * layer.width
        np.testing.assert_allclose(layer.means[0], by_hand.probabilities(name)[:, :, -places:], atol=1e-5)
        changed.append(np.abs(after.word("robot", blocks=[name]).values - before.word("robot", blocks=[name]).values))
    assert max(each.max() for each in changed) > 1e-3
    insertion.remove()
    with capture(unet, tokenizer, PROMPTS) as again:
        run(unet, *given)
    assert np.array_equal(again.word("robot").values, before.word("robot").values)
