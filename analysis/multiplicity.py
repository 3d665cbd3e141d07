"""p values and critical values for many comparisons at once: Holm, Tukey, and the largest of correlated t's.

The largest of t statistics that share their denominator (multivariate t) is integrated deterministically where the
correlations have one factor, ρ_jl = λ_j λ_l, as those of differences to one mean of a one-way layout have. Otherwise
the nearest such correlations are integrated, and what the true ones change is added from separation of variables
(Genz & Bretz 1999) on the same lattice points for both: the approach of Hsu & Nelson (1998), with lattice points for
random ones. No random numbers, so results are the same each time.

References
----------
A. Genz & F. Bretz (1999), Numerical computation of multivariate t-probabilities, J. Statist. Comput. Simul. 63.
J. C. Hsu & B. Nelson (1998), Multiple comparisons in the general linear model, J. Comput. Graph. Statist. 7.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import Chebyshev
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import chi, studentized_range
from scipy.stats import t as t_distribution

_MANY = 10  # different degrees of freedom beyond which Tukey's critical values are interpolated
_POINTS = (1024, 4096)  # of the lattice: where correlations are near to one factor, and else
_NEAR = 0.1
_SAME = 1e-8  # correlations this near to one factor are taken as such
_STEEP = 0.25  # below this own standard deviation of a variable, the factor needs more nodes


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p values of (m,) p values; NaN is no member of the family and stays NaN."""
    from statsmodels.stats.multitest import multipletests

    out, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def tukey_p(t: np.ndarray, count: int, df: np.ndarray) -> np.ndarray:
    """Tukey-Kramer p values of t statistics (m,) of differences among `count` means, each with its own df (m,)."""
    out, known = np.full(len(t), np.nan), ~np.isnan(t) & ~np.isnan(df)
    if known.any():
        out[known] = studentized_range.sf(np.sqrt(2) * np.abs(t[known]), count, df[known])
    return np.asarray(np.clip(out, 0, 1))


def tukey_critical(level: float, count: int, df: np.ndarray) -> np.ndarray:
    """Multiples (m,) of a standard error that make Tukey-Kramer intervals."""
    out, known = np.full(len(df), np.nan), ~np.isnan(df)
    different, place = np.unique(df[known], return_inverse=True)
    if len(different) > _MANY:
        # One takes a quarter of a second; they are a smooth function of 1/df, which is interpolated.
        curve = Chebyshev.interpolate(
            lambda x: np.array([studentized_range.ppf(level, count, 1 / each) for each in x]),
            _MANY - 1,
            [1 / different[-1], 1 / different[0]],
        )
        found = curve(1 / different)
    else:
        found = np.array([studentized_range.ppf(level, count, d) for d in different])
    if known.any():
        out[known] = found[place] / np.sqrt(2)
    return out


