"""How many directions a matrix has: measures of its singular values, and the best Kronecker product near it.

All arrays are float64; nothing here knows what a matrix is a weight of.
"""

from __future__ import annotations

import numpy as np

from adapters.faults import InputFault

ENERGIES = (0.90, 0.95, 0.99)
"""Shares of a matrix's energy (its squared Frobenius norm) that `measures` counts singular values for."""


def singular_values(matrix: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Singular values of a matrix, largest first; those at or below a floor are 0.

    Parameters
    ----------
    floor : float
        What rounding alone leaves: a residual that is 0 but for rounding would else seem to have full rank.
    """
    values: np.ndarray = np.linalg.svd(matrix, compute_uv=False)
    return np.where(values > floor, values, 0.0)


def effective_rank(values: np.ndarray) -> float:
    """The exponential of the entropy of singular values over their sum (Roy & Vetterli 2007, EUSIPCO); 0 of none."""
    shares = values[values > 0] / values.sum() if values.any() else values[:0]
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def stable_rank(values: np.ndarray) -> float:
    """Energy over that of the largest singular value (Rudelson & Vershynin 2007, doi 10.1145/1255443.1255449)."""
    return float(np.square(values / values[0]).sum()) if values.any() else 0.0


def energy_rank(values: np.ndarray, share: float) -> int:
    """The smallest number of singular values that hold a share of the energy."""
    left = truncation_errors(values) ** 2
    # Sums of squares round: a share that is met exactly must count as met.
    return int(np.flatnonzero(left <= 1 - share + 1e-12)[0])


def truncation_errors(values: np.ndarray) -> np.ndarray:
    """Relative Frobenius errors of the best approximations of rank 0, 1, …, all (Eckart & Young 1936)."""
    tails = np.append(np.cumsum(np.square(values)[::-1])[::-1], 0.0)
    return np.sqrt(tails / tails[0]) if tails[0] > 0 else np.zeros_like(tails)


def measures(values: np.ndarray) -> dict[str, float]:
    """Every measure of singular values by its name: ``effective_rank``, ``stable_rank``, ``rank_90`` and so on."""
    counted = {f"rank_{share:.0%}".rstrip("%"): float(energy_rank(values, share)) for share in ENERGIES}
    return {"effective_rank": effective_rank(values), "stable_rank": stable_rank(values), **counted}


def low_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of a rank, in the Frobenius norm."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def same_spectrum(matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random matrix with the singular values of another and singular vectors that are uniformly random (Haar)."""
    left, right = (_orthogonal(size, rng) for size in matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    return (left[:, : len(values)] * values) @ right[:, : len(values)].T


def nearest_kronecker(matrix: np.ndarray, a1: int, a2: int) -> tuple[np.ndarray, np.ndarray]:
    """The Kronecker product A ⊗ B nearest to a matrix, with A (a1, a2).

    The first singular pair of the matrix rearranged so that Kronecker products have rank one (Van Loan & Pitsianis
    1993, doi 10.1007/978-94-015-8196-7_17).

    Raises
    ------
    InputFault
        When a1 does not divide the rows, or a2 not the columns.
    """
    rows, columns = matrix.shape
    if rows % a1 or columns % a2:
        raise InputFault(f"A of shape ({a1}, {a2}): a1 must divide the {rows} rows and a2 the {columns} columns")
    b1, b2 = rows // a1, columns // a2
    rearranged = matrix.reshape(a1, b1, a2, b2).transpose(0, 2, 1, 3).reshape(a1 * a2, b1 * b2)
    left, values, right = np.linalg.svd(rearranged, full_matrices=False)
    return (left[:, 0] * values[0]).reshape(a1, a2), right[0].reshape(b1, b2)


def _orthogonal(size: int, rng: np.random.Generator) -> np.ndarray:
    """A Haar-distributed orthogonal matrix: Q of a Gaussian one, its signs made R's (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))
