"""Permutation tests of the terms of a linear model: residuals of the model without a term, shuffled within blocks.

Freedman and Lane (1983, Journal of Business & Economic Statistics 1, 292–298): what the smaller model leaves is
exchangeable under the null hypothesis, so it is shuffled, added to the smaller model's fit, and F is computed anew.
Shuffling stays within the cells of the blocks (the tasks), because random streams and difficulty are common there
(Anderson & ter Braak 2003, Journal of Statistical Computation and Simulation 73, 85–113). The test needs no normal
errors; it does need errors of equal spread, and it says nothing about new tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from analysis.basis import beyond
from analysis.model import Design, Space, Term, contains, name
from analysis.sample import Sample

# All arrangements are gone through when there are no more than these.
ENUMERATE = 50_000
_BATCH = 2_000_000  # numbers held at a time

# Arrangements that are equal in exact arithmetic differ by rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class Permuted:
    """A permutation test of one term.

    Attributes
    ----------
    p : float or None
        (1 + arrangements with an F at least as large) / (1 + arrangements) when they are drawn; the share itself when
        all of them are gone through. None where there is no test.
    arrangements : int
        How many were compared; the observed one is among them only if all were gone through.
    enumerated : bool
        Whether these are all arrangements that there are.
    exact : bool
        Whether p holds exactly whenever errors are exchangeable within blocks: the model without the term is then the
        same for all rows of a block. Otherwise the residuals are exchangeable only approximately.
    reason : str
        Why there is no test; empty where there is.
    """

    p: float | None
    arrangements: int
    enumerated: bool
    exact: bool
    reason: str = ""


class Arrangements:
    """Orders of the rows in which rows change places within blocks only.

    Parameters
    ----------
    sample
        The rows.
    columns
        Columns of the model: rows that agree in all of them are interchangeable, which makes arrangements fewer.
    within
        Columns whose cells are the blocks; none means all rows.
    draws
        How many are drawn at random where there are too many to go through.
    seed
        Of the random ones.
    """

    def __init__(self, sample: Sample, columns: Sequence[str], within: Sequence[str], draws: int, seed: int) -> None:
        self.sample, self.within, self.draws, self.seed = sample, tuple(within), draws, seed
        self.blocks = sample.cells(self.within).codes if self.within else np.zeros(sample.n, dtype=np.int64)
        same = sample.cells(tuple(dict.fromkeys((*columns, *self.within)))).codes
        self.rows = np.lexsort((same, self.blocks))
        """Rows by block, interchangeable ones beside each other: the order that arrangements are counted from."""
        starts = np.flatnonzero(np.diff(self.blocks[self.rows], prepend=-1))
        self._parts = [np.unique(part, return_inverse=True)[1] for part in np.split(same[self.rows], starts[1:])]

    @cached_property
    def possible(self) -> float:
        """How many different arrangements there are; infinite beyond what can be gone through."""
        log = sum(
            math.lgamma(len(part) + 1) - sum(math.lgamma(size + 1) for size in np.bincount(part).tolist())
            for part in self._parts
        )
        if log > math.log(10 * ENUMERATE):
            return math.inf
        return math.prod(_multinomial(np.bincount(part).tolist()) for part in self._parts)

    @property
    def enumerated(self) -> bool:
        """Whether :meth:`batches` gives all arrangements."""
        return self.possible <= ENUMERATE

    @property
    def count(self) -> int:
        """How many arrangements :meth:`batches` gives."""
        return int(self.possible) if self.enumerated else self.draws

    def batches(self) -> Iterator[np.ndarray]:
        """Arrays (k, n) of row numbers: the rows whose values take the places of ``rows``."""
        n = self.sample.n
        size = max(1, _BATCH // n)
        if self.enumerated:
            orders = [np.stack(list(_orders(np.bincount(part).tolist()))) for part in self._parts]
            starts = np.cumsum([0, *(len(part) for part in self._parts)])
            for first in range(0, self.count, size):
                numbers = np.arange(first, min(first + size, self.count))
                places = []
                for order, start in zip(orders, starts[:-1], strict=True):
                    places.append(order[numbers % len(order)] + start)
                    numbers = numbers // len(order)
                yield self.rows[np.hstack(places)]
            return
        generator = np.random.default_rng(self.seed)
        for first in range(0, self.count, size):
            keys = generator.random((min(size, self.count - first), n))
            yield np.argsort(keys + self.blocks, axis=1)


@dataclass(frozen=True)
class Tested:
    """A term's comparison: the model without it and with it; its name for messages."""

    label: str
    small: Space
    large: Space


