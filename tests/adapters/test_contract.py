"""What every method promises, in one table of cases: on a U-Net and on a diffusion transformer, in float64.

The promises need no recorded numbers: closed forms, merged against unmerged, saved against loaded, packed against
alone, and peft itself for what peft has.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from adapters import InputFault, count, insert, load, save
from adapters.designs import METHODS, method_of


@dataclass(frozen=True)
class Case:
    design: dict[str, Any]
    on: tuple[str, ...] = ("unet", "dit")
    identity: bool = True
    """Whether the output is unchanged at the start."""
    merges: bool = True
    """Whether it is a change of weights."""

    def __str__(self) -> str:
        return " ".join(f"{v}" for v in self.design.values())


UNET = ("unet",)
CASES = [
    Case({"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 3}, UNET, False, False),
    Case(
        {"method": "adapter", "input": "Res_in", "output": "Res_out", "width": 2, "init": "zero_up"}, UNET, True, False
    ),
    Case({"method": "adapter", "input": "FFN_in", "output": "FFN_in", "width": 3}, identity=False, merges=False),
    Case({"method": "adaptformer", "width": 3}, merges=False),
    Case({"method": "sequential", "width": 3}, merges=False),
    Case({"method": "lora", "rank": 2}),
    Case({"method": "lora", "rank": 4, "alpha": 2, "rslora": True, "targets": "attention+ff"}),
    Case({"method": "lora", "budget": "20%", "targets": "conv"}, UNET),
    Case({"method": "dora", "rank": 2}),
    Case({"method": "dora", "rank": 2, "alpha": 1, "targets": "ff+conv"}, UNET),
    Case({"method": "krona", "a1": 2, "a2": 4}),
    Case({"method": "krona", "budget": "3%", "init": "kaiming", "targets": "attention+ff"}),
    Case({"method": "tlora", "transform_rank": 2, "residual_rank": 3}),
    Case({"method": "tlora", "transform_rank": 1, "budget": "10%", "targets": "ff", "regulariser": 0.1}),
    Case({"method": "tlora_star", "transform_rank": 3, "rank": 2}),
    Case({"method": "difffit"}),
    Case({"method": "difffit", "gamma": "blocks+qkvo"}),
    Case({"method": "difffit", "gamma": "first:1"}),
    Case({"method": "bitfit"}),
    Case({"method": "bitfit", "part": "attention"}),
    Case({"method": "vpt", "tokens": 2}, UNET, False, False),
    Case({"method": "vpt", "tokens": 2, "depth": "shallow"}, UNET, False, False),
    Case({"method": "vpt", "tokens": 2, "place": "sequence"}, identity=False, merges=False),
    Case({"method": "vpt", "tokens": 2, "place": "sequence", "depth": "shallow"}, identity=False, merges=False),
    Case({"method": "full"}),
    Case({"method": "full", "part": "attention"}),
    Case({"method": "full", "part": "cross_attention_kv"}, UNET),
    Case({"method": "loha", "rank": 2}),
    Case({"method": "lokr", "rank": 2}),
    Case({"method": "oft", "block_size": 4}),
    Case({"method": "boft", "block_size": 4}),
    Case({"method": "hra", "rank": 2}),
    Case({"method": "hira", "rank": 2}),
    Case({"method": "ia3"}),
    Case({"method": "none"}),
]
STARTS_FIXED = {"difffit", "bitfit", "full", "oft", "boft", "ia3", "none"}
"""Methods that start at the backbone's own values, zeros or ones; all others draw."""
ALONE = {"full", "loha", "lokr", "oft", "boft", "hra", "hira", "ia3"}
"""Methods that change the denoiser itself; all others share it with other slots."""
PLACED = [pytest.param(case, on, id=f"{case} on {on}") for case in CASES for on in case.on]
everywhere = pytest.mark.parametrize(("case", "on"), PLACED)


@pytest.fixture
def denoiser(on, unets, dit):
    return unets["deep"] if on == "unet" else dit


@pytest.fixture
def rows(on, batch, dit_batch):
    return batch if on == "unet" else dit_batch


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def perturb(insertion, slot=0):
    """Move every trained parameter; not so far that a network of this size explodes."""
    generator = seeded(11)
    with torch.no_grad():
        for parameter in insertion.parameters(slot):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def largest(tensor):
    return tensor.abs().max().item()


def test_every_method_has_a_case():
    assert {case.design["method"] for case in CASES} | {"peft"} == set(METHODS)


