"""The algebra of changes of a weight: against torch.kron, index formulas and closed forms, in float64."""

import pytest
import torch
from torch import nn

from adapters import InputFault, count, normalise
from adapters.changes.kronecker import Kronecker
from adapters.changes.tensor_ring import RingResidual, RingTransform, TransformResidual, axes
from adapters.draws import Draws


def drawn(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize(("out", "read", "a1", "a2"), [(12, 18, 3, 2), (8, 8, 1, 8), (10, 6, 10, 1), (6, 4, 6, 4)])
def test_fast_kronecker_product_equals_torch_kron(out, read, a1, a2):
    change = Kronecker((out, read), a1, a2, "normal")
    parameters = drawn(change.shapes())
    tensor = torch.randn(2, 5, read, dtype=torch.float64)
    fast = change.added(parameters, nn.Linear(read, out), tensor, torch.zeros(1))
    # oracle: torch.kron forms the whole matrix
    slow = tensor @ torch.kron(parameters["krona_A"], parameters["krona_B"]).T
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        change.changed(parameters, torch.zeros(out, read, dtype=torch.float64)) @ tensor[0, 0], slow[0, 0]
    )


def test_kronecker_starts():
    # the paper's code: A ~ N(0, 1/a1²); Kaiming-uniform with a = √5 is U(±1/√fan_in), of SD bound/√3
    shape = (4000, 4000)
    normal = Kronecker(shape, 4, 1000, "normal").draw("x", Draws(1), torch.zeros(1))["krona_A"]
    assert normal.std().item() == pytest.approx(1 / 4, rel=0.05)
    kaiming = Kronecker(shape, 40, 100, "kaiming").draw("x", Draws(1), torch.zeros(1))["krona_A"]
    assert kaiming.abs().max() <= 0.1 and kaiming.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_axes_are_those_of_the_papers_counts():
    # PAPERS: the grids that reproduce TLoRA's parameter counts
    grids = {320: (4, 8, 10), 640: (8, 8, 10), 768: (8, 8, 12), 1280: (8, 10, 16), 2048: (8, 16, 16)}
    assert {features: axes(features) for features in grids} == grids
    assert axes(48) == (3, 4, 4) and axes(7) == (1, 1, 7)


