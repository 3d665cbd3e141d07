"""Slots of different methods share one batch, and each computes what it computes alone, in whatever order they come."""

import copy
import random

import pytest
import torch

from adapters import InputFault, insert
from adapters.layers import attentions, cross_attentions
from tests.adapters.conftest import CONTEXT, tiny_unet

ANYWHERE = [
    {"method": "adapter", "input": "SA_in", "output": "Trans_out", "width": 3},
    {"method": "lora", "rank": 2, "targets": "attention+ff"},
    {"method": "difffit", "gamma": "blocks+qkvo"},
    {"method": "difffit"},
    {"method": "bitfit"},
    {"method": "vpt", "tokens": 2, "place": "sequence"},
    {"method": "vpt", "tokens": 2, "place": "sequence", "depth": "shallow"},
    {"method": "vpt", "tokens": 3, "place": "sequence", "depth": "shallow"},
]
WITH_TEXT = [
    *ANYWHERE,
    {"method": "adapter", "input": "CA_c", "output": "CA_c", "width": 3},
    {"method": "adapter", "input": "SA_out", "output": "CA_in", "width": 3},
    {"method": "vpt", "tokens": 2},
    {"method": "vpt", "tokens": 3},
    {"method": "vpt", "tokens": 3, "depth": "shallow"},
    {"method": "bitfit", "part": "attention"},
]
NONE, CONTEXT_TOKENS = {"method": "none"}, {"method": "vpt", "tokens": 2}
SEQUENCE_TOKENS = {**CONTEXT_TOKENS, "place": "sequence"}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def unet_rows(rows, masked=False):
    generator = seeded(3)
    given = {
        "sample": torch.randn(rows, 4, 8, 8, generator=generator, dtype=torch.float64),
        "timestep": torch.randint(1000, (rows,), generator=generator),
        "encoder_hidden_states": torch.randn(rows, 5, CONTEXT, generator=generator, dtype=torch.float64),
    }
    if masked:
        given["encoder_attention_mask"] = (torch.arange(5) <= torch.arange(rows)[:, None] % 5).double()
    return given


def dit_rows(rows):
    generator = seeded(3)
    return {
        "hidden_states": torch.randn(rows, 4, 8, 8, generator=generator, dtype=torch.float64),
        "timestep": torch.randint(1000, (rows,), generator=generator),
        "class_labels": torch.randint(10, (rows,), generator=generator),
    }


def inserted(denoiser, designs, seeds):
    """Insert designs and move every parameter, by its slot's seed."""
    insertion = insert(denoiser, designs, [seeded(seed) for seed in seeds])
    with torch.no_grad():
        for slot, seed in enumerate(seeds):
            generator = seeded(seed)
            for parameter in insertion.parameters(slot):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return insertion