@everywhere
def test_count_is_what_is_trained(case, denoiser):
    counted = count(denoiser, case.design)
    insertion = insert(denoiser, case.design, seeded(1))
    insertion.remove()
    trained = insertion.parameters()
    assert counted.trainable == sum(parameter.numel() for parameter in trained)
    assert len({id(parameter) for parameter in trained}) == len(trained)
    shapes = {n: s for edit in method_of(case.design).edits(denoiser) for n, s in edit.shapes().items()}
    assert shapes == {name: tuple(value.shape) for name, value in insertion.state().items()}
    assert counted.backbone == sum(parameter.numel() for parameter in denoiser.parameters())


@everywhere
def test_start_is_identity_where_it_is_promised(case, denoiser, rows):
    with torch.no_grad():
        untouched = denoiser(**rows).sample
        insertion = insert(denoiser, case.design, seeded(1))
        started = denoiser(**rows).sample
        insertion.remove()
    moved = largest(started - untouched)
    assert moved <= 1e-10 if case.identity else moved > 1e-6


@everywhere
def test_merged_equals_unmerged(case, denoiser, rows):
    with torch.no_grad():
        untouched = denoiser(**rows).sample
        insertion = insert(denoiser, case.design, seeded(1))
        perturb(insertion)
        tuned = denoiser(**rows).sample
        if not case.merges:
            with pytest.raises(InputFault, match="merged"):
                insertion.merged()
            insertion.remove()
            return
        merged = insertion.merged()
        insertion.remove()
        if case.design["method"] == "none":
            assert merged == {}
            return
        assert largest(tuned - untouched) > 1e-5
        bare = copy.deepcopy(denoiser)
        known = dict(bare.named_parameters())
        for name, value in merged.items():
            assert known[name].shape == value.shape and known[name].dtype == value.dtype
            known[name].copy_(value)
        assert largest(bare(**rows).sample - tuned) <= 1e-10 * max(1, largest(tuned))


@everywhere
def test_removing_restores_the_backbone_bit_for_bit(case, denoiser, rows):
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    modules = {name: id(module) for name, module in denoiser.named_modules()}
    untouched = denoiser(**rows).sample
    insertion = insert(denoiser, case.design, seeded(1))
    perturb(insertion)
    if insertion.parameters():
        denoiser(**rows).sample.square().mean().backward()
    insertion.remove()
    insertion.remove()
    after = denoiser.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert {name: id(module) for name, module in denoiser.named_modules()} == modules
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in denoiser.parameters())
    assert torch.equal(denoiser(**rows).sample, untouched)


@everywhere
def test_gradients_reach_exactly_the_trained_parameters(case, denoiser, rows):
    insertion = insert(denoiser, case.design, seeded(1))
    perturb(insertion)
    trained = {id(parameter) for parameter in insertion.parameters()}
    if trained:
        denoiser(**rows).sample.square().mean().backward()
        dead = [name for name, p in insertion.named_parameters() if p.grad is None or not largest(p.grad) > 0]
        # The gradient through a key's bias is zero: it moves all logits of a query alike. Class embeddings of classes
        # that the rows do not have get none either, but their table does.
        assert len(dead) <= 0.1 * len(trained), dead
    others = [name for name, p in denoiser.named_parameters() if id(p) not in trained and p.grad is not None]
    insertion.remove()
    assert not others


@everywhere
def test_saved_and_loaded_is_the_same(case, denoiser, rows, tmp_path):
    if case.design["method"] == "none":
        pytest.skip("the untuned backbone has no weights to save")
    with torch.no_grad():
        insertion = insert(denoiser, case.design, seeded(1))
        perturb(insertion)
        tuned = denoiser(**rows).sample
        state = insertion.state()
        insertion.remove()
        save(tmp_path / "a", case.design, state, {})
        torch.manual_seed(99)  # what loading draws must not matter
        loaded = load(denoiser, tmp_path / "a")
        again = denoiser(**rows).sample
        loaded.remove()
    assert torch.equal(again, tuned)


@everywhere
def test_packed_equals_alone(case, denoiser, rows, on):
    method = method_of(case.design)
    assert method.alone == (case.design["method"] in ALONE)
    if method.alone:
        with pytest.raises(InputFault, match="alone"):
            insert(denoiser, [case.design, {"method": "none"}])
        return
    other = {"method": "lora", "rank": 3, "targets": "attention+ff"}
    slot_of_row = [1, 0, 0, 1]
    pack = insert(denoiser, [case.design, other], [seeded(1), seeded(2)])
    perturb(pack, 0)
    perturb(pack, 1)
    with pack.rows(slot_of_row):
        together = denoiser(**rows).sample
    together.square().sum().backward()
    packed = [{name: p.grad for name, p in pack.named_parameters(slot)} for slot in (0, 1)]
    pack.remove()
    for slot, design in enumerate((case.design, other)):
        own = [row for row, owner in enumerate(slot_of_row) if owner == slot]
        alone = insert(denoiser, design, seeded(slot + 1))
        perturb(alone)
        output = denoiser(**{name: value[own] for name, value in rows.items()}).sample
        assert largest(output - together[own]) <= 1e-9 * largest(output)
        if alone.parameters():
            output.square().sum().backward()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(packed[slot][name], parameter.grad, rtol=1e-8, atol=1e-10)
        alone.remove()


