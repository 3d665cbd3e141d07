"""Positions in the gated blocks of diffusion transformers, against plain re-implementations of their forward passes.

The plain forward passes are written from the definitions: DiT, x += g SA(m(norm x)); x += g FFN(m(norm x)) with the
gates g and modulations m of its adaptive norm; PixArt, x += g SA(m(norm x)); x += CA(x, text); x += g FFN(m(norm x)).
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock

from adapters import PAIRS, count, insert
from tests.adapters.test_positions import PLAIN_ACTIVATIONS, PlainAdapter, plain_attention

TRANSFORMER_PAIRS = [pair for pair in PAIRS if not pair[0].startswith("Res_")]
WITHOUT_CROSS = [pair for pair in TRANSFORMER_PAIRS if not any(position.startswith("CA_") for position in pair)]


@pytest.fixture(scope="module")
def pixart():
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2,
        cross_attention_dim=16, caption_channels=12,
    )  # fmt: skip
    for parameter in model.parameters():  # some layers start at zero, which would hide what comes before them
        torch.nn.init.normal_(parameter, std=0.1)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixart_batch():
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64),
        "encoder_hidden_states": torch.randn(4, 5, 12, generator=generator, dtype=torch.float64),
        "timestep": torch.tensor([10, 400, 700, 999]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def feed_forward(block, x):
    return block.ff.net[2](F.gelu(block.ff.net[0].proj(x), approximate="tanh"))


def plain_dit_block(block, adapter):
    def forward(hidden_states, timestep=None, class_labels=None, **_):
        x = adapter.at("SA_in", hidden_states)
        embedded = block.norm1.linear(F.silu(block.norm1.emb(timestep, class_labels, hidden_dtype=x.dtype)))
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (part[:, None] for part in embedded.chunk(6, dim=1))
        branch = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        x = adapter.at("FFN_in", x + gate * adapter.at("SA_out", plain_attention(block.attn1, branch, branch)))
        branch = F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale_ff) + shift_ff
        return adapter.at("Trans_out", x + gate_ff * adapter.at("FFN_out", feed_forward(block, branch)))

    return forward


def plain_pixart_block(block, adapter):
    def forward(hidden_states, encoder_hidden_states=None, timestep=None, **_):
        x = adapter.at("SA_in", hidden_states)
        table = block.scale_shift_table[None] + timestep.reshape(len(x), 6, -1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = table.chunk(6, dim=1)
        branch = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        x = adapter.at("CA_in", x + gate * adapter.at("SA_out", plain_attention(block.attn1, branch, branch)))
        context = adapter.at("CA_c", encoder_hidden_states)
        x = adapter.at("FFN_in", x + adapter.at("CA_out", plain_attention(block.attn2, x, context)))
        branch = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_ff) + shift_ff
        return adapter.at("Trans_out", x + gate_ff * adapter.at("FFN_out", feed_forward(block, branch)))

    return forward


def check(model, batch, pair, plain_block):
    design = {
        "method": "adapter",
        "input": pair[0],
        "output": pair[1],
        "activation": list(PLAIN_ACTIVATIONS)[PAIRS.index(pair) % 4],
        "scale": 2,
        "init": "default",
        "width": 3,
    }
    untouched = model(**batch).sample
    insertion = insert(model, design, torch.Generator().manual_seed(1))
    got = model(**batch).sample
    pack = insertion.state()
    insertion.remove()
    plain = copy.deepcopy(model)
    for name, module in plain.named_modules():
        if isinstance(module, BasicTransformerBlock):
            module.forward = plain_block(module, PlainAdapter(design, pack, name, groups=1))
    assert (got - untouched).abs().max() > 1e-4
    torch.testing.assert_close(got, plain(**batch).sample, rtol=1e-9, atol=1e-11)
    assert torch.equal(model(**batch).sample, untouched)


@pytest.mark.parametrize("pair", WITHOUT_CROSS, ids="→".join)
def test_pair_equals_plain_forward_in_dit(dit, dit_batch, pair):
    check(dit, dit_batch, pair, plain_dit_block)


@pytest.mark.parametrize("pair", TRANSFORMER_PAIRS, ids="→".join)
def test_pair_equals_plain_forward_in_pixart(pixart, pixart_batch, pair):
    check(pixart, pixart_batch, pair, plain_pixart_block)


@pytest.mark.parametrize("pair", [("CA_in", "CA_in"), ("SA_out", "CA_in"), ("FFN_in", "FFN_in")], ids="→".join)
def test_packed_equals_alone_where_a_value_is_added_twice(pixart, pixart_batch, pair):
    design = {"method": "adapter", "input": pair[0], "output": pair[1], "width": 3}
    pack = insert(pixart, [design, design], [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    with pack.rows([1, 0, 0, 1]):
        together = pixart(**pixart_batch).sample
    pack.remove()
    for slot, own in enumerate(([1, 2], [0, 3])):
        alone = insert(pixart, design, torch.Generator().manual_seed(slot + 1))
        rows = {name: value[own] if torch.is_tensor(value) else value for name, value in pixart_batch.items()}
        torch.testing.assert_close(pixart(**rows).sample, together[own], rtol=1e-10, atol=1e-12)
        alone.remove()


def test_bottlenecks_in_dit_count_as_in_the_paper(architectures):
    # PAPERS §2: bottleneck 64 on DiT-XL/2 and a new 102×1152 class embedder are 4,280,320
    for method in ("adaptformer", "sequential"):
        assert count(architectures["dit-xl-2"], {"method": method, "width": 64}).trainable == 4_280_320 - 102 * 1152
