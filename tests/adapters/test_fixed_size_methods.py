"""Methods that train the denoiser's own parameters: chosen by type, counted exactly, merged and taken off exactly."""

import copy

import pytest
import torch
from diffusers import Transformer2DModel
from diffusers.models.normalization import RMSNorm
from torch import nn

from adapters import InputFault, count, insert, normalise
from adapters.draws import Draws
from adapters.edits.rows import Rows
from adapters.edits.scale import Scale
from adapters.edits.stack import Stack
from adapters.layers import Layer
from adapters.own_parameters import biases, class_embedders, norm_weights
from tests.adapters.conftest import tiny_unet
from tests.adapters.test_insertion import assert_same_traces, traces

BITFIT, DIFFFIT, FULL = ({"method": method} for method in ("bitfit", "difffit", "full"))
ATTENTION, KV = {"part": "attention"}, {"part": "cross_attention_kv"}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def names(denoiser, design):
    insertion = insert(denoiser, design)
    insertion.remove()
    return set(insertion.state())


# PAPERS §5: biases of the whole denoiser, and of its attentions' matrices Σ in·out. Stable Diffusion 1.5 and XL have
# biases on out projections only, of blocks whose widths sum to 12,480 and 83,200; DiT on all of q, k, v, out.
@pytest.mark.parametrize(
    ("name", "design", "parameters"),
    [
        ("sd15", BITFIT, 343_684),
        ("sdxl", BITFIT, 1_289_284),
        ("dit-xl-2", BITFIT, 551_840),
        ("sd15", {**BITFIT, **ATTENTION}, 2 * 12_480),
        ("sdxl", {**BITFIT, **ATTENTION}, 2 * 83_200),
        ("dit-xl-2", {**BITFIT, **ATTENTION}, 28 * 4 * 1152),
        ("sd15", {**FULL, **ATTENTION}, 93_511_680 + 2 * 12_480),
        ("sdxl", {**FULL, **ATTENTION}, 955_187_200 + 2 * 83_200),
        ("dit-xl-2", {**FULL, **ATTENTION}, 148_635_648 + 28 * 4 * 1152),
        # Custom Diffusion (2212.04488): keys and values of the 16 cross-attentions, 75 MB in float32
        ("sd15", {**FULL, **KV}, 2 * 768 * 12_480),
        ("sdxl", {**FULL, **KV}, 2 * 2048 * 83_200),
        # PAPERS §2: biases and norms 443,844; γ on branches 3 a block, with q, k, v, out 11 a block: 581,124 in all
        ("sd15", DIFFFIT, 443_844 + 3 * 12_480),
        ("sd15", {**DIFFFIT, "gamma": "blocks+qkvo"}, 581_124),
        # the first 5 of the 16 blocks: those on the way down, widths 320, 320, 640, 640, 1280
        ("sd15", {**DIFFFIT, "gamma": "first:5"}, 443_844 + 3 * 3200),
        # diffusers' DiT has a class embedder of 1,001 rows in each of its 28 blocks, and no affine norms
        ("dit-xl-2", DIFFFIT, 551_840 + 28 * 1001 * 1152 + 28 * 2 * 1152),
        ("dit-xl-2", {**DIFFFIT, "gamma": "blocks+qkvo"}, 551_840 + 28 * 1001 * 1152 + 28 * 6 * 1152),
        ("dit-xl-2", {**DIFFFIT, "gamma": "first:14"}, 551_840 + 28 * 1001 * 1152 + 14 * 2 * 1152),
    ],
    ids=str,
)
def test_counts_on_true_architectures(architectures, name, design, parameters):
    got = count(architectures[name], design)
    assert got.trainable == parameters and got.ratio == parameters / got.backbone
    assert got.budget_asked is None and got.budget_met and got.resolved == {}


def test_count_on_diffusers_dit_is_the_papers_but_for_the_copied_embedders(architectures):
    # PAPERS §2: BitFit on DiT-XL/2 is 607,136 with one time embedder (two biases of 1152) and 102 new classes
    ours = count(architectures["dit-xl-2"], BITFIT).trainable
    assert ours - 27 * 2 * 1152 + 102 * 1152 == 607_136


