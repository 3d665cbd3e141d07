"""Prompt tokens compute what longer texts, longer sequences and attention written by hand compute."""

import copy

import pytest
import torch
from diffusers import PixArtTransformer2DModel, Transformer2DModel
from torch import nn

from adapters import InputFault, count, insert, normalise
from adapters.layers import cross_attentions, transformer_blocks
from tests.adapters.conftest import CONTEXT, tiny_unet
from tests.adapters.test_insertion import assert_same_traces, traces

VARIANTS = [(place, depth) for place in ("context", "sequence") for depth in ("shallow", "deep")]
every_variant = pytest.mark.parametrize(("place", "depth"), VARIANTS)


def vpt(place="context", depth="deep", **size):
    return {"method": "vpt", "place": place, "depth": depth, **(size or {"tokens": 3})}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def large_tokens(denoiser, design):
    """Insert, with tokens so large that they cannot be overlooked."""
    insertion = insert(denoiser, design, seeded(1))
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(len(parameter))))
    return insertion


@pytest.fixture(scope="module")
def pixart():
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        out_channels=4,
        num_layers=3,
        cross_attention_dim=16,
        sample_size=8,
        num_embeds_ada_norm=10,
        caption_channels=CONTEXT,
    )
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixart_batch(batch):
    """With masks of both kinds: the last two words of some rows, and half of the patches of one, are not looked at."""
    words, patches = torch.ones(4, 5), torch.ones(4, 16)
    words[[0, 2], 3:] = 0
    patches[1, 8:] = 0
    return {
        "hidden_states": batch["sample"],
        "timestep": batch["timestep"],
        "encoder_hidden_states": batch["encoder_hidden_states"],
        "encoder_attention_mask": words,
        "attention_mask": patches,
    }


