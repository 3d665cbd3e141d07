"""Structures that approximate a change of a weight, each by its best fit: LoRA, KronA, TLoRA and TLoRA*, at any size.

Parameters are counted as the methods of `adapters` count them, for one matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from adapters.changes.tensor_ring import residual_parameters, transform_parameters
from adapters.faults import InputFault
from analysis.ring_fits import SWEEPS, TOLERANCE, Cores, fit_transform, fit_with_low_rank, fit_with_ring
from analysis.weight_spectra import nearest_kronecker, singular_values, truncation_errors

METHODS = {"lora": 1, "krona": 2, "tlora": 2, "tlora_star": 2}
"""Numbers that the size of each has."""


@dataclass(frozen=True)
class Structure:
    """A method at a size.

    Attributes
    ----------
    method
        ``lora``, ``krona``, ``tlora`` or ``tlora_star``, as a design has it.
    size
        (rank,); (a1, a2); or (rank of the transform, rank of the residual).
    """

    method: str
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is no structure."""
        wanted = METHODS.get(self.method)
        if wanted is None:
            raise InputFault(f"method={self.method!r}: expected one of {', '.join(METHODS)}")
        if len(self.size) != wanted or any(not isinstance(part, int) or part < 1 for part in self.size):
            words = {1: "a rank", 2: "two sizes"}[wanted]
            raise InputFault(f"{self.method} of size {self.size}: expected {words}, whole numbers of at least 1")

    @property
    def label(self) -> str:
        """The method and its size, for people."""
        names = {"lora": "LoRA", "krona": "KronA", "tlora": "TLoRA", "tlora_star": "TLoRA*"}
        return f"{names[self.method]} ({', '.join(map(str, self.size))})"

    def parameters(self, out: int, features: int) -> int:
        """Count the parameters for a weight (out, features)."""
        first, last = self.size[0], self.size[-1]
        if self.method == "lora":
            return first * (out + features)
        if self.method == "krona":
            return first * last + (out // first) * (features // last)
        rest = last * (out + features) if self.method == "tlora_star" else residual_parameters(out, features, last)
        return transform_parameters(features, first) + rest


def default_structures(shapes: Iterable[tuple[int, int]]) -> tuple[Structure, ...]:
    """TLoRA and TLoRA* of few small ranks, and KronA with square A of every size that divides all shapes."""
    common = gcd(*(size for shape in shapes for size in shape))
    squares = [size for size in range(2, int(common**0.5) + 1) if common % size == 0]
    return (
        *(Structure("tlora_star", size) for size in ((1, 1), (1, 4), (2, 1), (2, 4))),
        *(Structure("tlora", size) for size in ((1, 2), (2, 4))),
        *(Structure("krona", (size, size)) for size in squares),
    )


@dataclass(frozen=True)
class Fitter:
    """Fits structures to one matrix's change.

    Attributes
    ----------
    before, change : float64 (out, in)
        W₀ and ΔW.
    key : sequence of int
        Seeds the random starts, each structure's its own.
    """

    before: np.ndarray
    change: np.ndarray
    key: Sequence[int]
    sweeps: int = SWEEPS
    tolerance: float = TOLERANCE

    def transform(self, rank: int) -> Cores:
        """Fit T alone."""
        return fit_transform(self.before, self._after, rank, self._rng("transform", rank), *self._ends)

    def error(self, structure: Structure, transforms: dict[int, Cores]) -> float:
        """Fit a structure and give its Frobenius error over the change's norm.

        Parameters
        ----------
        transforms
            What `transform` gave, by rank; of a rank that is not there it is fitted and put there.
        """
        first, last = structure.size[0], structure.size[-1]
        norm = float(np.linalg.norm(self.change))
        if structure.method == "lora":
            errors = truncation_errors(singular_values(self.change))
            return float(errors[min(first, len(errors) - 1)])
        if structure.method == "krona":
            return float(np.linalg.norm(self.change - np.kron(*nearest_kronecker(self.change, first, last)))) / norm
        if first not in transforms:
            transforms[first] = self.transform(first)
        given = self.before, self._after, transforms[first], last
        if structure.method == "tlora_star":
            return fit_with_low_rank(*given, *self._ends).error / norm
        return fit_with_ring(*given, self._rng(structure.method, *structure.size), *self._ends).error / norm

    @property
    def _after(self) -> np.ndarray:
        return self.before + self.change

    @property
    def _ends(self) -> tuple[int, float]:
        return self.sweeps, self.tolerance

    def _rng(self, purpose: str, *size: int) -> np.random.Generator:
        return np.random.default_rng([*self.key, *purpose.encode(), *size])


def lora_error(errors: np.ndarray, rank: float) -> float:
    """LoRA's best error at a rank that may lie between two whole ones.

    Squared errors are interpolated: with as many parameters on average over matrices, some have the next rank.

    Parameters
    ----------
    errors
        As `truncation_errors` gives them.
    """
    return float(np.sqrt(np.interp(rank, np.arange(len(errors)), np.square(errors))))