def test_modules_are_chosen_by_type_and_not_by_a_name_with_norm(architectures, dit):
    # TRAPS: by the substring "norm", 300.9 M parameters of DiT-XL/2 would be trained
    xl = architectures["dit-xl-2"]
    assert sum(p.numel() for name, p in xl.named_parameters() if "norm" in name) == 300_916_224
    assert norm_weights(xl) == {}
    assert {name.rpartition(".")[2] for name in biases(xl)} == {"bias"}
    tables = {f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight" for i in range(28)}
    assert set(class_embedders(xl)) == tables
    frozen = {name for name, _ in dit.named_parameters()} - names(dit, DIFFFIT)
    assert "transformer_blocks.0.norm1.linear.weight" in frozen
    assert "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight" in frozen


def test_chosen_parameters_are_those_of_the_denoisers_state(unets, dit):
    for denoiser in (*unets.values(), dit):
        own = {name for name, _ in denoiser.named_parameters()}
        attention = {name for name in own if ".attn1." in name or ".attn2." in name}
        assert names(denoiser, BITFIT) == {name for name in own if name.endswith(".bias")}
        assert names(denoiser, {**BITFIT, **ATTENTION}) == {name for name in attention if name.endswith(".bias")}
        assert names(denoiser, {**FULL, **ATTENTION}) == attention
        assert names(denoiser, FULL) == names(denoiser, {**FULL, "part": "all"}) == own
        affine = {name for name in own if name.endswith(".weight") and denoiser.get_parameter(name).ndim == 1}
        assert set(norm_weights(denoiser)) == affine
    kv = {n for n, _ in unets["deep"].named_parameters() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert names(unets["deep"], {**FULL, **KV}) == kv and len(kv) == 4 * 2 * 2  # transformers, blocks of each, k and v


def test_every_kind_of_norm_and_layer_is_known():
    kinds = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "one": nn.Conv1d(2, 3, 1),
            "three": nn.ConvTranspose3d(2, 3, 1),
            "group": nn.GroupNorm(1, 4),
            "layer": nn.LayerNorm(4),
            "batch": nn.BatchNorm2d(4),
            "rms": nn.RMSNorm(4),
            "diffusers": RMSNorm(4, 1e-6, bias=True),
            "plain": nn.LayerNorm(4, elementwise_affine=False),
            "table": nn.Embedding(5, 2),
            "slope": nn.PReLU(3),
        }
    )
    norms = {"group", "layer", "batch", "diffusers"}
    assert set(biases(kinds)) == {f"{name}.bias" for name in norms | {"linear", "one", "three"}}
    assert set(norm_weights(kinds)) == {f"{name}.weight" for name in norms | {"rms"}}
    assert set(class_embedders(kinds)) == {"table.weight"}


def test_class_embedder_of_a_unet_is_tuned_and_a_table_of_timesteps_is_not():
    assert "class_embedding.weight" in names(tiny_unet(num_class_embeds=5), DIFFFIT)
    adaptive = Transformer2DModel(
        2, 4, in_channels=8, norm_num_groups=2, num_embeds_ada_norm=10, norm_type="ada_norm", cross_attention_dim=6
    )
    assert any(isinstance(module, nn.Embedding) for module in adaptive.modules())
    assert class_embedders(adaptive) == {}


def test_parameters_that_are_shared_are_trained_once(unet, batch):
    shared = copy.deepcopy(unet)
    resnet = shared.mid_block.resnets[0]
    resnet.conv2.bias = resnet.conv1.bias
    once = count(unet, BITFIT).trainable - resnet.conv1.bias.numel()
    assert count(shared, BITFIT).trainable == once
    untouched, insertion = shared(**batch).sample, insert(shared, BITFIT)
    with torch.no_grad():
        dict(insertion.named_parameters())["mid_block.resnets.0.conv1.bias"].add_(0.1)
    tuned = shared(**batch).sample
    insertion.remove()
    resnet.conv1.bias += 0.1
    assert (tuned - untouched).abs().max() > 1e-3
    torch.testing.assert_close(tuned, shared(**batch).sample, rtol=1e-12, atol=1e-12)


def test_canonical_designs():
    assert normalise(BITFIT) == {"method": "bitfit", "part": "all"}
    assert normalise({**BITFIT, "part": None}) == normalise(BITFIT)
    assert normalise(DIFFFIT) == {"method": "difffit", "gamma": "blocks"}
    for text in ("first:14", "first: 14", "first:014"):
        assert normalise({**DIFFFIT, "gamma": text}) == {"method": "difffit", "gamma": "first:14"}
    # ids of trials in existing stores are hashes of this
    assert normalise({**FULL, "part": "all"}) == {"method": "full"}
    assert normalise({**FULL, **KV}) == {"method": "full", "part": "cross_attention_kv"}


