"""Methods run by peft do what peft does where it is asked directly, and come off without a trace.

`test_contract.py` holds them to what every method promises; here is what is theirs alone.
"""

import copy
import warnings

import pytest
import torch
from torch import nn

from adapters import InputFault, count, insert, load, save
from adapters.designs import method_of
from adapters.export import export
from adapters.layers import find_layers
from adapters.methods.peft_kinds import KINDS
from tests.adapters.conftest import tiny_unet
from tests.adapters.test_insertion import assert_same_traces, traces

EVERYWHERE, LINEAR = "attention+ff+conv", "attention+ff"
KIND_SETTINGS = {
    "beft": {},
    "c3a": {"block_size": 4},
    "deft": {"r": 2},
    "delora": {"r": 2},
    "fourierft": {"n_frequency": 20},
    "glora": {"r": 2},
    "gralora": {"r": 4},
    "lily": {"r": 2},
    "miss": {"r": 4},
    "peanut": {"r": 2, "depth": 1},
    "randlora": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
    "vblora": {"vector_length": 4, "num_vectors": 16},
    "vera": {"r": 8},
    "waveft": {"n_frequency": 20},
}
NAMED = [
    {"method": "loha", "rank": 2, "alpha": 3, "targets": EVERYWHERE},
    {"method": "lokr", "rank": 2, "factor": 2, "alpha": 3, "targets": EVERYWHERE},
    {"method": "oft", "block_size": 4, "targets": LINEAR},
    {"method": "boft", "block_size": 2, "butterfly_factor": 2, "targets": EVERYWHERE},
    {"method": "hra", "rank": 2, "targets": EVERYWHERE},
    {"method": "hira", "rank": 4, "targets": EVERYWHERE},
    {"method": "ia3", "targets": EVERYWHERE},
]
OTHERS = [{"method": "peft", "kind": kind, "targets": LINEAR, **keys} for kind, keys in KIND_SETTINGS.items()]
DISTURBED = {"c3a", "fourierft", "vblora"}  # random at the start, as peft documents
FLOAT32 = {"c3a", "deft"}  # peft computes these in float32 whatever the weights are
UNMERGED = {"beft", "lily"}  # biases of layers without any; a sum that depends on the input

placed = pytest.mark.parametrize(
    ("design", "on"),
    [(design, on) for design in NAMED + OTHERS for on in ("unet", "dit")],
    ids=lambda value: value if isinstance(value, str) else f"{value.get('kind', value['method'])}",
)
of_all = pytest.mark.parametrize("design", NAMED + OTHERS, ids=lambda d: d.get("kind", d["method"]))


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected that the base layer has no bias")  # what UNMERGED says of beft
        warnings.filterwarnings("ignore", "Sparse invariant checks")
        yield


@pytest.fixture
def place(on, unets, dit, batch, dit_batch):
    """Give the denoiser and its rows; a transformer has no convolutions to change."""
    denoiser, rows = (unets["plain"], batch) if on == "unet" else (dit, dit_batch)

    def fit(design):
        return design if on == "unet" or "targets" not in design else design | {"targets": design["targets"][:12]}

    return denoiser, rows, fit


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def perturb(insertion):
    generator = seeded(11)
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def largest(tensor):
    return tensor.abs().max().item()


def kind_of(design):
    return design.get("kind", design["method"])


@placed
def test_start_and_merging(place, design, on):
    denoiser, rows, fit = place
    design, exact = fit(design), 1e-6 if kind_of(design) in FLOAT32 else 1e-10
    with torch.no_grad():
        untouched = denoiser(**rows).sample
        insertion = insert(denoiser, design, seeded(1))
        started = largest(denoiser(**rows).sample - untouched)
        perturb(insertion)
        tuned = denoiser(**rows).sample
        try:
            merged = insertion.merged()
        except InputFault as fault:
            assert kind_of(design) in UNMERGED and "cannot be merged" in str(fault)
            merged = None
        insertion.remove()
        assert started > 1e-5 if kind_of(design) in DISTURBED else started <= exact
        assert largest(tuned - untouched) > 100 * exact and largest(tuned - untouched) > 1e-4
        assert torch.equal(denoiser(**rows).sample, untouched)
        if merged is not None:
            assert kind_of(design) != "lily" and not (kind_of(design) == "beft" and on == "unet")
            bare = copy.deepcopy(denoiser)
            known = dict(bare.named_parameters())
            for name, value in merged.items():
                known[name].copy_(value)
            assert largest(bare(**rows).sample - tuned) <= exact


