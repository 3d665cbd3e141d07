"""Bootstrap over tasks: whole tasks are drawn with replacement, and a copy counts as a task of its own.

What is measured within tasks depends on the rows only through products of columns from which the blocks of each task
are taken out. These products are summed once for each task; a draw is then a weighted sum of them, so no model is
fitted anew. A copy of a task has its own block effects, as if it were another task (Davison & Hinkley 1997, Bootstrap
Methods and their Application, §3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as t_distribution

from analysis.model import Design, Term, contains, maximal
from analysis.sample import Sample

MIN_UNITS = 3
"""Fewer tasks than this say nothing about how much tasks differ."""

_BATCH = 4_000_000  # numbers held at a time
_TOLERANCE = 1e-9  # of eigenvalues of products of unit columns, as in analysis.model


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement: the cells of some columns, such as the tasks.

    Attributes
    ----------
    term : tuple of str
        The columns; none means that all rows are one unit.
    codes : int array (n,)
        Unit of each row, 0 … count − 1.
    """

    term: Term
    codes: np.ndarray
    count: int

    def weights(self, draws: int, seed: int) -> np.ndarray:
        """How often each unit is drawn: (draws, count)."""
        rng = np.random.default_rng(seed)
        return rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=draws).astype(float)

    @property
    def left_out(self) -> np.ndarray:
        """Weights (count, count) that leave out each unit in turn."""
        return np.ones((self.count, self.count)) - np.eye(self.count)


def units(sample: Sample, blocks: Sequence[Term], term: Term) -> Units | None:
    """The cells of columns that some block contains; None when no block does, or there are fewer than three."""
    if not any(contains(block, term) for block in blocks):
        return None
    cells = sample.cells(term)
    return Units(term, cells.codes, cells.count) if cells.count >= MIN_UNITS else None


def all_rows(sample: Sample) -> Units:
    """All rows as one unit: nothing to draw, but products of the whole sample."""
    return Units((), np.zeros(sample.n, dtype=np.int64), 1)


@dataclass(frozen=True)
class Products:
    """Products of columns after the blocks within units are taken out, summed over the rows of each unit.

    Attributes
    ----------
    each : array (units, q + p, q + p)
        The first ``q`` columns are indicators of blocks that cross units; the others are those asked for.
    q : int
    """

    each: np.ndarray
    q: int

    def drawn(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Products (k, q + p, q + p) of draws, given by weights (draws, units), some draws at a time."""
        size = max(1, _BATCH // self.each[0].size)
        for first in range(0, len(weights), size):
            yield np.tensordot(weights[first : first + size], self.each, axes=1)


def products(design: Design, blocks: Sequence[Term], columns: np.ndarray, drawn: Units) -> Products:
    """Products of columns (n, p) within the units; some block must contain the units' columns."""
    sample = design.sample
    inside = [block for block in blocks if contains(block, drawn.term)]
    crossing = [block for block in maximal(blocks) if not contains(block, drawn.term)]
    extra = [indicators(sample, block) for block in crossing]
    space = design.space(inside)
    swept = np.column_stack([space.residuals(column) for column in np.hstack([*extra, columns]).T])
    each = np.stack([swept[drawn.codes == unit].T @ swept[drawn.codes == unit] for unit in range(drawn.count)])
    return Products(each, sum(e.shape[1] for e in extra))


def indicators(sample: Sample, term: Term) -> np.ndarray:
    """One-hot columns (n, cells) of a term's observed cells."""
    cells = sample.cells(term)
    return np.asarray(cells.codes[:, None] == np.arange(cells.count), dtype=float)


def solve(gram: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares from products, at any rank.

    Parameters
    ----------
    gram : array (k, m, m)
        Products of the columns.
    right : array (k, m)
        Their products with the response.

    Returns
    -------
    coefficients : array (k, m)
        The shortest that fit best, in units of columns of length 1.
    rank : int array (k,)
    """
    size = np.sqrt(np.einsum("kii->ki", gram).clip(min=0))
    largest = size.max(axis=1, initial=0, keepdims=True)
    with np.errstate(divide="ignore"):
        scale = np.where(size > 1e-6 * largest, 1 / size, 0.0)
    values, vectors = np.linalg.eigh(gram * scale[:, :, None] * scale[:, None, :])
    keep = values > _TOLERANCE * max(1, gram.shape[1])
    inverse = np.where(keep, 1 / np.where(keep, values, 1), 0)
    inside = np.einsum("kij,ki->kj", vectors, right * scale) * inverse
    return np.einsum("kij,kj->ki", vectors, inside) * scale, keep.sum(axis=1)


@dataclass(frozen=True)
class Corrected:
    """An estimate with what noise adds to it taken off, and its interval; both may lie outside the possible range.

    Noise adds to whatever grows with differences, so an estimate is too large, and the draws of a bootstrap are so
    twice: their plain quantiles cover nothing where effects are small. What noise adds is found by leaving out each
    unit in turn (the jackknife, exact for sums of squares on balanced rows); the draws' deviations from their mean are
    put around the corrected value, widened by √(k/(k − 1)) · t/z for k units.
    """

    value: float
    interval: tuple[float, float] | None


def corrected(estimate: float, left_out: np.ndarray, draws: np.ndarray, level: float) -> Corrected:
    """Correct an estimate by its values without each unit (k,) and give an interval by its bootstrap draws (r,).

    The interval is None where fewer than half of the draws have a value, and all is NaN where a unit cannot be left
    out.
    """
    count, known = len(left_out), draws[np.isfinite(draws)]
    value = float(count * estimate - (count - 1) * left_out.mean())
    if len(known) < len(draws) / 2 or not np.isfinite(value):
        return Corrected(value, None)
    low, high = value + (np.quantile(known, _tails(level)) - known.mean()) * _widening(count, level)
    return Corrected(value, (float(low), float(high)))


def expanded_interval(draws: np.ndarray, level: float, count: int) -> tuple[float, float] | None:
    """Percentile interval from draws of ``count`` units, its level raised because units are few.

    Hesterberg 2015 (The American Statistician 69, 371–386): quantiles at Φ(±√(k/(k − 1))·t). None where fewer
    than half of the draws have a value.
    """
    known = draws[np.isfinite(draws)]
    if len(known) < len(draws) / 2 or not len(known):
        return None
    tail = float(norm.cdf(-_widening(count, level) * norm.ppf((1 + level) / 2)))
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def _widening(count: int, level: float) -> float:
    half = (1 + level) / 2
    return float(np.sqrt(count / (count - 1)) * t_distribution.ppf(half, count - 1) / norm.ppf(half))
