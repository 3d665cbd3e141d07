"""General dominance of factors: how much of the response's variation each explains, averaged over all orderings.

Sequential sums of squares of factors that are not orthogonal depend on the order in which they enter. Their average
over all orderings (Lindeman, Merenda & Gold 1980; R's relaimpo calls it lmg; Budescu 1993: general dominance; it is the
Shapley value of R²) does not, is never negative, and sums to what the factors explain together. Here R² is within the
blocks: of what is left of the response when they are taken out. Any cell may be empty and any factor aliased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np

from adapters.faults import InputFault
from analysis.model import Design, Term
from analysis.resampling import Products, Units, indicators, products, solve

MOST_FACTORS = 8
"""All subsets are fitted, so each factor more doubles the work."""


def subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """All subsets of names, the empty one first.

    Raises
    ------
    InputFault
        More than eight names.
    """
    if len(names) > MOST_FACTORS:
        raise InputFault(
            f"Importance averages over all orderings of the factors, of which there may be {MOST_FACTORS}, not "
            f"{len(names)} ({', '.join(names)}); leave some out."
        )
    return [frozenset(part) for size in range(len(names) + 1) for part in combinations(names, size)]


def average_gain(value: Mapping[frozenset[str], np.ndarray], names: Sequence[str]) -> np.ndarray:
    """What each name adds to the value of a set, averaged over all orderings in which names join it.

    Parameters
    ----------
    value : mapping
        Value of every subset of the names, a number or an array (…).

    Returns
    -------
    array (…, names)
        They sum to the value of all names less that of none.
    """
    count = len(names)
    gains = []
    for own in names:
        total = 0.0
        for part in subsets([name for name in names if name != own]):
            orders = factorial(len(part)) * factorial(count - 1 - len(part)) / factorial(count)
            total = total + orders * (np.asarray(value[part | {own}]) - np.asarray(value[part]))
        gains.append(total)
    return np.stack(gains, axis=-1)


def explained(design: Design, y: np.ndarray, factors: Sequence[str], blocks: Sequence[Term]) -> dict:
    """R² within the blocks of every subset of the factors; NaN where the response does not vary within the blocks."""
    left = {s: design.space([*blocks, *((f,) for f in s)]).residuals(y) for s in subsets(factors)}
    rest = {s: float(v @ v) for s, v in left.items()}
    whole = rest[frozenset()]
    if whole <= noise(y):
        return dict.fromkeys(rest, float("nan"))
    return {s: 1 - own / whole for s, own in rest.items()}


def noise(y: np.ndarray) -> float:
    """The sum of squares that rounding of a response can make."""
    return len(y) * (16 * np.finfo(float).eps * float(np.abs(y).max())) ** 2


class Resampled:
    """Averaged gains in R² of every factor under any weights of the units.

    Parameters
    ----------
    design
        The models of the sample.
    y
        The response (n,).
    factors
        Names; each with two levels or more.
    blocks
        Terms; one at least contains the column of the units.
    drawn
        The units that are weighted.
    """

    def __init__(
        self, design: Design, y: np.ndarray, factors: Sequence[str], blocks: Sequence[Term], drawn: Units
    ) -> None:
        self.factors = list(factors)
        columns = [indicators(design.sample, (f,)) for f in factors]
        self.products: Products = products(design, blocks, np.column_stack([*columns, y - y.mean()]), drawn)
        ends = np.cumsum([self.products.q, *(c.shape[1] for c in columns)])
        self._of = {f: np.arange(a, b) for f, a, b in zip(factors, ends[:-1], ends[1:], strict=True)}

    def gains(self, weights: np.ndarray) -> np.ndarray:
        """Averaged gains in R² (k, factors) for weights (k, units)."""
        return np.concatenate([self._gains(total) for total in self.products.drawn(weights)])

    def _gains(self, total: np.ndarray) -> np.ndarray:
        found = {s: self._fitted(total, s) for s in subsets(self.factors)}
        base = found[frozenset()]
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = total[:, -1, -1] - base
            whole = np.where(whole > 1e-12 * total[:, -1, -1], whole, np.nan)
            return average_gain({s: (v - base) / whole for s, v in found.items()}, self.factors)

    def _fitted(self, total: np.ndarray, part: frozenset[str]) -> np.ndarray:
        """Sum of squares (k,) that the crossing blocks and some factors fit."""
        at = np.concatenate([np.arange(self.products.q), *(self._of[f] for f in self.factors if f in part)])
        at = at.astype(int)
        if not len(at):
            return np.zeros(len(total))
        right = total[:, at, -1]
        return np.asarray(np.einsum("ki,ki->k", solve(total[:, at[:, None], at], right)[0], right))