@placed
def test_saved_and_loaded_under_another_seed_is_the_same(place, design, on, tmp_path):
    denoiser, rows, fit = place
    design = fit(design)
    with torch.no_grad():
        insertion = insert(denoiser, design, seeded(1))
        perturb(insertion)
        tuned, state = denoiser(**rows).sample, insertion.state()
        insertion.remove()
        save(tmp_path / "a", design, state, {})
        torch.manual_seed(99)
        loaded = load(denoiser, tmp_path / "a")
        assert torch.equal(denoiser(**rows).sample, tuned)
        loaded.remove()


@placed
def test_counted_is_made_is_trained(place, design, on):
    denoiser, rows, fit = place
    design = fit(design)
    counted = count(denoiser, design).trainable
    shapes = {name: s for edit in method_of(design).edits(denoiser) for name, s in edit.shapes().items()}
    insertion = insert(denoiser, design, seeded(1))
    perturb(insertion)
    trained = insertion.parameters()
    denoiser(**rows).sample.square().mean().backward()
    assert shapes == {name: tuple(parameter.shape) for name, parameter in insertion.named_parameters()}
    assert counted == sum(parameter.numel() for parameter in trained)
    own = {id(parameter) for parameter in trained}
    assert not [name for name, p in denoiser.named_parameters() if id(p) not in own and p.grad is not None]
    dead = [name for name, p in insertion.named_parameters() if p.grad is None or not largest(p.grad) > 0]
    insertion.remove()
    # a 2×2 matrix between rectified sums of peanut may get nothing
    assert len(dead) <= (0.2 if kind_of(design) == "peanut" else 0.02) * len(trained), dead


@of_all
def test_removing_leaves_no_trace(unet, batch, design):
    before = traces(unet)
    insertion = insert(unet, design, seeded(1))
    unet(**batch).sample.square().mean().backward()
    torch.optim.SGD(insertion.parameters(), lr=0.1).step()
    insertion.remove()
    insertion.remove()
    assert_same_traces(before, traces(unet))


@pytest.mark.parametrize("moment", ["while peft wraps", "after some layers"])
@pytest.mark.parametrize("design", [NAMED[0], OTHERS[-2]], ids=["loha", "vera"])
def test_failed_insertion_leaves_no_trace(monkeypatch, design, moment):
    from adapters.edits import peft_layers

    unet, calls = tiny_unet().requires_grad_(True), []
    for edit in method_of(design).edits(unet):
        edit.shapes()  # what is counted before does not fail
    before = traces(unet)
    module, name = (nn.ParameterDict, "__setitem__") if "wraps" in moment else (peft_layers, "_move")
    wanted = getattr(module, name)

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError("no more")
        return wanted(*args)

    monkeypatch.setattr(module, name, failing)
    with pytest.raises(MemoryError):
        insert(unet, design)
    assert_same_traces(before, traces(unet))