@everywhere
def test_autocast_computes_what_float32_does(case, denoiser, rows):
    single = copy.deepcopy(denoiser).float()
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in rows.items()}
    insertion = insert(single, case.design, seeded(1))
    with torch.no_grad():
        exact = single(**inputs).sample
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = single(**inputs).sample
    # bfloat16 has 8 significant bits; the network's depth multiplies the rounding a few times
    assert largest(low.float() - exact) <= 0.1 * largest(exact)
    if insertion.parameters():
        low.float().square().mean().backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in insertion.parameters())
        assert any(p.grad is not None and largest(p.grad) > 0 for p in insertion.parameters())


@everywhere
def test_start_depends_on_the_seed_alone(case, denoiser):
    def start(seed):
        insertion = insert(denoiser, case.design, seeded(seed))
        insertion.remove()
        return insertion.state()

    before = torch.get_rng_state()
    first, again, other = start(1), start(1), start(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = any(not torch.equal(first[name], other[name]) for name in first)
    assert drawn == (case.design["method"] not in STARTS_FIXED)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_canonical_design_is_stable_and_hashable_as_json(case):
    canonical = method_of(case.design).to_design()
    assert method_of(canonical).to_design() == canonical
    assert method_of({key: str(value) for key, value in case.design.items()}).to_design() == canonical
    assert all(isinstance(value, str | int | float | bool) for value in canonical.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unknown_keys_are_refused(case):
    with pytest.raises(InputFault, match="widht"):
        method_of({**case.design, "widht": 3})


@pytest.mark.parametrize("on", ["unet", "dit"])
@pytest.mark.parametrize(
    ("ours", "config"),
    [
        ({"method": "lora", "rank": 3, "alpha": 6}, {"r": 3, "lora_alpha": 6}),
        ({"method": "lora", "rank": 4, "alpha": 4, "rslora": True}, {"r": 4, "lora_alpha": 4, "use_rslora": True}),
        ({"method": "dora", "rank": 3, "alpha": 6}, {"r": 3, "lora_alpha": 6, "use_dora": True}),
        ({"method": "lora", "rank": 2, "targets": "conv"}, {"r": 2, "lora_alpha": 2}),
        ({"method": "dora", "rank": 2, "targets": "conv+attention"}, {"r": 2, "lora_alpha": 2, "use_dora": True}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if "method" in value else "",
)
def test_twenty_steps_equal_peft(ours, config, on, denoiser, rows):
    from peft import LoraConfig, inject_adapter_in_model

    if on == "dit" and "conv" in ours.get("targets", ""):
        pytest.skip("a diffusion transformer has no ResNets")
    insertion = insert(denoiser, ours, seeded(1))
    layers = sorted({name.rpartition(".lora_")[0] for name in insertion.state()})
    start = insertion.state()
    losses = curve(denoiser, insertion.parameters(), rows)
    insertion.remove()
    referee = inject_adapter_in_model(LoraConfig(target_modules=layers, **config), copy.deepcopy(denoiser))
    # peft's names are ours with the adapter's name in them
    theirs = {name.replace(".default", ""): p for name, p in referee.named_parameters() if "lora_" in name}
    assert theirs.keys() == start.keys()
    for name, parameter in theirs.items():
        assert parameter.shape == start[name].shape
        if "magnitude" in name:  # computed from the backbone's weights, by each of the two
            torch.testing.assert_close(parameter.detach(), start[name], rtol=1e-6, atol=0)
        parameter.data = start[name].to(parameter.data)
    expected = curve(referee, list(theirs.values()), rows)
    assert losses[0] > losses[-1]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-9, atol=0)


def curve(denoiser, parameters, rows):
    generator = seeded(5)
    name = next(iter(inspect.signature(denoiser.forward).parameters))
    wanted = torch.randn(rows[name].shape, generator=generator, dtype=torch.float64)
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (denoiser(**rows).sample[:, :4] - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