@pytest.mark.parametrize("order", ["listed", "reversed", "shuffled"])
@pytest.mark.parametrize("on", ["unet", "masked unet", "dit"])
def test_every_slot_computes_what_it_computes_alone(unets, dit, on, order):
    denoiser, designs = (dit, list(ANYWHERE)) if on == "dit" else (unets["deep"], list(WITH_TEXT))
    seeds = list(range(len(designs)))
    if order != "listed":
        seeds = seeds[::-1] if order == "reversed" else random.Random(1).sample(seeds, len(seeds))
    designs = [designs[seed] for seed in seeds]
    slot_of_row = [*range(len(designs)), 1, 4, 6]
    random.Random(2).shuffle(slot_of_row)
    rows = dit_rows(len(slot_of_row)) if on == "dit" else unet_rows(len(slot_of_row), masked=on == "masked unet")
    before = {name: parameter.clone() for name, parameter in denoiser.named_parameters()}
    pack = inserted(denoiser, designs, seeds)
    with pack.rows(slot_of_row):
        together = denoiser(**rows).sample
    losses = [together[[owner == slot for owner in slot_of_row]].square().sum() for slot in range(len(designs))]
    gradients = []
    for slot, loss in enumerate(losses):
        loss.backward(retain_graph=True)
        gradients.append({name: parameter.grad for name, parameter in pack.named_parameters(slot)})
        others = [p for other in range(len(designs)) if other != slot for p in pack.parameters(other)]
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in others)
        for parameter in [*others, *pack.parameters(slot)]:
            parameter.grad = None
    assert not any(parameter.grad is not None or parameter.requires_grad for parameter in denoiser.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in denoiser.named_parameters())
    pack.remove()
    for slot, (design, seed) in enumerate(zip(designs, seeds, strict=True)):
        own = [row for row, owner in enumerate(slot_of_row) if owner == slot]
        alone = inserted(denoiser, [design], [seed])
        output = denoiser(**{name: value[own] for name, value in rows.items()}).sample
        output.square().sum().backward()
        alone.remove()
        torch.testing.assert_close(together[own], output, rtol=1e-10, atol=1e-10)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(gradients[slot][name], parameter.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("design", [CONTEXT_TOKENS, SEQUENCE_TOKENS], ids=lambda design: design.get("place", "context"))
def test_attention_is_masked_only_where_rows_have_no_tokens(unet, design):
    def run(designs, slot_of_row):
        seen, insertion = [], inserted(unet, designs, range(len(designs)))
        looked = dict(cross_attentions(unet))
        if "place" in design:
            looked = {name: module for name, module in attentions(unet) if name not in looked}
        handles = [
            module.register_forward_pre_hook(
                lambda _m, _args, given: seen.append(given["attention_mask"]), with_kwargs=True
            )
            for module in looked.values()
        ]
        with insertion.rows(slot_of_row), torch.no_grad():
            unet(**unet_rows(4))
        for handle in handles:
            handle.remove()
        insertion.remove()
        assert len(seen) == len(looked) > 0
        return seen

    masks = run([design, design], [1, 0, 0, 1])
    assert all(mask is None for mask in masks)
    assert all(mask is None for mask in run([design, NONE], [1, 1, 1, 1]))
    for mask in run([design, NONE], [1, 0, 0, 1]):
        assert mask.shape[:2] == (4, 1)
        places = mask[..., :2] if "place" in design else mask[..., -2:]
        assert places.isneginf().all((1, 2)).tolist() == [True, False, False, True]
        assert mask.isneginf().sum() == 4 and not mask[[1, 2]].any()


@pytest.mark.parametrize("design", [CONTEXT_TOKENS, SEQUENCE_TOKENS, {"method": "difffit"}], ids=str)
def test_what_diverged_stays_in_its_slot(unet, design):
    untouched = unet(**unet_rows(4)).sample
    pack = insert(unet, [design, NONE])
    with torch.no_grad():
        for parameter in pack.parameters(0):
            parameter.fill_(torch.nan)
        with pack.rows([1, 0, 0, 1]):
            output = unet(**unet_rows(4)).sample
    pack.remove()
    assert output[[1, 2]].isnan().all()
    torch.testing.assert_close(output[[0, 3]], untouched[[0, 3]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packs_compute_in_the_type_of_the_denoiser(unet, dtype):
    low = copy.deepcopy(unet).to(dtype)
    rows = {name: value.to(dtype) if value.is_floating_point() else value for name, value in unet_rows(4).items()}
    pack = insert(low, [CONTEXT_TOKENS, SEQUENCE_TOKENS, {"method": "difffit"}, NONE], seeded(0))
    with pack.rows([3, 2, 1, 0]):
        output = low(**rows).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype and output.isfinite().all()
    for slot in range(3):
        assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in pack.parameters(slot))
        assert any(p.grad.abs().max() > 0 for p in pack.parameters(slot))


def test_autocast_computes_what_float32_does(unet):
    single = copy.deepcopy(unet).float()
    rows = {name: value.float() if value.is_floating_point() else value for name, value in unet_rows(4).items()}
    pack = insert(single, [CONTEXT_TOKENS, SEQUENCE_TOKENS, {"method": "difffit"}, {"method": "bitfit"}], seeded(0))
    with pack.rows([3, 2, 1, 0]), torch.no_grad():
        exact = single(**rows).sample
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = single(**rows).sample
    # bfloat16 has 8 significant bits; the network's depth multiplies the rounding a few times
    torch.testing.assert_close(low.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


def test_tokens_that_a_second_self_attention_would_see_are_refused_in_packs():
    gated = tiny_unet(attention_type="gated")
    alone = insert(gated, SEQUENCE_TOKENS)
    assert gated(**unet_rows(2)).sample.isfinite().all()
    alone.remove()
    pack = insert(gated, [SEQUENCE_TOKENS, NONE])
    with pack.rows([0, 1]), pytest.raises(InputFault, match="second self-attention.*alone"):
        gated(**unet_rows(2))
    with pack.rows([0, 0]):
        assert gated(**unet_rows(2)).sample.isfinite().all()
    pack.remove()
