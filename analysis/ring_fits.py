"""Alternating least squares for TLoRA's tensor rings: a transform T with W ≈ W₀T, and a residual Δ.

Both are linear in each of their cores while the others are held, so a core is one exact least-squares solution and no
sweep can raise the error. A sweep goes through all cores once. What is found is a local optimum: an upper bound of what
the structure can do. Layout and cores are those of `adapters.changes.tensor_ring`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adapters.changes.tensor_ring import AXES, axes
from analysis.weight_spectra import low_rank

Cores = tuple[np.ndarray, ...]

SWEEPS = 40
TOLERANCE = 1e-3
"""A fit ends after so many sweeps, or when one lowers the squared error by a smaller share of itself."""

ORDER = ["einsum_path", (0, 1), (0, 1)]
"""Of products of three cores; looking for it costs as much as the products."""

NOISE = 0.1
"""Standard deviation of what a ring is widened with, over the root mean square of its cores."""


@dataclass(frozen=True)
class RingFit:
    """A fitted approximation of a changed weight, W ≈ W₀T + Δ.

    Attributes
    ----------
    transform
        Cores (I, I, R, R) of T.
    residual
        Δ (out, in).
    error
        Frobenius norm of W − W₀T − Δ.
    """

    transform: Cores
    residual: np.ndarray
    error: float


def transform_matrix(cores: Cores) -> np.ndarray:
    """T (features, features) of its cores (I, I, R, R)."""
    features = int(np.prod([len(core) for core in cores]))
    return np.einsum("ijab,klbc,mnca->ikmjln", *cores, optimize=ORDER).reshape(features, features)


def ring_matrix(cores: Cores) -> np.ndarray:
    """Δ (out, in) of its cores (I, R, R), those of the rows first."""
    rows, columns = (np.einsum("iab,kbc,mcd->ikmad", *side, optimize=True) for side in (cores[:AXES], cores[AXES:]))
    rank = rows.shape[-1]
    return rows.reshape(-1, rank**2) @ columns.swapaxes(3, 4).reshape(-1, rank**2).T


def identity(features: int) -> Cores:
    """The cores, of rank 1, of the identity."""
    return tuple(np.eye(size)[..., None, None] for size in axes(features))


def dense_transform(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The dense T that minimises ‖W − W₀T‖, W₀⁺W: the bound of what any transform can do.

    Where W₀ has full row rank, as every square matrix that can be inverted has, it fits any W exactly.
    """
    return np.linalg.lstsq(before, after, rcond=None)[0]


def fit_transform(
    before: np.ndarray,
    after: np.ndarray,
    rank: int,
    rng: np.random.Generator,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
    starts: int = 1,
) -> Cores:
    """Fit T of a ring rank to W ≈ W₀T; no rank fits worse than a smaller one, nor than the identity.

    Parameters
    ----------
    before, after : float64 (out, in)
        W₀ and W.
    rank : int
        R; a ring is widened one by one from the identity's rank 1.
    rng
        Draws what a ring is widened with. Wider cores without it would stay multiples of one matrix.
    starts : int
        Of each rank above 1, the best of so many.
    """
    cores = identity(before.shape[1])
    for wider in range(1, rank + 1):
        best = _measured(before, after, RingFit(_widened(cores, wider, None), np.zeros_like(after), np.inf))
        for _ in range(starts if wider > 1 else 1):
            start = _widened(cores, wider, rng) if wider > 1 else cores
            found = _alternate(before, after, start, _no_residual, sweeps, tolerance)
            best = min(best, found, key=lambda fit: fit.error)
        cores = best.transform
    return cores


def fit_with_low_rank(
    before: np.ndarray,
    after: np.ndarray,
    start: Cores,
    rank: int,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
) -> RingFit:
    """Fit T and a Δ of low rank together: TLoRA*; never worse than LoRA of that rank.

    Parameters
    ----------
    start
        Cores of T to begin with.
    rank : int
        Of Δ, which begins as the best for what `start` leaves and as LoRA's best; the better end is kept.
    """
    plain = low_rank(after - before, rank)
    same = _widened(identity(before.shape[1]), start[0].shape[-1], None)
    best = _measured(before, after, RingFit(same, plain, np.inf))
    for first in (low_rank(after - before @ transform_matrix(start), rank), plain):
        found = _alternate(before, after, start, lambda rest, _: low_rank(rest, rank), sweeps, tolerance, first)
        best = min(best, found, key=lambda fit: fit.error)
    return best


def fit_with_ring(
    before: np.ndarray,
    after: np.ndarray,
    start: Cores,
    rank: int,
    rng: np.random.Generator,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
) -> RingFit:
    """Fit T and a Δ of tensor-ring rank together: TLoRA. Δ starts at random, fitted to what T leaves."""
    ring = fit_ring(after - before @ transform_matrix(start), rank, rng, sweeps, tolerance)
    held = [ring]

    def again(rest: np.ndarray, _: np.ndarray) -> np.ndarray:
        held[0] = _ring_sweep(rest, held[0])
        return ring_matrix(held[0])

    return _alternate(before, after, start, again, sweeps, tolerance, ring_matrix(ring))


