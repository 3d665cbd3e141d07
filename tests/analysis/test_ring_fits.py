"""Spectra and fits of weights: closed forms, planted solutions, and the methods' own layouts and counts."""

import numpy as np
import pytest
import torch

import adapters
from adapters.changes.tensor_ring import RingResidual, RingTransform, axes
from analysis.ring_fits import (
    dense_transform,
    fit_ring,
    fit_transform,
    fit_with_low_rank,
    fit_with_ring,
    identity,
    ring_matrix,
    transform_matrix,
)
from analysis.weight_spectra import (
    effective_rank,
    energy_rank,
    low_rank,
    measures,
    nearest_kronecker,
    same_spectrum,
    singular_values,
    stable_rank,
    truncation_errors,
)
from analysis.weight_structures import Fitter, Structure, default_structures, lora_error
from study.backbones.architectures import architecture

LONG = {"sweeps": 4000, "tolerance": 1e-14}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def planted(rng, features: int, rank: int, size: float = 0.05):
    """Cores of a transform near the identity."""
    cores = []
    for length in axes(features):
        slices = np.full((rank, rank), 1 / rank)
        core = np.eye(length)[..., None, None] * slices + size * rng.standard_normal((length, length, rank, rank))
        cores.append(core)
    return tuple(cores)


def test_ranks_are_their_closed_forms():
    even = np.ones(7)  # n equal singular values: n by every measure, by definition of each
    assert effective_rank(even) == pytest.approx(7) and stable_rank(even) == pytest.approx(7)
    assert [energy_rank(even, share) for share in (0.9, 0.95, 0.99)] == [7, 7, 7]
    assert [energy_rank(np.array([3.0, 1.0, 0.0]), share) for share in (0.9, 0.91, 1.0)] == [1, 2, 2]  # 9 of 10
    # Shares 3/4 and 1/4: exp(-3/4 ln 3/4 - 1/4 ln 1/4) = 4 / 3^(3/4); energy 10 over 9.
    assert effective_rank(np.array([3.0, 1.0, 0.0])) == pytest.approx(4 / 3**0.75)
    assert stable_rank(np.array([3.0, 1.0, 0.0])) == pytest.approx(10 / 9)
    assert set(measures(np.zeros(3)).values()) == {0.0}


def test_the_best_low_rank_error_is_the_tail_of_the_singular_values(rng):
    matrix = rng.standard_normal((9, 14))
    values = np.linalg.svd(matrix, compute_uv=False)
    errors = truncation_errors(singular_values(matrix))
    for rank in range(10):
        tail = np.sqrt(np.square(values[rank:]).sum() / np.square(values).sum())  # Eckart & Young 1936
        assert errors[rank] == pytest.approx(tail, abs=1e-12)
        assert relative(low_rank(matrix, rank), matrix) == pytest.approx(tail, abs=1e-12)
    exact = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 14))
    assert relative(low_rank(exact, 3), exact) < 1e-12


def test_a_kronecker_product_is_recovered_and_no_other_is_nearer(rng):
    a, b = rng.standard_normal((3, 2)), rng.standard_normal((4, 5))
    assert relative(np.kron(*nearest_kronecker(np.kron(a, b), 3, 2)), np.kron(a, b)) < 1e-12
    noisy = np.kron(a, b) + 0.3 * rng.standard_normal((12, 10))
    a, b = nearest_kronecker(noisy, 3, 2)
    best = relative(np.kron(a, b), noisy)
    # A stationary point in A and in B alone: each is the least-squares solution given the other.
    blocks = noisy.reshape(3, 4, 2, 5)
    assert np.einsum("ikjl,kl->ij", blocks, b) / (b**2).sum() == pytest.approx(a)
    assert np.einsum("ikjl,ij->kl", blocks, a) / (a**2).sum() == pytest.approx(b)
    for _ in range(20):
        moved = np.kron(a + 0.1 * rng.standard_normal(a.shape), b + 0.1 * rng.standard_normal(b.shape))
        assert relative(moved, noisy) > best
    with pytest.raises(adapters.InputFault, match="must divide the 12 rows"):
        nearest_kronecker(noisy, 5, 2)


def test_rings_are_laid_out_as_the_method_lays_them_out(rng):
    transform, residual = RingTransform(24, 2, 0.1), RingResidual((12, 24), 3)
    cores = {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in transform.shapes().items()}
    assert transform_matrix(tuple(c.numpy() for c in cores.values())) == pytest.approx(transform.matrix(cores).numpy())
    rings = {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in residual.shapes().items()}
    assert ring_matrix(tuple(c.numpy() for c in rings.values())) == pytest.approx(residual.delta(rings).numpy())
    assert np.array_equal(transform_matrix(identity(24)), np.eye(24))


@pytest.mark.parametrize(("rank", "starts"), [(1, 1), (2, 4)])  # of rank 2 some starts end in local optima
def test_a_planted_transform_is_recovered(rng, rank, starts):
    before = rng.standard_normal((24, 12))
    after = before @ transform_matrix(planted(rng, 12, rank, 0.5))
    cores = fit_transform(before, after, rank, rng, sweeps=1000, tolerance=1e-9, starts=starts)
    assert {core.shape[-1] for core in cores} == {rank}
    assert relative(before @ transform_matrix(cores), after) < 1e-8