class LargestT:
    """The distribution of the largest of m t statistics with one denominator.

    Parameters
    ----------
    correlation : array (m, m)
    df : float
        Of the denominator they share.
    two_sided : bool
        Of their absolute values.
    """

    def __init__(self, correlation: np.ndarray, df: float, two_sided: bool = False) -> None:
        self.correlation, self.df, self.two_sided = correlation, df, two_sided
        self.count = len(correlation)
        self._loadings = _one_factor(correlation)
        self._near = np.outer(self._loadings, self._loadings)
        np.fill_diagonal(self._near, 1.0)
        away = float(np.abs(correlation - self._near).max())
        self._exact, self._points = away < _SAME, _POINTS[0 if away < _NEAR else 1]

    def cdf(self, q: float) -> float:
        """Probability that none exceeds `q`."""
        value = self._one_factor_cdf(q)
        if not self._exact:
            value += self._separated(self._root, q) - self._separated(self._near_root, q)
        return float(np.clip(value, 0, 1))

    def p(self, t: float) -> float:
        """Probability that the largest exceeds `t`, held between that of one alone and Bonferroni's bound."""
        one = float(t_distribution.sf(t, self.df)) * (2 if self.two_sided else 1)
        bound = min(1.0, self.count * one)
        if bound < 1e-4:  # beyond what the lattice resolves
            return float(np.clip(1 - self._one_factor_cdf(t), one, bound)) if bound > 1e-9 else bound
        return float(np.clip(1 - self.cdf(t), one, bound))

    def critical(self, level: float) -> float:
        """Return the value that the largest stays below with probability `level`."""
        tail = (1 - level) / (2 if self.two_sided else 1)
        low, high = (float(t_distribution.isf(tail / m, self.df)) for m in (1, self.count))
        if self.count == 1:
            return low
        q = _root(self._one_factor_cdf, level, low, high)
        if self._exact:
            return q
        # The slope of the nearby distribution is that of this one but for a term of second order.
        slope = (self._one_factor_cdf(q + 1e-3) - level) / 1e-3
        for _ in range(4):
            step = (level - self.cdf(q)) / slope
            q = float(np.clip(q + step, low, high))
            if abs(step) < 0.01:
                break
        return q

    @cached_property
    def _denominator(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights of the shared standard deviation, χ/√df."""
        scaled = chi(self.df, scale=1 / np.sqrt(self.df))
        nodes, weights = _nodes(32, float(scaled.ppf(1e-10)), float(scaled.isf(1e-10)))
        weights = weights * scaled.pdf(nodes)
        return nodes, weights / weights.sum()

    @cached_property
    def _factor(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights of the standard normal factor."""
        own = np.sqrt(1 - np.square(self._loadings).max())
        nodes, weights = _nodes(64 if own > _STEEP else 384, -7.5, 7.5)
        weights = weights * np.exp(-np.square(nodes) / 2)
        return nodes, weights / weights.sum()

    def _one_factor_cdf(self, q: float) -> float:
        s, of_s = self._denominator
        z, of_z = self._factor
        own = np.sqrt(1 - np.square(self._loadings))
        shift = z[:, None] * (self._loadings / own)
        limit = q * s[:, None, None] / own
        inside = ndtr(limit - shift)
        if self.two_sided:
            inside -= ndtr(-limit - shift)
        return float(of_s @ inside.prod(axis=2) @ of_z)

    @cached_property
    def _root(self) -> np.ndarray:
        return _cholesky(self.correlation)

    @cached_property
    def _near_root(self) -> np.ndarray:
        return _cholesky(self._near)

    @cached_property
    def _lattice_denominator(self) -> np.ndarray:
        return np.asarray(chi.ppf(_lattice(self._points, self.count)[:, 0], self.df, scale=1 / np.sqrt(self.df)))

    def _separated(self, root: np.ndarray, q: float) -> float:
        """Genz & Bretz's product of conditional probabilities, averaged over the lattice."""
        points, limit = _lattice(self._points, self.count), q * self._lattice_denominator
        y = np.zeros((len(points), self.count), order="F")
        product = np.ones(len(points))
        for j in range(self.count):
            shift = y[:, :j] @ root[j, :j]
            high = ndtr((limit - shift) / root[j, j])
            low = ndtr((-limit - shift) / root[j, j]) if self.two_sided else np.zeros(len(points))
            product *= high - low
            if j + 1 < self.count:
                y[:, j] = ndtri(np.clip(low + points[:, j + 1] * (high - low), 1e-300, 1 - 1e-16))
        return float(product.mean())


def nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """Correlations of a covariance that rounding or approximate variances may have left with negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    mended = (vectors * np.clip(values, 1e-10 * values.max(), None)) @ vectors.T
    size = np.sqrt(np.diag(mended))
    found = mended / np.outer(size, size)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def _one_factor(correlation: np.ndarray) -> np.ndarray:
    """Loadings (m,) of one factor that come nearest to correlations in least squares, one after the other."""
    away = correlation - np.eye(len(correlation))
    if len(correlation) == 1:
        return np.zeros(1)
    mean = away.sum(axis=1) / (len(correlation) - 1)
    loadings = np.sign(mean + (mean == 0)) * np.sqrt(np.clip(np.abs(mean), 0.01, 0.99))
    total = float(loadings @ loadings)
    for _ in range(500):
        before = loadings.copy()
        for j, row in enumerate(away):
            rest = max(total - loadings[j] ** 2, 1e-12)
            new = float(np.clip(row @ loadings / rest, -0.9995, 0.9995))
            total += new**2 - loadings[j] ** 2
            loadings[j] = new
        if np.abs(loadings - before).max() < 1e-11:
            break
    return np.asarray(loadings)


def _root(function: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a distribution reaches `level`, between bounds that it may touch."""
    if function(high) <= level:
        return high
    if function(low) >= level:
        return low
    return float(brentq(lambda q: function(q) - level, low, high, xtol=1e-6))


def _cholesky(correlation: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(correlation + 1e-10 * np.eye(len(correlation)))


@lru_cache(maxsize=8)
def _lattice(count: int, dimensions: int) -> np.ndarray:
    """Richtmyer's points (count, dimensions): multiples of the roots of the primes, folded to be periodic."""
    primes: list[int] = []
    number = 2
    while len(primes) < dimensions:
        if all(number % prime for prime in primes):
            primes.append(number)
        number += 1
    at = np.outer(np.arange(1, count + 1), np.sqrt(primes)) % 1.0
    return np.abs(2 * at - 1)


@lru_cache(maxsize=8)
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights


def _nodes(count: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on an interval."""
    nodes, weights = _legendre(count)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2
