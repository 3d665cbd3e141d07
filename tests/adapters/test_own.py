"""Copies of the denoiser's own parameters compute what the denoiser would with their values, which it never gets."""

import copy

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm, MochiRMSNorm, RMSNorm
from torch import nn

from adapters import InputFault, insert
from adapters.draws import Draws
from adapters.edits.rows import Rows
from adapters.edits.stack import Stack
from adapters.own_parameters import biases, class_embedders, norm_weights, own_edits
from tests.adapters.test_insertion import assert_same_traces, traces

BITFIT, DIFFFIT = {"method": "bitfit"}, {"method": "difffit"}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


HELD = {
    "linear": (nn.Linear(2, 3), (4, 5, 2)),
    "linear of vectors": (nn.Linear(2, 3), (4, 2)),
    "convolution": (nn.Conv2d(2, 3, 3, padding=1), (4, 2, 5, 6)),
    "convolution of tokens": (nn.Conv1d(2, 3, 1), (4, 2, 5)),
    "transposed": (nn.ConvTranspose3d(2, 3, 1), (4, 2, 3, 3, 2)),
    "group": (nn.GroupNorm(2, 6), (4, 6, 3, 5)),
    "group of tokens": (nn.GroupNorm(2, 6), (4, 6, 3)),
    "layer": (nn.LayerNorm(6), (4, 5, 6)),
    "layer of maps": (nn.LayerNorm((3, 6)), (4, 5, 3, 6)),
    "layer without bias": (nn.LayerNorm(6, bias=False), (4, 5, 6)),
    "layer in float32": (FP32LayerNorm(6), (4, 5, 6)),
    "batch": (nn.BatchNorm2d(6), (4, 6, 3, 5)),
    "rms": (nn.RMSNorm(6), (4, 2, 5, 6)),
    "rms of diffusers": (RMSNorm(6, 1e-6, bias=True), (4, 5, 6)),
    "rms of mochi": (MochiRMSNorm(6, 1e-6), (4, 5, 6)),
    "table": (nn.Embedding(5, 2), (4,)),
}


@pytest.mark.parametrize("kind", HELD)
def test_copies_take_the_place_of_a_modules_parameters_in_the_rows_of_their_slots(kind):
    kept, shape = HELD[kind]
    module = copy.deepcopy(kept).double().eval().requires_grad_(False)
    for number, parameter in enumerate(module.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=seeded(number)))
    tensor = torch.randn(shape, generator=seeded(7), dtype=torch.float64)
    if kind == "table":
        tensor = torch.tensor([1, 4, 4, 2])
    before, untouched, rows = traces(module), module(tensor), Rows(3)
    held = {**biases(module), **norm_weights(module), **class_embedders(module)}
    slots = [own_edits(module, held) for _ in range(2)]
    copies = [{name: p for edit in edits for name, p in edit.start(Draws(0)).items()} for edits in slots]
    for alike in zip(*slots, strict=True):  # biases before weights, as where a slot of BitFit comes first
        alike[0].attach(Stack(rows, [0, 1], [edit.parameters for edit in alike]))
    with rows.declared([1, 0, 2, 0]):
        assert torch.equal(module(tensor), untouched)
        with torch.no_grad():
            for slot, own in enumerate(copies):
                for parameter in own.values():
                    parameter += torch.randn(parameter.shape, generator=seeded(10 + slot), dtype=torch.float64)
        got = module(tensor)
    weight = torch.randn(got.shape, generator=seeded(8), dtype=torch.float64)
    (got * weight).sum().backward()
    assert torch.equal(got[2], untouched[2]) and list(held) == list(copies[0]) == list(copies[1])
    for edits in slots:
        for edit in edits:
            edit.detach()
    assert torch.equal(module(tensor), untouched)
    assert_same_traces(before, traces(module))
    for own, mine in zip(copies, ([1, 3], [0]), strict=True):
        changed = copy.deepcopy(module)
        for name, parameter in own.items():
            changed.get_parameter(name).copy_(parameter.detach()).requires_grad_(True)
        expected = changed(tensor[mine])
        assert (expected - untouched[mine]).abs().max() > 0.1
        # a layer that computes in float32 is rounded to that
        tolerance = 1e-5 if kind == "layer in float32" else 1e-12
        torch.testing.assert_close(got[mine], expected, rtol=tolerance, atol=tolerance)
        (expected * weight[mine]).sum().backward()
        for name, parameter in own.items():
            reference = changed.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad, reference, rtol=tolerance, atol=tolerance)


def test_the_denoisers_own_parameters_stay_as_they_are_while_copies_are_trained(unets, batch):
    unet = unets["deep"]
    before = traces(unet)
    insertion = insert(unet, [DIFFFIT, BITFIT], seeded(1))
    with insertion.rows([0, 1, 1, 0]):
        unet(**batch).sample.square().mean().backward()
    torch.optim.SGD([*insertion.parameters(0), *insertion.parameters(1)], lr=0.1).step()
    during = traces(unet)
    insertion.remove()
    for key in ("values", "flags"):
        assert before[key].keys() == during[key].keys()
    assert before["flags"] == during["flags"]
    assert all(torch.equal(value, during["values"][name]) for name, value in before["values"].items())


def test_one_timestep_for_all_rows_is_enough_where_the_denoiser_repeats_it(unet, dit, batch, dit_batch):
    pack, each = insert(unet, [BITFIT, DIFFFIT]), torch.full((4,), 7)
    with pack.rows([0, 1, 1, 0]):
        one, repeated = (unet(**{**batch, "timestep": steps}).sample for steps in (7, each))
    pack.remove()
    assert torch.equal(one, repeated)
    # DiT embeds it once, so no slot has a row of its own there
    once = {**dit_batch, "timestep": torch.tensor([7])}
    alone = insert(dit, BITFIT)
    torch.testing.assert_close(dit(**once).sample, dit(**{**once, "timestep": each}).sample, rtol=1e-12, atol=1e-12)
    alone.remove()
    pack = insert(dit, [BITFIT, DIFFFIT])
    with pack.rows([0, 1, 1, 0]), pytest.raises(InputFault, match="4 rows, but the batch has 1"):
        dit(**once)
    pack.remove()