def test_a_planted_transform_and_low_rank_residual_are_recovered(rng):
    before = rng.standard_normal((24, 24))
    residual = 0.3 * rng.standard_normal((24, 2)) @ rng.standard_normal((2, 24))
    after = before @ transform_matrix(planted(rng, 24, 1)) + residual
    start = fit_transform(before, after, 1, rng)
    fit = fit_with_low_rank(before, after, start, 2, **LONG)
    assert fit.error / np.linalg.norm(after) < 1e-8
    assert np.linalg.matrix_rank(fit.residual, tol=1e-8) == 2
    assert relative(fit.residual, residual) < 1e-6
    # One rank less cannot hold it.
    assert fit_with_low_rank(before, after, start, 1).error > 0.1 * np.linalg.norm(residual)


def test_a_planted_ring_residual_is_recovered(rng):
    shapes = RingResidual((8, 8), 2).shapes().values()
    planted_ring = ring_matrix(tuple(rng.standard_normal(shape) for shape in shapes))
    assert relative(ring_matrix(fit_ring(planted_ring, 2, rng, **LONG)), planted_ring) < 1e-8
    before = rng.standard_normal((8, 8))
    after = before @ transform_matrix(planted(rng, 8, 1)) + planted_ring
    fit = fit_with_ring(before, after, identity(8), 2, rng, **LONG)
    assert fit.error / np.linalg.norm(after) < 1e-8


def test_more_of_a_structure_never_fits_worse(rng):
    before, after = rng.standard_normal((24, 24)), rng.standard_normal((24, 24))
    change = after - before
    last = np.linalg.norm(change)
    for rank in (1, 2, 3):
        cores = fit_transform(before, after, rank, rng)
        error = np.linalg.norm(after - before @ transform_matrix(cores))
        assert error <= last * (1 + 1e-12)
        last = error
    plain = truncation_errors(singular_values(change))[2] * np.linalg.norm(change)
    assert fit_with_low_rank(before, after, cores, 2).error < plain


def test_a_dense_transform_leaves_what_is_outside_the_range_of_the_weight(rng):
    tall, square = rng.standard_normal((30, 24)), rng.standard_normal((24, 24))
    after = rng.standard_normal((30, 24))
    left = after - tall @ dense_transform(tall, after)
    outside = np.linalg.svd(tall)[0][:, 24:]
    assert left == pytest.approx(outside @ outside.T @ after, abs=1e-10)
    cores = fit_transform(tall, after, 3, rng)
    assert np.linalg.norm(left) < np.linalg.norm(after - tall @ transform_matrix(cores))  # no ring is below the bound
    wanted = rng.standard_normal((24, 24))
    assert relative(square @ dense_transform(square, wanted), wanted) < 1e-10  # any W at all: it says nothing


def test_the_control_has_the_spectrum_and_nothing_else(rng):
    matrix = low_rank(rng.standard_normal((12, 20)), 4)
    control = same_spectrum(matrix, rng)
    assert np.linalg.svd(control, compute_uv=False) == pytest.approx(np.linalg.svd(matrix, compute_uv=False), abs=1e-12)
    assert abs((control * matrix).sum()) < 0.5 * np.square(matrix).sum()
    # Haar: the mean square of an entry is the same everywhere, ‖M‖²/(12·20), also where the matrix has all its mass.
    peak = np.zeros((12, 20))
    peak[0, 0] = 1.0
    squares = np.mean([np.square(same_spectrum(peak, rng)) for _ in range(4000)], axis=0)
    assert squares == pytest.approx(np.full((12, 20), 1 / 240), rel=0.2)


@pytest.mark.parametrize(
    ("structure", "design"),
    [
        (Structure("lora", (3,)), {"method": "lora", "rank": 3}),
        (Structure("krona", (4, 8)), {"method": "krona", "a1": 4, "a2": 8}),
        (Structure("tlora", (2, 6)), {"method": "tlora", "transform_rank": 2, "residual_rank": 6}),
        (Structure("tlora_star", (2, 4)), {"method": "tlora_star", "transform_rank": 2, "rank": 4}),
    ],
)
def test_parameters_are_those_the_methods_count(structure, design):
    from adapters.layers import find_layers

    denoiser = architecture("sd15")  # without weights
    layers = find_layers(denoiser, "attention")
    counted = sum(structure.parameters(layer.outputs, layer.inputs) for layer in layers)
    assert counted == adapters.count(denoiser, design).trainable


def test_structures_are_fitted_by_their_best(rng):
    before = rng.standard_normal((12, 12))
    change = np.kron(rng.standard_normal((2, 2)), rng.standard_normal((6, 6)))
    fitter = Fitter(before, change, [0])
    assert fitter.error(Structure("krona", (2, 2)), {}) < 1e-12
    assert fitter.error(Structure("lora", (12,)), {}) < 1e-12
    assert fitter.error(Structure("lora", (99,)), {}) < 1e-12  # more than all is all
    assert {s.label for s in default_structures([(48, 48), (96, 96)]) if s.method == "krona"} == {
        f"KronA ({d}, {d})" for d in (2, 3, 4, 6)
    }
    with pytest.raises(adapters.InputFault, match="expected one of lora"):
        Structure("dora", (1,))
    with pytest.raises(adapters.InputFault, match="expected two sizes"):
        Structure("tlora", (1,))


def test_lora_between_two_ranks_interpolates_squared_errors():
    errors = np.array([1.0, 0.6, 0.0])
    assert lora_error(errors, 1) == pytest.approx(0.6) and lora_error(errors, 7) == 0.0
    # Half of many alike matrices at rank 0 and half at rank 1: the mean of their squared errors.
    assert lora_error(errors, 0.5) == pytest.approx(np.sqrt((1 + 0.36) / 2))