@pytest.mark.parametrize(
    ("design", "message"),
    [
        *[({"method": method, "budget": "3%"}, "fixed size, so no budget") for method in ("bitfit", "difffit", "full")],
        ({"method": "none", "budget": "3%"}, "fixed size, so no budget"),
        ({**BITFIT, "rank": 3}, "rank; its keys are part$"),
        ({**BITFIT, "part": "norms"}, "all, attention"),
        ({**BITFIT, "part": True}, "all, attention"),
        ({**FULL, "part": "cross-attention"}, "all, attention, cross_attention_kv"),
        *[
            ({**DIFFFIT, "gamma": gamma}, "blocks, blocks.qkvo, and first:N")
            for gamma in ("", "block", "first", "first:0", "first:-1", "first:1.5", "first:٣", 14, True, [])
        ],
        ({**DIFFFIT, "part": "all"}, "part; its keys are gamma"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(design, message):
    with pytest.raises(InputFault, match=message):
        normalise(design)


def test_designs_that_do_not_fit_are_refused(unet, dit):
    with pytest.raises(InputFault, match="DiTTransformer2DModel has no cross-attention, so part=cross_attention_kv"):
        count(dit, {**FULL, **KV})
    with pytest.raises(InputFault, match="gamma=first:3, but DiTTransformer2DModel has 2 transformer blocks"):
        insert(dit, {**DIFFFIT, "gamma": "first:3"})
    assert count(dit, {**DIFFFIT, "gamma": "first:2"}).trainable == count(dit, DIFFFIT).trainable
    plain = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    for design, message in [
        (BITFIT, "no biases for part=all"),
        (DIFFFIT, "no transformer blocks"),
        ({**FULL, **ATTENTION}, "no attention"),
    ]:
        with pytest.raises(InputFault, match=message):
            count(plain, design)
    with pytest.raises(InputFault, match="part=attention"):
        count(nn.Sequential(nn.Conv2d(3, 3, 1)), {**BITFIT, **ATTENTION})


VARIANTS = [
    BITFIT,
    {**BITFIT, **ATTENTION},
    {**FULL, **ATTENTION},
    DIFFFIT,
    {**DIFFFIT, "gamma": "blocks+qkvo"},
    {**DIFFFIT, "gamma": "first:1"},
]


@pytest.mark.parametrize("design", [*VARIANTS, {**FULL, **KV}], ids=str)
def test_training_then_removing_leaves_no_trace(unets, batch, design):
    unet = unets["deep"]
    before, untouched = traces(unet), unet(**batch).sample
    insertion = insert(unet, design, seeded(1))
    assert torch.equal(unet(**batch).sample, untouched)
    unet(**batch).sample.square().mean().backward()
    torch.optim.SGD(insertion.parameters(), lr=0.1).step()
    assert (unet(**batch).sample - untouched).abs().max() > 1e-6
    insertion.remove()
    assert torch.equal(unet(**batch).sample, untouched)
    assert_same_traces(before, traces(unet))


@pytest.mark.parametrize("failing", [1, 4])
def test_failure_in_the_middle_leaves_no_trace(unet, monkeypatch, failing):
    attach, calls = Scale.attach, []

    def fail(self, *args):
        parameters = attach(self, *args)
        calls.append(self.name)
        if len(calls) == failing:
            raise MemoryError("no more")
        return parameters

    before = traces(unet)
    monkeypatch.setattr(Scale, "attach", fail)
    with pytest.raises(MemoryError):
        insert(unet, DIFFFIT)
    assert_same_traces(before, traces(unet))


@pytest.mark.parametrize("design", VARIANTS, ids=str)
@pytest.mark.parametrize("on", ["plain", "deep", "dit"])
def test_merged_equals_unmerged(unets, batch, dit, dit_batch, on, design):
    denoiser, rows = (dit, dit_batch) if on == "dit" else (unets[on], batch)
    untouched = denoiser(**rows).sample
    insertion = insert(denoiser, design, seeded(1))
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(len(parameter)), dtype=parameter.dtype)
    tuned, merged = denoiser(**rows).sample, insertion.merged()
    insertion.remove()
    bare = copy.deepcopy(denoiser)
    assert bare.load_state_dict(merged, strict=False).unexpected_keys == []
    assert (tuned - untouched).abs().max() > 1e-3
    assert (bare(**rows).sample - tuned).abs().max() <= 1e-10 * tuned.abs().max()


def test_factors_multiply_outputs_and_merge_into_the_layers_that_write_them(unet, batch):
    # by hand: (γ_branch γ_out) · (W x + b), with b as it was trained
    insertion = insert(unet, {**DIFFFIT, "gamma": "blocks+qkvo"}, seeded(1))
    name = next(n for n, m in unet.named_modules() if n.endswith("transformer_blocks.0"))
    own, originals = dict(insertion.named_parameters()), {n: p.clone() for n, p in unet.named_parameters()}
    factors = {"attn2.gamma": 2.0, "attn2.to_out.0.gamma": 3.0, "attn2.to_k.gamma": 5.0, "ff.gamma": 7.0}
    with torch.no_grad():
        for part, factor in factors.items():
            own[f"{name}.{part}"].fill_(factor)
        own[f"{name}.attn2.to_out.0.bias"].fill_(0.5)
    merged = insertion.merged()
    insertion.remove()
    for layer, factor in (("attn2.to_out.0", 6), ("attn2.to_k", 5), ("ff.net.2", 7), ("attn1.to_v", 1)):
        torch.testing.assert_close(
            merged[f"{name}.{layer}.weight"], factor * originals[f"{name}.{layer}.weight"], rtol=1e-15, atol=0
        )
    assert torch.equal(merged[f"{name}.attn2.to_out.0.bias"], torch.full_like(own[f"{name}.attn2.to_out.0.bias"], 3.0))
    assert f"{name}.attn2.to_k.bias" not in merged


def test_factors_are_on_branches_and_projections_only_where_asked(unets):
    def gammas(gamma):
        return {n for n in names(unets["deep"], {**DIFFFIT, "gamma": gamma}) if n.endswith(".gamma")}

    blocks = [n for n, m in unets["deep"].named_modules() if type(m).__name__ == "BasicTransformerBlock"]
    branches = {f"{block}.{part}.gamma" for block in blocks for part in ("attn1", "attn2", "ff")}
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    assert gammas("blocks") == branches
    assert gammas("blocks+qkvo") == branches | {
        f"{block}.{attention}.{layer}.gamma" for block in blocks for attention in ("attn1", "attn2") for layer in layers
    }
    assert gammas("first:2") == {name for name in branches if name.startswith((blocks[0] + ".", blocks[1] + "."))}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_stay_float32_and_compute_follows_the_tensor(unet, batch, dtype):
    low = copy.deepcopy(unet).to(dtype)
    insertion = insert(low, DIFFFIT, seeded(0))
    output = low(**{n: v.to(dtype) if v.is_floating_point() else v for n, v in batch.items()}).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype
    assert all(p.dtype == torch.float32 and p.grad is not None for p in insertion.parameters())
    gammas = [p for name, p in insertion.named_parameters() if name.endswith(".gamma")]
    assert gammas and all(p.grad.abs().max() > 0 for p in gammas)
    assert all(value.dtype == dtype for value in insertion.merged().values())


def test_factors_change_the_rows_of_their_slot_only():
    layer = nn.Linear(3, 2).double().requires_grad_(False)
    tensor = torch.randn(4, 5, 3, dtype=torch.float64)
    untouched, rows, edits = layer(tensor), Rows(3), [Scale("layer", layer, Layer("layer", layer)) for _ in range(3)]
    gammas = [edit.start(Draws(0))["layer.gamma"] for edit in edits]
    edits[0].attach(Stack(rows, [0, 1, 2], [edit.parameters for edit in edits]))
    with torch.no_grad():
        gammas[0].copy_(torch.tensor([2.0, 3.0]))
        gammas[1].copy_(torch.tensor([5.0, 7.0]))
    with rows.declared([1, 0, 1, 0]):
        got = layer(tensor)
    got.sum().backward()
    for slot, own in ((0, [1, 3]), (1, [0, 2])):
        assert torch.equal(got[own], untouched[own] * gammas[slot])
        torch.testing.assert_close(gammas[slot].grad, untouched[own].sum((0, 1)))
    assert gammas[2].grad is None
    for edit in edits:
        edit.detach()
    assert torch.equal(layer(tensor), untouched) and not layer._forward_hooks