def test_trainable_denoiser_stays_so(batch):
    unet = tiny_unet().requires_grad_(True)
    insertion = insert(unet, NAMED[0], seeded(1))
    assert all(parameter.requires_grad for parameter in unet.parameters())
    insertion.remove()
    assert all(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize(
    ("ours", "name", "config"),
    [
        ({"method": "loha", "rank": 3, "alpha": 6}, "LoHaConfig", {"r": 3, "alpha": 6}),
        ({"method": "loha", "rank": 2, "targets": "conv"}, "LoHaConfig", {"r": 2, "alpha": 2}),
        (
            {"method": "lokr", "rank": 1, "factor": 2, "alpha": 5},
            "LoKrConfig",
            {"r": 1, "alpha": 5, "decompose_factor": 2},
        ),
        ({"method": "oft", "block_size": 4}, "OFTConfig", {"oft_block_size": 4}),
        ({"method": "hra", "rank": 2, "targets": "ff"}, "HRAConfig", {"r": 2}),
        ({"method": "peft", "kind": "road", "group_size": 4}, "RoadConfig", {"group_size": 4}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) and "method" in value else "",
)
def test_twenty_steps_equal_peft(unet, batch, ours, name, config):
    import peft

    layers = [layer.name for layer in find_layers(unet, ours.get("targets", "attention"))]
    insertion = insert(unet, ours, seeded(1))
    start, losses = insertion.state(), curve(unet, insertion.parameters(), batch)
    insertion.remove()
    assert losses[0] > losses[-1]
    referee = copy.deepcopy(unet)
    peft.inject_adapter_in_model(getattr(peft, name)(target_modules=layers, **config), referee)
    # peft's names are ours with the adapter's name in them
    theirs = {n.replace(".default", ""): p for n, p in referee.named_parameters() if p.requires_grad}
    assert theirs.keys() == start.keys()
    for n, parameter in theirs.items():
        parameter.data = start[n].to(parameter.data)
    expected = curve(referee, list(theirs.values()), batch)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-9, atol=0)


def curve(denoiser, parameters, rows):
    wanted = torch.randn(rows["sample"].shape, generator=seeded(5), dtype=torch.float64)
    optimiser, losses = torch.optim.Adam(parameters, lr=1e-2), []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (denoiser(**rows).sample - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_every_kind_has_a_case():
    assert KIND_SETTINGS.keys() == KINDS.keys()


@pytest.mark.filterwarnings("ignore")  # peft's, of what it recomputes instead of loading it
@of_all
def test_peft_loads_what_is_exported(unet, batch, tmp_path, design):
    from peft import PeftModel

    with torch.no_grad():
        insertion = insert(unet, design, seeded(1))
        perturb(insertion)
        tuned, state = unet(**batch).sample, insertion.state()
        insertion.remove()
        save(tmp_path / "a", design, state, {})
        if kind_of(design) in ("lily", "vblora"):
            with pytest.raises(InputFault, match=r"share trained tensors.*adapters\.load"):
                export(tmp_path / "a", "peft", tmp_path / "out", unet)
            return
        export(tmp_path / "a", "peft", tmp_path / "out", unet)
        loaded = PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path / "out").eval()
        assert largest(loaded(**batch).sample - tuned) <= 1e-6 and largest(unet(**batch).sample - tuned) > 1e-4


@pytest.mark.parametrize("alpha", ["rank", 3])
@pytest.mark.parametrize("method", ["loha", "lokr", "oft", "boft", "hra", "hira"])
def test_exported_size_of_a_budget_is_the_resolved_one(unet, method, alpha):
    design = {"method": method, "budget": "4%", **({"alpha": alpha} if method in ("loha", "lokr") else {})}
    key = "block_size" if "oft" in method else "rank"
    insertion = insert(unet, design, seeded(1))
    insertion.remove()
    config = lambda given: method_of(given).peft_config(insertion.state())  # noqa: E731
    resolved = {**design, key: count(unet, design).resolved[key], "budget": None}
    if method == "lokr" and not any("lokr_w2_b" in name for name in insertion.state()):
        if alpha != "rank":
            with pytest.raises(InputFault, match="give rank"):
                config(design)
        return
    assert config(design) == config(resolved)


def test_butterflies_rotate_across_blocks(unet):
    """A rotation keeps the products of a weight's rows; butterflies reach further than their blocks."""
    insertion = insert(unet, {"method": "boft", "block_size": 2, "butterfly_factor": 2}, seeded(1))
    with torch.no_grad():
        for name, parameter in insertion.named_parameters():
            if name.endswith("boft_R"):
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(3)))
    merged = insertion.merged()
    insertion.remove()
    reach = 0
    for name, after in merged.items():
        before = unet.get_parameter(name)
        torch.testing.assert_close(after @ after.T, before @ before.T, rtol=0, atol=1e-12)
        if before.shape[0] >= before.shape[1]:
            rotation = torch.linalg.lstsq(before, after).solution
            reach = max(reach, largest(rotation - torch.block_diag(*rotation_blocks(rotation))))
    assert reach > 0.1