def freedman_lane(
    design: Design, y: np.ndarray, full: Space, tested: Sequence[Tested], arrangements: Arrangements
) -> list[Permuted]:
    """Test terms of a model, all on the same arrangements.

    Parameters
    ----------
    y
        The response (n,), centred.
    full
        The whole model, whose residual is the error.
    """
    rows, within = arrangements.rows, arrangements.within
    # Sums of residuals over blocks stay what they are, 0 where the model without the term has the blocks.
    known = bool(within) and all(any(contains(t, within) for t in each.small.terms) for each in tested)
    error = beyond(full, design.space([within] if known else []))[rows]
    found: list[Permuted | None] = []
    open_terms = []
    for term in tested:
        basis = beyond(term.large, term.small)
        reason = _reason(term, basis, design, full, arrangements)
        found.append(Permuted(None, 0, False, False, reason) if reason else None)
        if not reason:
            left = term.small.residuals(y)
            open_terms.append((term, left, basis[rows], _share(left[rows][None, :], basis[rows], error)[0]))
    counts = [0] * len(open_terms)
    if open_terms:
        for order in arrangements.batches():
            for k, (_, left, basis, observed) in enumerate(open_terms):
                counts[k] += int((_share(left[order], basis, error) >= observed * (1 - _TIE)).sum())
    tests = iter(zip(open_terms, counts, strict=True))
    return [each if each is not None else _result(*next(tests), arrangements) for each in found]


def _result(term: tuple[Tested, np.ndarray, np.ndarray, float], count: int, arrangements: Arrangements) -> Permuted:
    total, enumerated = arrangements.count, arrangements.enumerated
    p = count / total if enumerated else (1 + count) / (1 + total)
    exact = all(set(each) <= set(arrangements.within) for each in term[0].small.terms)
    return Permuted(p, total, enumerated, exact)


def _share(values: np.ndarray, basis: np.ndarray, error: np.ndarray) -> np.ndarray:
    """A term's share of its own and the residual's sum of squares: it orders responses as F does, and exists without a
    residual. Responses (k, n) are rearranged residuals of the smaller model; `error` spans what the whole model may
    explain of them."""
    own = np.square(values @ basis).sum(axis=1)
    left = np.einsum("kn,kn->k", values, values) - np.square(values @ error).sum(axis=1)
    both = own + np.maximum(left, 0.0)
    return np.divide(own, both, out=np.zeros_like(own), where=both > 0)


def _reason(term: Tested, basis: np.ndarray, design: Design, full: Space, arrangements: Arrangements) -> str:
    where = f"cells of {name(arrangements.within)}" if arrangements.within else "all rows"
    if not basis.shape[1]:
        return f"{term.label} cannot be told apart from the other terms"
    if design.sample.n <= full.rank:
        return "no residual is left"
    if arrangements.possible == 1:
        return f"nothing can change places within {where}"
    if arrangements.within and _constant(basis, arrangements.blocks):
        return f"{term.label} does not differ within {where}, where alone rows may change places"
    return ""


def _constant(basis: np.ndarray, blocks: np.ndarray) -> bool:
    sizes = np.bincount(blocks)
    means = np.stack([np.bincount(blocks, column) / sizes for column in basis.T])
    return bool(np.square(basis.T - means[:, blocks]).sum() < 1e-9)


def _multinomial(sizes: Sequence[int]) -> int:
    total, result = 0, 1
    for size in sizes:
        total += size
        result *= math.comb(total, size)
    return result


def _orders(sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """All ways to hand places 0 … n − 1 to kinds of given sizes: place numbers, those of the first kind first."""

    def hand_out(left: tuple[int, ...], kinds: Sequence[int]) -> Iterator[list[int]]:
        if len(kinds) == 1:
            yield list(left)
            return
        for own in combinations(left, kinds[0]):
            taken = set(own)
            for rest in hand_out(tuple(place for place in left if place not in taken), kinds[1:]):
                yield [*own, *rest]

    for order in hand_out(tuple(range(sum(sizes))), sizes):
        yield np.array(order)


def permutation_columns(blocks: Sequence[Term]) -> tuple[str, ...]:
    """Columns whose cells rows may change places in: those of all blocks together."""
    return tuple(dict.fromkeys(column for block in blocks for column in block))