def fit_ring(
    matrix: np.ndarray, rank: int, rng: np.random.Generator, sweeps: int = SWEEPS, tolerance: float = TOLERANCE
) -> Cores:
    """Fit a tensor ring of six cores to a matrix, from a random start."""
    sizes = [*axes(matrix.shape[0]), *axes(matrix.shape[1])]
    cores: Cores = tuple(rng.standard_normal((size, rank, rank)) / rank for size in sizes)
    last = float("inf")
    for _ in range(sweeps):
        cores = _ring_sweep(matrix, cores)
        error = float(np.square(matrix - ring_matrix(cores)).sum())
        if error >= (1 - tolerance) * last:
            break
        last = error
    return cores


def _alternate(
    before: np.ndarray,
    after: np.ndarray,
    cores: Cores,
    refit: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sweeps: int,
    tolerance: float,
    residual: np.ndarray | None = None,
) -> RingFit:
    """Fit T to what Δ leaves and Δ to what T leaves, in turns; `refit` is told what T leaves and the last Δ."""
    delta = np.zeros_like(after) if residual is None else residual
    last = float("inf")
    for _ in range(sweeps):
        cores = _transform_sweep(before, after - delta, cores)
        rest = after - before @ transform_matrix(cores)
        delta = refit(rest, delta)
        error = float(np.square(rest - delta).sum())
        if error >= (1 - tolerance) * last:
            break
        last = error
    return _measured(before, after, RingFit(cores, delta, np.inf))


def _measured(before: np.ndarray, after: np.ndarray, fit: RingFit) -> RingFit:
    error = np.linalg.norm(after - before @ transform_matrix(fit.transform) - fit.residual)
    return RingFit(fit.transform, fit.residual, float(error))


def _no_residual(_: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return delta


def _transform_sweep(before: np.ndarray, after: np.ndarray, cores: Cores) -> Cores:
    """Solve for each core of T in turn.

    Of the core that is solved for, the columns j share one design: entries of W are linear in A[i, j] with
    coefficients made of W₀ and the two other cores. The trace is cyclic, so every core can be written as the first.
    """
    out = len(before)
    grid = tuple(len(core) for core in cores)
    weights, wanted = before.reshape(out, *grid), after.reshape(out, *grid)
    solved = list(cores)
    for d in range(AXES):
        order = [(d + step) % AXES for step in range(AXES)]
        turned = [0, *(1 + axis for axis in order)]
        second, third = solved[order[1]], solved[order[2]]
        others = np.einsum("klbc,mnca->kmlnab", second, third)
        size, rank = grid[d], second.shape[-1]
        design = np.tensordot(weights.transpose(turned), others, axes=((2, 3), (0, 1)))  # out, i, l, n, a, b
        design = design.transpose(0, 2, 3, 1, 4, 5).reshape(-1, size * rank**2)
        values = wanted.transpose(turned).transpose(0, 2, 3, 1).reshape(-1, size)
        core = np.linalg.lstsq(design, values, rcond=None)[0]
        solved[d] = core.reshape(size, rank, rank, size).transpose(0, 3, 1, 2)
    return tuple(solved)


def _ring_sweep(matrix: np.ndarray, cores: Cores) -> Cores:
    """Solve for each core of Δ in turn."""
    count = len(cores)
    tensor = matrix.reshape([len(core) for core in cores])
    solved = list(cores)
    for d in range(count):
        rest = solved[(d + 1) % count]
        for step in range(2, count):
            rest = np.einsum("xab,ybc->xyac", rest, solved[(d + step) % count]).reshape(-1, *rest.shape[1:])
        values = tensor.transpose([(d + step) % count for step in range(count)]).reshape(len(solved[d]), -1)
        rank = rest.shape[-1]
        design = rest.swapaxes(1, 2).reshape(-1, rank**2)  # tr(A X) = Σ A[a, b] X[b, a]
        solved[d] = np.linalg.lstsq(design, values.T, rcond=None)[0].T.reshape(-1, rank, rank)
    return tuple(solved)


def _widened(cores: Cores, rank: int, rng: np.random.Generator | None) -> Cores:
    """Pad the slices of a ring to a rank: with zeros, which leaves T as it is, or with noise everywhere."""
    wide = []
    for core in cores:
        more = rank - core.shape[-1]
        padded = np.pad(core, ((0, 0), (0, 0), (0, more), (0, more)))
        if rng is not None:
            padded = padded + rng.standard_normal(padded.shape) * NOISE * np.sqrt(np.square(core).mean())
        wide.append(padded)
    return tuple(wide)