def rotation_blocks(matrix):
    return [matrix[i : i + 2, i : i + 2] for i in range(0, len(matrix), 2)]


def test_block_diagonals_have_the_right_gradient():
    from adapters.edits.peft_layers import _Blocks

    blocks = torch.randn(2, 3, 2, 2, generator=seeded(1), dtype=torch.float64)
    (spread,) = _Blocks().forward(blocks)
    assert torch.equal(spread, torch.stack([torch.block_diag(*some) for some in blocks]))
    cotangent = torch.randn(spread.shape, generator=seeded(2), dtype=torch.float64)
    (gradient,) = _Blocks().backward(cotangent, blocks)
    torch.testing.assert_close((gradient * blocks).sum(), (cotangent * spread).sum())  # linear, so its own transpose
    expected = [[cotangent[n, 2 * d : 2 * d + 2, 2 * d : 2 * d + 2] for d in range(3)] for n in range(2)]
    assert torch.equal(gradient, torch.stack([torch.stack(some) for some in expected]))


@pytest.mark.parametrize("kept", [torch.bfloat16, "autocast"], ids=str)
@of_all
def test_parameters_stay_float32(unet, batch, design, kept):
    dtype = torch.float32 if kept == "autocast" else kept
    low = copy.deepcopy(unet).to(dtype)
    rows = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    insertion = insert(low, design, seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kept == "autocast"):
        output = low(**rows).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype or kept == "autocast"
    assert {parameter.dtype for parameter in insertion.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in insertion.parameters()} == {torch.float32}
    assert low.get_submodule(find_layers(unet, "attention")[0].name).weight.dtype == dtype


@of_all
def test_start_depends_on_the_seed_alone_and_takes_no_other_stream(unet, design):
    def start(seed, asked=design):
        insertion = insert(unet, asked, seeded(seed))
        insertion.remove()
        return insertion.state()

    def same(first, second):
        common = first.keys() & second.keys()
        return bool(common) and all(torch.equal(first[name], second[name]) for name in common)

    before = torch.get_rng_state()
    reference = start(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert same(reference, start(1))
    fixed = ("oft", "boft", "ia3", "beft", "miss", "randlora", "road", "shira", "vera", "waveft")
    assert same(reference, start(2)) == (kind_of(design) in fixed)
    shared = kind_of(design) in KINDS and KINDS[kind_of(design)].shared
    assert shared or same(reference, start(1, design | {"targets": "attention"}))


def test_layers_of_one_size_start_differently(unet):
    insertion = insert(unet, {"method": "loha", "rank": 2}, seeded(1))
    insertion.remove()
    values = [tuple(value[0].tolist()) for name, value in insertion.state().items() if name.endswith("w1_b")]
    assert len(set(values)) == len(values) == len(find_layers(unet, "attention"))


def test_second_adapter_of_peft_is_refused(unet, batch):
    untouched = unet(**batch).sample
    first = insert(unet, {"method": "peft", "kind": "vera", "r": 4, "targets": LINEAR}, seeded(1))
    for targets in ("attention", "ff"):
        with pytest.raises(InputFault, match="remove that one first"):
            insert(unet, {"method": "loha", "rank": 2, "targets": targets})
    first.remove()
    assert torch.equal(unet(**batch).sample, untouched)
