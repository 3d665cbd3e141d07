"""Insertions can be undone to the bit, share no randomness they should not, and packs equal their slots alone."""

import pytest
import torch

from adapters import PAIRS, InputFault, count, insert


def adapter(input="CA_out", output="FFN_in", **keys):
    return {"method": "adapter", "input": input, "output": output, **({"width": 3} | keys)}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def traces(module):
    """Everything an insertion could leave behind: attributes, hooks, values, flags."""
    found = {}
    for name, part in module.named_modules():
        found[name] = (
            sorted(part.__dict__),
            {key: list(value) for key, value in part.__dict__.items() if "hooks" in key and value is not None},
        )
    found["values"] = {name: value.clone() for name, value in module.state_dict().items()}
    found["flags"] = {name: (p.requires_grad, p.grad is None, id(p)) for name, p in module.named_parameters()}
    return found


def assert_same_traces(first, second):
    values = first.pop("values"), second.pop("values")
    assert first == second
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


@pytest.mark.parametrize(
    "design",
    [*[adapter(*pair) for pair in PAIRS], {"method": "none"}, {"method": "full"}],
    ids=lambda design: "→".join([design["method"], *filter(None, (design.get("input"), design.get("output")))]),
)
def test_training_then_removing_leaves_no_trace(unet, batch, design):
    before, untouched = traces(unet), unet(**batch).sample
    insertion = insert(unet, design, seeded(1))
    trained = insertion.parameters()
    assert sum(parameter.numel() for parameter in trained) == count(unet, design).trainable
    assert len({id(parameter) for parameter in trained}) == len(trained)
    if trained:
        unet(**batch).sample.square().mean().backward()
        moved = [parameter for parameter in trained if parameter.grad is not None and parameter.grad.abs().max() > 0]
        assert len(moved) > 0.9 * len(trained)
        torch.optim.SGD(trained, lr=0.1).step()
        assert not torch.equal(unet(**batch).sample, untouched)
    insertion.remove()
    insertion.remove()
    assert torch.equal(unet(**batch).sample, untouched)
    assert_same_traces(before, traces(unet))


def test_failed_insertion_leaves_no_trace(unet, monkeypatch):
    from adapters.forms import Bottleneck

    before, calls = traces(unet), []
    draw = Bottleneck.draw

    def failing(self, prefix, draws):
        calls.append(prefix)
        if len(calls) == 3:
            raise MemoryError("no more")
        return draw(self, prefix, draws)

    monkeypatch.setattr(Bottleneck, "draw", failing)
    with pytest.raises(MemoryError):
        insert(unet, adapter())
    assert_same_traces(before, traces(unet))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_parameters_stay_float32_and_compute_follows_the_tensor(unet, batch, dtype):
    import copy

    low = copy.deepcopy(unet).to(dtype)
    insertion = insert(low, [adapter("FFN_in", "Trans_out"), adapter("Res_in", "Res_out")], seeded(0))
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    with insertion.rows([0, 1, 1, 0]):
        output = low(**inputs).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype
    for slot in (0, 1):
        for parameter in insertion.parameters(slot):
            assert parameter.dtype == torch.float32 and parameter.grad is not None