def test_transform_of_rank_one_is_the_kronecker_chain():
    transform = RingTransform(24, 1, 0.0)
    cores = drawn(transform.shapes())
    first, second, third = (cores[f"transform.{d}"][:, :, 0, 0] for d in range(3))
    # oracle: torch.kron of the three cores
    expected = torch.kron(torch.kron(first, second), third)
    torch.testing.assert_close(transform.matrix(cores), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ring_entries_are_traces_of_products(rank):
    transform, residual = RingTransform(24, rank, 0.0), RingResidual((12, 24), rank)
    cores, ring = drawn(transform.shapes()), drawn(residual.shapes(), 1)
    grid, out_grid = axes(24), axes(12)
    for row, column in [(0, 0), (5, 17), (23, 1), (11, 22)]:
        i, j = (torch.unravel_index(torch.tensor(value), grid) for value in (row, column))
        product = torch.eye(rank, dtype=torch.float64)
        for d in range(3):
            product = product @ cores[f"transform.{d}"][i[d], j[d]]
        assert transform.matrix(cores)[row, column].item() == pytest.approx(product.trace().item(), rel=1e-10)
        o = torch.unravel_index(torch.tensor(row % 12), out_grid)
        product = torch.eye(rank, dtype=torch.float64)
        for d in range(3):
            product = product @ ring[f"rows.{d}"][o[d]]
        for d in range(3):
            product = product @ ring[f"columns.{d}"][j[d]]
        assert residual.delta(ring)[row % 12, column].item() == pytest.approx(product.trace().item(), rel=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_transform_starts_as_the_identity(rank, noise):
    transform = RingTransform(40, rank, noise)
    cores = transform.draw("layer", Draws(3))
    torch.testing.assert_close(transform.matrix(cores), torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-10)


def test_noise_breaks_the_tie_between_the_slices():
    """Without it all R² slices of a core get one gradient, and the ring acts as if R were 1 (PAPERS)."""

    def spread(noise):
        transform = RingTransform(24, 2, noise)
        cores = {name: value.requires_grad_() for name, value in transform.draw("layer", Draws(3)).items()}
        target = torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (transform.matrix(cores) - target).square().sum().backward()
        slices = cores["transform.1"].grad.flatten(2)
        return (slices.std(dim=2).max() / slices.abs().max()).item()

    assert spread(0.0) < 1e-12 and spread(0.1) > 0.02


def test_regulariser_is_the_distance_of_the_slices_from_the_scaled_identity():
    transform = RingTransform(12, 2, 0.0)
    start = transform.draw("layer", Draws(0))
    assert transform.penalty(start).item() == pytest.approx(0, abs=1e-12)
    moved = {name: value.clone() for name, value in start.items()}
    moved["transform.0"][0, 1, 1, 0] += 3.0
    moved["transform.0"][1, 0, 1, 0] += 4.0
    # closed form: one slice is off by a matrix of Frobenius norm √(3² + 4²)
    assert transform.penalty(moved).item() == pytest.approx(5.0)
    change = TransformResidual(transform, RingResidual((4, 12), 2), 0.5)
    assert change.penalty(moved).item() == pytest.approx(2.5)


def test_regulariser_reaches_the_insertion(unet):
    from adapters import insert

    design = {"method": "tlora", "residual_rank": 1, "init_noise": 0.2, "regulariser": 2}
    insertion = insert(unet, design)
    state = insertion.state()
    total = 0.0
    for name, value in state.items():
        if ".transform." in name:
            start = torch.eye(len(value), dtype=value.dtype)[..., None, None] / 2
            total += (value - start).square().sum((0, 1)).sqrt().sum().item()
    assert insertion.penalty().item() == pytest.approx(2 * total)
    insertion.remove()
    for plain in ({"method": "lora", "rank": 1}, {"method": "tlora", "residual_rank": 1, "init_noise": 0.2}):
        insertion = insert(unet, plain)
        assert insertion.penalty() is None
        insertion.remove()


# PAPERS §2-§4: counts reported by the papers or arithmetic that reproduces them
COUNTS = [
    ("sd15", "lora rank=4", 797_184),
    ("sd21", "lora rank=4", 829_952),
    ("sdxl", "lora rank=4", 5_806_080),
    ("dit-xl-2", "lora rank=4", 1_032_192),
    ("sd15", "dora rank=4", 897_024),
    ("sdxl", "krona a1=4 a2=64", 3_874_560),
    ("sdxl", "krona a1=8 a2=64", 2_152_320),
    ("sdxl", "krona a1=16 a2=64", 1_506_240),
    ("sd15", "krona a1=4 a2=64", 398_048),
    ("sd15", "krona a1=8 a2=64", 248_176),
    ("sd15", "tlora transform_rank=2 residual_rank=6", 400_288),
    ("sd15", "tlora_star transform_rank=2 rank=4", 941_440),
    ("sdxl", "tlora transform_rank=1 residual_rank=2", 396_720),
]


@pytest.mark.parametrize(("architecture", "design", "trainable"), COUNTS)
def test_counts_of_the_papers(architectures, architecture, design, trainable):
    method, *keys = design.split()
    counted = count(architectures[architecture], {"method": method, **dict(key.split("=") for key in keys)})
    assert counted.trainable == trainable


@pytest.mark.parametrize("method", ["lora", "dora", "krona", "tlora", "tlora_star"])
def test_budget_takes_the_nearest_size(architectures, method):
    denoiser = architectures["sd15"]
    asked = 1_000_000
    counted = count(denoiser, {"method": method, "budget": asked})
    key = {"tlora": "residual_rank"}.get(method, "rank")
    if method == "krona":
        divisors = [[n for n in range(1, m + 1) if m % n == 0] for m in (320, 64)]  # of all outputs, of all inputs
        others = [(a1, a2) for a1 in divisors[0] for a2 in divisors[1]]
        sizes = [count(denoiser, {"method": method, "a1": a1, "a2": a2}).trainable for a1, a2 in others]
    else:
        rank = counted.resolved[key]
        sizes = [count(denoiser, {"method": method, key: r}).trainable for r in (max(1, rank - 1), rank, rank + 1)]
    assert abs(counted.trainable - asked) == min(abs(size - asked) for size in sizes)
    assert counted.budget_met == (abs(counted.trainable - asked) <= 0.03 * asked)


def test_alpha_defaults_to_the_rank():
    assert normalise({"method": "lora", "rank": "4"}) == {
        "method": "lora",
        "rank": 4,
        "alpha": "rank",
        "rslora": False,
        "targets": "attention",
        "text_encoder": False,
    }


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"method": "lora"}, "neither rank nor budget"),
        ({"method": "lora", "rank": 4, "budget": "1%"}, "both rank and budget"),
        ({"method": "lora", "rank": 0}, "rank=0"),
        ({"method": "lora", "rank": 4, "alpha": -1}, "alpha=-1"),
        ({"method": "lora", "rank": 4, "rslora": "perhaps"}, "neither true nor false"),
        ({"method": "lora", "rank": 4, "targets": "attention+mlp"}, "attention, ff, conv"),
        ({"method": "lora", "rank": 4, "targets": 7}, "attention, ff, conv"),
        ({"method": "krona", "a1": 4}, "a1 and a2, or budget"),
        ({"method": "krona", "a1": 4, "a2": 4, "budget": "1%"}, "a1 and a2, or budget"),
        ({"method": "krona", "a1": 4, "a2": 4, "targets": "conv"}, "no convolution"),
        ({"method": "krona", "a1": 4, "a2": 4, "init": "zeros"}, "normal, kaiming"),
        ({"method": "tlora", "rank": 4}, "does not know rank"),
        ({"method": "tlora", "residual_rank": 4, "init_noise": -0.1}, "init_noise=-0.1"),
        ({"method": "tlora_star", "rank": 4, "targets": "conv"}, "linear layers"),
    ],
)
def test_wrong_designs_are_told_what_is_right(design, message):
    with pytest.raises(InputFault, match=message):
        normalise(design)


def test_factors_must_divide_every_layer(unet):
    with pytest.raises(InputFault, match="a1=3 does not divide the outputs of every layer; .*1, 2, 4"):
        count(unet, {"method": "krona", "a1": 3, "a2": 2})


def test_text_encoder_must_be_there(unet):
    with pytest.raises(InputFault, match="text_encoder=true, but no text encoder"):
        count(unet, {"method": "lora", "rank": 2, "text_encoder": True})
    with pytest.raises(InputFault, match="no CLIP attentions"):
        count(unet, {"method": "lora", "rank": 2, "text_encoder": True}, nn.Linear(2, 2))