class Handwritten:
    """Attention as a formula, over what is given and over tokens beside it."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        given = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        beside = self.tokens.expand(len(given), -1, -1)
        heads, width = attention.heads, attention.inner_dim // attention.heads
        query, key, value, more_keys, more_values = (
            layer(tensor).unflatten(-1, (heads, width))
            for layer, tensor in [
                (attention.to_q, hidden_states),
                (attention.to_k, given),
                (attention.to_v, given),
                (attention.to_k, beside),
                (attention.to_v, beside),
            ]
        )
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / width**0.5
        if attention_mask is not None:
            logits = logits + attention_mask[:, None]
        more = torch.einsum("bqhd,bkhd->bhqk", query, more_keys) / width**0.5
        weights = torch.cat([more, logits], dim=-1).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        output = torch.einsum("bhqk,bkhd->bqhd", weights, torch.cat([more_values, value], dim=1))
        return attention.to_out[0](output.flatten(-2))


@pytest.mark.parametrize("on", ["plain", "deep"])
@pytest.mark.parametrize("masked", [False, True])
def test_shared_context_tokens_are_a_longer_text(unets, batch, on, masked):
    unet, text = unets[on], batch["encoder_hidden_states"]
    mask, longer = {}, {}
    if masked:
        words = torch.ones(4, 5)
        words[1:3, 2:] = 0
        mask = {"encoder_attention_mask": words}
        longer = {"encoder_attention_mask": torch.cat([words, torch.ones(4, 3)], dim=1)}
    untouched = unet(**batch, **mask).sample
    insertion = large_tokens(unet, vpt(depth="shallow"))
    got = unet(**batch, **mask).sample
    insertion.remove()
    tokens = insertion.parameters()[0].detach().expand(4, -1, -1)
    expected = unet(**{**batch, "encoder_hidden_states": torch.cat([text, tokens], dim=1)}, **longer).sample
    assert (got - untouched).abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("on", ["plain", "deep", "pixart"])
@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_context_tokens_equal_attention_over_concatenated_keys(unets, batch, pixart, pixart_batch, on, depth):
    denoiser, rows = (pixart, pixart_batch) if on == "pixart" else (unets[on], batch)
    untouched = denoiser(**rows).sample
    insertion = large_tokens(denoiser, vpt(depth=depth))
    got = denoiser(**rows).sample
    insertion.remove()
    state = insertion.state()
    byhand = copy.deepcopy(denoiser)
    for name, attention in cross_attentions(byhand):
        attention.set_processor(Handwritten(state["context.tokens" if depth == "shallow" else f"{name}.tokens"]))
    assert (got - untouched).abs().max() > 1e-3
    torch.testing.assert_close(got, byhand(**rows).sample, rtol=1e-10, atol=1e-10)


def test_deep_sequence_tokens_equal_a_transformer_block_written_by_hand(dit, dit_batch):
    insertion = large_tokens(dit, vpt("sequence"))
    name, block = transformer_blocks(dit)[1]
    state = insertion.state()
    tensor = torch.randn(4, 16, 16, generator=seeded(3), dtype=torch.float64)
    conditions = {key: dit_batch[key] for key in ("timestep", "class_labels")}
    got = block(tensor, **conditions)
    insertion.remove()

    # DiT (2212.09748) §3.2, adaLN-Zero; keys and values are of the tokens too, queries of the sequence only
    embedded = block.norm1.emb(**conditions, hidden_dtype=torch.float64)
    parts = [part[:, None] for part in block.norm1.linear(nn.functional.silu(embedded)).chunk(6, dim=1)]

    def normed(tensor, shift, scale, eps):
        return nn.functional.layer_norm(tensor, (16,), eps=eps) * (1 + scale) + shift

    sequence = normed(torch.cat([state[f"{name}.tokens"].expand(4, -1, -1), tensor], dim=1), *parts[:2], 1e-6)
    query, key, value = (getattr(block.attn1, f"to_{n}")(sequence).unflatten(-1, (2, 8)) for n in "qkv")
    weights = (torch.einsum("bqhd,bkhd->bhqk", query[:, 3:], key) / 8**0.5).softmax(-1)
    attended = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(-2)
    trunk = tensor + parts[2] * block.attn1.to_out[0](attended)
    expected = trunk + parts[5] * block.ff(normed(trunk, *parts[3:5], 1e-5))
    assert got.shape == tensor.shape and (got - block(tensor, **conditions)).abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


class Together(nn.Module):
    """Several blocks as one, which puts tokens before their sequence, lengthens the mask, and takes the tokens off."""

    def __init__(self, blocks, tokens):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tokens = tokens
        self.norm1 = blocks[0].norm1  # where diffusers' DiT looks for its embedders

    def forward(self, hidden_states, attention_mask=None, **others):
        if attention_mask is not None:
            ours = torch.zeros(*attention_mask.shape[:-1], len(self.tokens), dtype=attention_mask.dtype)
            attention_mask = torch.cat([ours, attention_mask], dim=-1)
        hidden_states = torch.cat([self.tokens.expand(len(hidden_states), -1, -1), hidden_states], dim=1)
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask=attention_mask, **others)
        return hidden_states[:, len(self.tokens) :]


@pytest.mark.parametrize("on", ["plain", "deep", "dit", "pixart"])
@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_sequence_tokens_equal_longer_sequences(unets, batch, dit, dit_batch, pixart, pixart_batch, on, depth):
    denoiser, rows = {"dit": (dit, dit_batch), "pixart": (pixart, pixart_batch)}.get(on) or (unets[on], batch)
    untouched = denoiser(**rows).sample
    insertion = large_tokens(denoiser, vpt("sequence", depth))
    got = denoiser(**rows).sample
    insertion.remove()
    state = insertion.state()
    byhand = copy.deepcopy(denoiser)
    lists = [(n, m) for n, m in byhand.named_modules() if n.rpartition(".")[2] == "transformer_blocks"]
    for name, run in lists:
        if depth == "shallow":
            wrapped = [Together(list(run), state[f"{name}.tokens"])]
        else:
            wrapped = [Together([block], state[f"{name}.{index}.tokens"]) for index, block in enumerate(run)]
        owner = byhand.get_submodule(name.rpartition(".")[0])
        owner.transformer_blocks = nn.ModuleList(wrapped)
    assert len(state) == sum(1 if depth == "shallow" else len(run) for _, run in lists)
    assert (got - untouched).abs().max() > 1e-3
    torch.testing.assert_close(got, byhand(**rows).sample, rtol=1e-12, atol=1e-12)


def test_masked_words_and_patches_stay_masked(pixart, pixart_batch):
    # what a mask hides may change, and the output does not
    hidden = {key: value.clone() for key, value in pixart_batch.items()}
    hidden["encoder_hidden_states"][[0, 2], 3:] += 10
    for place, depth in VARIANTS:
        insertion = large_tokens(pixart, vpt(place, depth))
        torch.testing.assert_close(pixart(**pixart_batch).sample, pixart(**hidden).sample, rtol=0, atol=1e-12)
        insertion.remove()


@every_variant
def test_gradient_checkpointing_changes_nothing(pixart, pixart_batch, place, depth):
    model, results = copy.deepcopy(pixart).train(), []
    insertion = large_tokens(model, vpt(place, depth))
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        output = model(**pixart_batch).sample
        output.square().mean().backward()
        results.append([output.detach(), *(parameter.grad for parameter in insertion.parameters())])
        for parameter in insertion.parameters():
            parameter.grad = None
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second) and first.abs().max() > 0


# closed forms. Stable Diffusion 1.5: 16 blocks of one layer, widths sum to 12,480, text 768; XL: 70 blocks in 11
# transformers, widths sum to 83,200 and 10,880, text 2048; DiT-XL/2: 28 blocks of 1152.
@pytest.mark.parametrize(
    ("name", "place", "depth", "each"),
    [
        ("sd15", "context", "shallow", 768),
        ("sd15", "context", "deep", 16 * 768),
        ("sd15", "sequence", "shallow", 12_480),
        ("sd15", "sequence", "deep", 12_480),
        ("sd21", "context", "shallow", 1024),
        ("sdxl", "context", "deep", 70 * 2048),
        ("sdxl", "sequence", "shallow", 10_880),
        ("sdxl", "sequence", "deep", 83_200),
        ("dit-xl-2", "sequence", "shallow", 1152),
        ("dit-xl-2", "sequence", "deep", 28 * 1152),
    ],
)
def test_counts_and_budgets_on_true_architectures(architectures, name, place, depth, each):
    got = count(architectures[name], vpt(place, depth, tokens=10))
    assert (got.trainable, got.resolved, got.budget_asked) == (10 * each, {"tokens": 10}, None)
    got = count(architectures[name], vpt(place, depth, budget="0.1%"))
    asked = round(0.001 * got.backbone)
    # nearest: one token more or fewer is further away
    tokens = got.resolved["tokens"]
    assert got.trainable == tokens * each and got.budget_asked == asked and got.budget_met
    assert abs(tokens * each - asked) <= min(abs((tokens + step) * each - asked) for step in (-1, 1))
    few = count(architectures[name], vpt(place, depth, budget=each // 3))
    assert few.resolved == {"tokens": 1} and not few.budget_met


def test_canonical_designs():
    expected = {"method": "vpt", "tokens": 4, "depth": "deep", "place": "context"}
    assert normalise({"method": "vpt", "tokens": "4"}) == normalise({**expected, "budget": None}) == expected
    assert normalise(vpt("sequence", "shallow", budget="1%"))["budget"] == 0.01


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"method": "vpt"}, "neither tokens nor budget"),
        ({"method": "vpt", "tokens": 3, "budget": "1%"}, "both tokens and budget"),
        *[({"method": "vpt", "tokens": tokens}, "tokens") for tokens in (0, -1, 1.5, True, "many")],
        (vpt(depth="middle"), "shallow, deep"),
        (vpt(place="text"), "context, sequence"),
        ({**vpt(), "width": 3}, "width; its keys are tokens, budget, depth, place"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(design, message):
    with pytest.raises(InputFault, match=message):
        normalise(design)


def test_denoisers_that_do_not_fit_are_refused(dit):
    for depth in ("shallow", "deep"):
        with pytest.raises(InputFault, match="DiTTransformer2DModel has no cross-attention.*place=sequence"):
            count(dit, vpt(depth=depth))
    uneven = tiny_unet(cross_attention_dim=(CONTEXT, 20), block_out_channels=(8, 16), up_block_types=("UpBlock2D",) * 2)
    with pytest.raises(InputFault, match="widths 12, 20, .*depth=deep"):
        insert(uneven, vpt(depth="shallow"))
    assert count(uneven, vpt(tokens=1)).trainable == 12 + 20
    with pytest.raises(InputFault, match="no transformer blocks"):
        count(nn.Sequential(nn.Linear(2, 2)), vpt("sequence"))
    placed = tiny_unet()
    transformer_blocks(placed)[0][1].pos_embed = nn.Identity()
    with pytest.raises(InputFault, match="its own positions.*place=context"):
        count(placed, vpt("sequence"))


def test_tokens_go_where_there_is_self_attention_to_see_them():
    # Stable Diffusion's upscaler has blocks of two cross-attentions
    blind = Transformer2DModel(2, 4, in_channels=8, norm_num_groups=2, cross_attention_dim=6, only_cross_attention=True)
    with pytest.raises(InputFault, match="no transformer blocks with self-attention"):
        count(blind, vpt("sequence"))
    assert count(blind, vpt(tokens=1)).trainable == 2 * 6


@pytest.mark.parametrize("text", [None, "tuple"])
def test_context_tokens_need_a_text(unet, batch, text):
    insertion = insert(unet, vpt())
    given = batch["encoder_hidden_states"]
    with pytest.raises(InputFault, match="encoder_hidden_states; give a tensor"):
        unet(**{**batch, "encoder_hidden_states": None if text is None else (given, [given])})
    insertion.remove()


def test_rows_must_fit_the_batch(unet, batch):
    for place in ("context", "sequence"):
        insertion = insert(unet, vpt(place))
        with insertion.rows([0] * 3), pytest.raises(InputFault, match="3 rows, but the batch has 4"):
            unet(**batch)
        with insertion.rows([0] * 4):
            assert unet(**batch).sample.shape == batch["sample"].shape
        insertion.remove()


@every_variant
def test_every_row_is_computed_as_it_is_alone(unets, batch, place, depth):
    unet = unets["deep"]
    insertion = large_tokens(unet, vpt(place, depth))
    together = unet(**batch).sample
    for row in range(4):
        alone = unet(**{name: value[row : row + 1] for name, value in batch.items()}).sample
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-12, atol=1e-12)
    insertion.remove()


def test_start_is_uniform_within_xaviers_bound(unet):
    # closed form: U(-b, b) with b = √(6 / (2 · width)) has SD b / √3
    insertion = insert(unet, vpt(depth="shallow", tokens=3000), seeded(2))
    insertion.remove()
    (tokens,) = insertion.state().values()
    bound = (6 / (2 * CONTEXT)) ** 0.5
    assert 0.99 * bound < tokens.abs().max() <= bound
    assert tokens.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    deep = insert(unet, vpt(tokens=4), seeded(2))
    deep.remove()
    assert len({tuple(value.flatten().tolist()) for value in deep.state().values()}) == len(deep.state())


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tokens_stay_float32_and_compute_follows_the_tensor(unet, batch, place, depth, dtype):
    low = copy.deepcopy(unet).to(dtype)
    insertion = insert(low, vpt(place, depth), seeded(0))
    output = low(**{n: v.to(dtype) if v.is_floating_point() else v for n, v in batch.items()}).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype
    assert all(p.dtype == torch.float32 and p.grad.abs().max() > 0 for p in insertion.parameters())


@every_variant
def test_training_then_removing_leaves_no_trace(unets, batch, place, depth):
    unet = unets["deep"]
    before, untouched = traces(unet), unet(**batch).sample
    insertion = insert(unet, vpt(place, depth), seeded(1))
    unet(**batch).sample.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in insertion.parameters())
    with pytest.raises(InputFault, match="cannot be merged"):
        insertion.merged()
    insertion.remove()
    insertion.remove()
    assert torch.equal(unet(**batch).sample, untouched)
    assert_same_traces(before, traces(unet))


@every_variant
def test_failure_in_the_middle_leaves_no_trace(unet, monkeypatch, place, depth):
    register, calls = nn.Module.register_forward_pre_hook, []

    def fail(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise MemoryError("no more")
        return register(self, *args, **kwargs)

    before = traces(unet)
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "register_forward_pre_hook", fail)
        with pytest.raises(MemoryError):
            insert(unet, vpt(place, depth))
    assert_same_traces(before, traces(unet))
