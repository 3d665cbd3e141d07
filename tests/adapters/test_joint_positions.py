"""Positions in joint-attention blocks, against plain re-implementations of their forward passes.

The plain forward passes are written from the definitions: SD 3 and the double blocks of Flux, for the picture's part,
x += g SA(m(norm x), text); x += g FFN(m(norm x)), in SD 3.5 with a second self-attention beside the first; the single
blocks of Flux, x += g W [SA(m(norm x)), GELU(V m(norm x))] on text and picture in one sequence.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock

from adapters import PAIRS, count, insert
from adapters.faults import InputFault
from adapters.positions import blocks
from tests.adapters.test_positions import PLAIN_ACTIVATIONS, PlainAdapter

JOINT = [pair for pair in PAIRS if not any(place.startswith(("CA_", "Res_")) for place in pair)]


def drawn(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def sd3():
    sizes = {"sample_size": 8, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "in_channels": 4}
    text = {"joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 6}
    return drawn(SD3Transformer2DModel(**sizes, **text, out_channels=4, pos_embed_max_size=8,
                                       dual_attention_layers=(0,), qk_norm="rms_norm"))  # fmt: skip


@pytest.fixture(scope="module")
def flux():
    return drawn(FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=6, axes_dims_rope=(4, 2, 2),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def batches(sd3, flux):
    generator = torch.Generator().manual_seed(7)
    text = {
        "encoder_hidden_states": torch.randn(4, 5, 12, generator=generator, dtype=torch.float64),
        "pooled_projections": torch.randn(4, 6, generator=generator, dtype=torch.float64),
        "timestep": torch.tensor([0.01, 0.4, 0.7, 0.999], dtype=torch.float64),
    }
    grid = torch.zeros(16, 3)
    grid[:, 1], grid[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    return {
        sd3: {"hidden_states": torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64), **text},
        flux: {"hidden_states": torch.randn(4, 16, 16, generator=generator, dtype=torch.float64),
               "txt_ids": torch.zeros(5, 3), "img_ids": grid, **text},
    }  # fmt: skip


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def feed_forward(module, x):
    return module.net[2](F.gelu(module.net[0].proj(x), approximate="tanh"))


def plain_joint(block, adapter):
    def forward(hidden_states, encoder_hidden_states, temb, image_rotary_emb=None, joint_attention_kwargs=None):
        x, text, signal = adapter.at("SA_in", hidden_states), encoder_hidden_states, F.silu(temb)
        dual = getattr(block, "attn2", None) is not None
        parts = [part[:, None] for part in block.norm1.linear(signal).chunk(9 if dual else 6, 1)]
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts[:6]
        rotary = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
        last = getattr(block, "context_pre_only", False)
        own = [part[:, None] for part in block.norm1_context.linear(signal).chunk(2 if last else 6, 1)]
        # the norm of a last block's text gives the scale first
        text_scale, text_shift = (own[0], own[1]) if last else (own[1], own[0])
        branch, told = norm(x) * (1 + scale) + shift, norm(text) * (1 + text_scale) + text_shift
        attended, text_attended = block.attn(hidden_states=branch, encoder_hidden_states=told, **rotary)
        beside = 0
        if dual:
            beside = parts[8] * block.attn2(hidden_states=norm(x) * (1 + parts[7]) + parts[6])
        x = adapter.at("FFN_in", x + gate * adapter.at("SA_out", attended) + beside)
        fed = adapter.at("FFN_out", feed_forward(block.ff, norm(x) * (1 + scale_ff) + shift_ff))
        x = adapter.at("Trans_out", x + gate_ff * fed)
        if last:
            return None, x
        text = text + own[2] * text_attended
        return text + own[5] * feed_forward(block.ff_context, norm(text) * (1 + own[4]) + own[3]), x

    return forward


def plain_single(block, adapter):
    def forward(hidden_states, encoder_hidden_states, temb, image_rotary_emb=None, joint_attention_kwargs=None):
        length = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, adapter.at("SA_in", hidden_states)], 1)
        shift, scale, gate = (part[:, None] for part in block.norm.linear(F.silu(temb)).chunk(3, 1))
        branch = norm(x) * (1 + scale) + shift
        attended = block.attn(hidden_states=branch, image_rotary_emb=image_rotary_emb)
        x = x + gate * block.proj_out(torch.cat([attended, F.gelu(block.proj_mlp(branch), approximate="tanh")], 2))
        return x[:, :length], adapter.at("Trans_out", x[:, length:])

    return forward


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("pair", JOINT, ids="→".join)
def test_pair_equals_plain_forward(request, batches, name, pair):
    model = request.getfixturevalue(name)
    batch = batches[model]
    design = {
        "method": "adapter",
        "input": pair[0],
        "output": pair[1],
        "activation": list(PLAIN_ACTIVATIONS)[JOINT.index(pair) % 4],
        "scale": 2,
        "init": "default",
        "width": 3,
    }
    untouched = model(**batch).sample
    insertion = insert(model, design, torch.Generator().manual_seed(1))
    got = model(**batch).sample
    state = insertion.state()
    insertion.remove()
    placed = [block.name for block in blocks(model, *pair)]
    plain = copy.deepcopy(model)
    for each, module in plain.named_modules():
        if each in placed:
            make = plain_single if isinstance(module, FluxSingleTransformerBlock) else plain_joint
            assert isinstance(module, JointTransformerBlock | FluxTransformerBlock | FluxSingleTransformerBlock)
            module.forward = make(module, PlainAdapter(design, state, each, groups=1))
    assert (got - untouched).abs().max() > 1e-4
    torch.testing.assert_close(got, plain(**batch).sample, rtol=1e-9, atol=1e-11)
    assert torch.equal(model(**batch).sample, untouched)


def test_single_blocks_of_flux_have_the_pairs_that_they_can_have(flux):
    both = [("SA_in", "SA_in"), ("SA_in", "Trans_out"), ("Trans_out", "Trans_out")]
    for pair in JOINT:
        assert len(blocks(flux, *pair)) == (4 if pair in both else 2)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_what_joint_attention_lacks_is_refused_with_what_there_is(request, name):
    for pair in [("CA_out", "FFN_in"), ("CA_c", "CA_c"), ("SA_in", "CA_in")]:
        told = "no cross-attention; they can be read at SA_in, SA_out, FFN_in, FFN_out, Trans_out and written at SA_in"
        with pytest.raises(InputFault, match=told):
            blocks(request.getfixturevalue(name), *pair)


def test_parameters_of_the_true_architectures_are_the_published_ones(architectures):
    # Closed forms from the configurations, d the width. A double block: two modulations 6(d² + d), two parts of an
    # attention 4(d² + d), two feed-forwards 8d² + 5d. SD 3 medium: 24 of them, the last one's text with two
    # modulations and neither output projection nor feed-forward.
    d = 1536
    double = 2 * (6 * (d * d + d) + 4 * (d * d + d) + 8 * d * d + 5 * d)
    last = double - 4 * (d * d + d) - (d * d + d) - (8 * d * d + 5 * d)
    embedders = (257 * d + d * d + d) + (2049 * d + d * d + d) + 4097 * d + (64 + 1) * d
    out = 2 * (d * d + d) + (d + 1) * 64
    sd3 = 23 * double + last + embedders + out
    assert sum(p.numel() for p in architectures["sd3-medium"].parameters()) == sd3
    assert round(sd3 / 1e9) == 2  # billions, as published
    # Flux: 19 double blocks, with norms of queries and keys of 128 in each part; 38 single ones, a modulation of
    # 3(d² + d), q, k, v, the MLP's d → 4d and 5d → d; dev is told the guidance by one more embedder.
    d = 3072
    double = 2 * (6 * (d * d + d) + 4 * (d * d + d) + 8 * d * d + 5 * d + 2 * 128)
    single = 3 * (d * d + d) + 3 * (d * d + d) + (4 * d * d + 4 * d) + (5 * d * d + d) + 2 * 128
    time = 257 * d + d * d + d
    embedders = time + (769 * d + d * d + d) + 4097 * d + 65 * d
    out = 2 * (d * d + d) + (d + 1) * 64
    flux = 19 * double + 38 * single + embedders + out
    assert sum(p.numel() for p in architectures["flux-schnell"].parameters()) == flux
    assert sum(p.numel() for p in architectures["flux-dev"].parameters()) == flux + time
    assert round((flux + time) / 1e9, 1) == 11.9  # the published 12 B


def test_lora_on_joint_attention_is_on_both_streams(architectures):
    # 19 double blocks of 8 matrices d → d, 38 single ones of 3, A and B of rank r have 2 · d · r each.
    lora = count(architectures["flux-dev"], {"method": "lora", "rank": 4})
    assert lora.trainable == (19 * 8 + 38 * 3) * 2 * 3072 * 4
