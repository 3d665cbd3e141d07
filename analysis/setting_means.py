"""Means of settings with the blocks taken out, their spread without noise, and how many are about as good as the best.

Means hold noise, so they spread even where nothing matters, and the best of them looks better than it is. What noise
adds to their variance is found by leaving out each unit (task) in turn, or from the residual where nothing can be left
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.model import Design, Term
from analysis.resampling import Units, all_rows, corrected, expanded_interval, indicators, products, solve


@dataclass(frozen=True)
class Spread:
    """Variance of the settings' means over the grid.

    Attributes
    ----------
    measured : float
    variance : float or None
        With noise taken off, negative where noise alone makes more; None where noise is not known.
    interval : (low, high) or None
        Of ``variance``.
    """

    measured: float
    variance: float | None
    interval: tuple[float, float] | None


class SettingMeans:
    """Least-squares means of the cells of ``term`` in the model blocks + term.

    Parameters
    ----------
    design
        The models of a sample.
    term
        The hyper-parameters; their observed combinations are the settings, two or more.
    blocks
        Terms of the blocks.
    drawn
        What is drawn with replacement; None draws nothing.
    draws, seed
        Of the bootstrap.
    level
        Of the intervals.
    """

    def __init__(
        self, design: Design, term: Term, blocks: tuple[Term, ...], drawn: Units | None, draws: int, seed: int,
        level: float,
    ) -> None:  # fmt: skip
        sample = design.sample
        self.design, self.term, self.blocks, self.drawn, self.level = design, term, blocks, drawn, level
        self.cells = sample.cells(term)
        self._units = drawn or all_rows(sample)
        columns = np.column_stack([indicators(sample, term), sample.y - sample.y.mean()])
        self._products = products(design, blocks, columns, self._units)
        self._draws, self._seed = draws, seed

    def _of(self, weights: np.ndarray) -> np.ndarray:
        """Means (k, settings) less their mean over the grid; NaN where a draw leaves one undetermined."""
        q, full = self._products.q, self._products.each.sum(axis=0)[None]
        rank = solve(full[:, :-1, :-1], full[:, :-1, -1])[1]
        found = []
        for total in self._products.drawn(weights):
            effects, own = solve(total[:, :-1, :-1], total[:, :-1, -1])
            effects[own < rank] = np.nan
            found.append(effects[:, q:] - effects[:, q:].mean(axis=1, keepdims=True))
        return np.concatenate(found)

    @cached_property
    def effects(self) -> np.ndarray:
        """Mean of each setting (settings,) less their mean over the grid."""
        return self._of(np.ones((1, self._units.count)))[0]

    @cached_property
    def residuals(self) -> np.ndarray:
        """What blocks and settings leave of the response."""
        sample = self.design.sample
        return self.design.space([*self.blocks, self.term]).residuals(sample.y - sample.y.mean())

    @cached_property
    def draws(self) -> np.ndarray:
        """The same of bootstrap draws (draws, settings); none where most leave out a setting altogether."""
        if self.drawn is None:
            return np.zeros((0, self.cells.count))
        found = self._of(self.drawn.weights(self._draws, self._seed))
        found = found[np.isfinite(found).all(axis=1)]
        return found if len(found) >= self._draws / 2 else found[:0]

    @cached_property
    def spread(self) -> Spread:
        """Their variance over the grid."""
        measured = float(self.effects.var(ddof=1))
        if self.drawn is not None and len(self.draws):
            left = self._of(self.drawn.left_out).var(axis=1, ddof=1)
            found = corrected(measured, left, self.draws.var(axis=1, ddof=1), self.level)
            if np.isfinite(found.value):
                return Spread(measured, found.value, found.interval)
        space, residuals = self.design.space([*self.blocks, self.term]), self.residuals
        df = self.design.sample.n - space.rank
        if not df:
            return Spread(measured, None, None)
        return Spread(measured, measured - float(residuals @ residuals) / df * self._size, None)

    @property
    def _size(self) -> float:
        """Variance of the means that one unit of residual variance makes, averaged over the grid."""
        gram = self.design.space(self.blocks).outside(self.cells.codes, self.cells.count)
        return float(np.trace(np.linalg.pinv(gram, rcond=1e-9, hermitian=True))) / (self.cells.count - 1)

    def near_best(self, within: float, sign: int) -> tuple[float, float, tuple[float, float] | None]:
        """Share of the settings within reach of the best: of the means as measured, without noise, and its interval.

        Without noise means that the means are shrunk until their variance is that of the settings (Louis 1984), in
        every draw, of which each holds noise twice.
        """
        spread, effects = self.spread, sign * self.effects
        measured = float(_near(effects, within))
        if spread.variance is None:
            return measured, measured, None
        share = float(_near(effects * _shrinkage(np.array(spread.variance), np.array(spread.measured)), within))
        if self.drawn is None or not len(self.draws):
            return measured, share, None
        wide = self.draws.var(axis=1, ddof=1)
        left = wide - (wide.mean() - spread.measured) - (spread.measured - spread.variance)
        shares = _near(sign * self.draws * _shrinkage(left, wide)[:, None], within)
        return measured, share, expanded_interval(shares, self.level, self.drawn.count)

    def best_often(self, sign: int) -> np.ndarray | None:
        """Share of the draws (settings,) in which each setting is the best."""
        if not len(self.draws):
            return None
        return np.bincount(np.argmax(sign * self.draws, axis=1), minlength=self.cells.count) / len(self.draws)


def _shrinkage(variance: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(variance, 0, None) / np.where(measured > 0, measured, 1))


def _near(means: np.ndarray, within: float) -> np.ndarray:
    """Share of the settings within reach of the highest."""
    slack = 1e-9 * np.abs(means).max(initial=0)  # a mean at the very edge is not lost to rounding
    return np.asarray((means >= means.max(axis=-1, keepdims=True) - within - slack).mean(axis=-1))