def test_autocast_keeps_the_trunk_in_its_type(unet, batch):
    import copy

    single = copy.deepcopy(unet).float()
    insertion = insert(single, [adapter("SA_out", "Trans_out"), adapter("Res_out", "Res_out")], seeded(0))
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}
    with insertion.rows([0, 0, 1, 1]):
        exact = single(**inputs).sample
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = single(**inputs).sample
    low.float().square().mean().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for slot in (0, 1) for p in insertion.parameters(slot)
    )
    # bfloat16 has 8 significant bits; the network's depth multiplies the rounding a few times
    torch.testing.assert_close(low.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


def test_initial_values_depend_on_seed_and_name_only(unet):
    def state(design, generator):
        insertion = insert(unet, design, generator)
        insertion.remove()
        return insertion.state()

    def same(first, second):
        return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())

    used = seeded(5)
    torch.rand(3, generator=used)  # a generator that has been drawn from still has its seed
    common = torch.get_rng_state()
    reference = state(adapter(), seeded(5))
    assert torch.equal(torch.get_rng_state(), common)
    assert same(reference, state(adapter(), used))
    assert same(reference, state(adapter("SA_in", "CA_in", activation="silu", scale=4), seeded(5)))
    assert not same(reference, state(adapter(), seeded(6)))
    zero_up = state(adapter(init="zero_up"), seeded(5))
    assert all(
        torch.equal(zero_up[n], reference[n] if ".down." in n else torch.zeros_like(v)) for n, v in zero_up.items()
    )
    pack = insert(unet, [adapter("FFN_in", "FFN_in"), adapter(width=5), adapter()], [seeded(6), seeded(9), seeded(5)])
    pack.remove()
    assert same(reference, pack.state(2))
    names = sorted(reference)
    flat = [reference[name].flatten()[:3].tolist() for name in names]
    assert len({tuple(values) for values in flat}) == len(flat)  # no two parameters share a stream


@pytest.mark.parametrize("pair", [("SA_in", "SA_in"), ("Res_in", "Res_in")])
def test_default_init_is_that_of_torch_layers(unet, pair):
    # closed form: nn.Linear and nn.Conv2d draw weights and biases from U(-b, b) with b = 1/√fan_in, SD b/√3
    width = 400
    insertion = insert(unet, adapter(*pair, width=width), seeded(3))
    insertion.remove()
    state = insertion.state()
    for name, value in state.items():
        if ".norm." in name:
            assert torch.equal(value, torch.full_like(value, 1.0 if name.endswith("weight") else 0.0))
            continue
        layer = name.rpartition(".")[0]
        bound = state[f"{layer}.weight"][0].numel() ** -0.5
        assert value.abs().max() <= bound
        if value.numel() >= 2000:
            assert value.abs().max() > 0.99 * bound
            assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def run_alone(unet, batch, rows, design, seed):
    insertion = insert(unet, design, seeded(seed))
    output = unet(**{name: value[rows] for name, value in batch.items()}).sample
    output.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in insertion.named_parameters()}
    insertion.remove()
    return output.detach(), gradients


@pytest.mark.parametrize(
    "designs",
    [
        [adapter(), adapter()],
        [adapter("CA_in", "CA_in"), adapter("SA_in", "SA_in", activation="sigmoid", scale=2)],
        [adapter("CA_c", "CA_c"), adapter("Res_in", "Res_out")],
        [adapter("FFN_in", "FFN_in", width=7), {"method": "none"}],
    ],
    ids=lambda designs: " & ".join(design.get("input", design["method"]) for design in designs),
)
def test_two_slots_in_one_batch_equal_each_alone(unet, batch, designs):
    insertion = insert(unet, designs, [seeded(1), seeded(2)])
    slot_of_row = [1, 0, 1, 0]
    with insertion.rows(torch.tensor(slot_of_row)):
        together = unet(**batch).sample
    together.square().sum().backward()
    gradients = [{n: p.grad for n, p in insertion.named_parameters(slot)} for slot in (0, 1)]
    insertion.remove()
    for slot, design in enumerate(designs):
        rows = [row for row, owner in enumerate(slot_of_row) if owner == slot]
        if design["method"] == "none":
            assert torch.allclose(together[rows], unet(**{n: v[rows] for n, v in batch.items()}).sample, atol=1e-12)
            continue
        alone, own = run_alone(unet, batch, rows, design, slot + 1)
        torch.testing.assert_close(together[rows], alone, rtol=1e-12, atol=1e-12)
        for name, gradient in own.items():
            torch.testing.assert_close(gradients[slot][name], gradient, rtol=1e-9, atol=1e-12)


def test_slot_without_rows_is_left_alone(unet, batch):
    insertion = insert(unet, [adapter(), adapter()], seeded(1))
    with insertion.rows([0] * 4):
        unet(**batch).sample.sum().backward()
    insertion.remove()
    assert all(parameter.grad is None for parameter in insertion.parameters(1))
    assert all(parameter.grad is not None for parameter in insertion.parameters(0))


def test_rows_must_fit_the_batch_and_the_slots(unet, batch):
    single = insert(unet, adapter())
    with single.rows([0] * 3), pytest.raises(InputFault, match="3 rows, but the batch has 4"):
        unet(**batch)
    unet(**batch)
    single.remove()
    pack = insert(unet, [adapter(), adapter("CA_c", "CA_c")])
    with pytest.raises(InputFault, match="pack of 2 slots"):
        unet(**batch)
    with pack.rows([0, 1] * 4), pytest.raises(InputFault, match="8 rows, but the batch has 4"):
        unet(**batch)
    with pytest.raises(InputFault, match=r"slots \[2\] .* 0 to 1"), pack.rows([0, 1, 2, 0]):
        pass
    pack.remove()


def test_wrong_packs_are_refused(unet):
    with pytest.raises(InputFault, match="insert it alone"):
        insert(unet, [{"method": "full"}, adapter()])
    with pytest.raises(InputFault, match="1 generators for 2 designs"):
        insert(unet, [adapter(), adapter()], [seeded(0)])
    with pytest.raises(InputFault, match="no design"):
        insert(unet, [])


def test_context_position_needs_text(unet):
    block = next(m for n, m in unet.named_modules() if n.endswith("transformer_blocks.0"))
    insertion = insert(unet, adapter("CA_c", "CA_c"))
    with pytest.raises(InputFault, match="encoder_hidden_states"):
        block(torch.zeros(1, 4, block.dim, dtype=torch.float64))
    insertion.remove()


def smooth(*pair, **keys):
    """An adapter none of whose units can be dead."""
    return adapter(*pair, activation="silu", **keys)


@pytest.mark.parametrize(
    "designs",
    [
        [smooth(), smooth(), smooth("SA_in", "Trans_out")],
        [{"method": "lora", "rank": 2}, {"method": "lora", "rank": 2}, smooth("CA_c", "CA_c")],
        [{"method": "krona", "a1": 2, "a2": 2}, {"method": "dora", "rank": 1}, smooth("Res_in", "Res_out", width=1)],
        [{"method": "tlora", "residual_rank": 1}] * 2 + [{"method": "tlora_star", "rank": 1}],
    ],
    ids=lambda designs: "+".join(design["method"] for design in designs),
)
def test_no_slot_sees_another_s_rows_or_parameters(unet, batch, designs):
    owners = [0, 1, 2, 1]
    insertion = insert(unet, designs, [seeded(slot) for slot in range(3)])
    for slot in range(3):
        move(insertion, slot)
    inputs = {n: v.detach().clone().requires_grad_() if v.is_floating_point() else v for n, v in batch.items()}
    trained = [insertion.parameters(slot) for slot in range(3)]
    with insertion.rows(owners):
        losses = unet(**inputs).sample.square().mean((1, 2, 3))
    for slot in range(3):
        own = [row for row, owner in enumerate(owners) if owner == slot]
        wanted = [inputs["sample"], inputs["encoder_hidden_states"], *(p for each in trained for p in each)]
        found = torch.autograd.grad(losses[own].sum(), wanted, retain_graph=True, allow_unused=True)
        others = [row for row in range(4) if row not in own]
        for gradient in found[:2]:
            assert (gradient[others] == 0).all() and gradient[own].abs().max() > 0
        rest = iter(found[2:])
        for owner in range(3):
            gradients = [next(rest) for _ in trained[owner]]
            if owner == slot:
                assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
            else:
                assert all(gradient is None or (gradient == 0).all() for gradient in gradients)
    insertion.remove()


def move(insertion, slot):
    """Move every parameter off its start, so that none is zero."""
    generator = seeded(100 + slot)
    with torch.no_grad():
        for parameter in insertion.parameters(slot):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
