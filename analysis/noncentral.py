"""Power of F tests from the noncentral F distribution; a two-sided t test is an F test of one degree of freedom.

The distribution is that of F(df1, df2) with noncentrality λ: the sum of squares of the true effects over the expected
mean square of the error (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, §8; λ = N·f²).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincc, ncfdtr
from scipy.stats import f as f_distribution
from scipy.stats import poisson, studentized_range

_LARGEST = 1e9
"""Noncentrality that is no longer looked beyond."""


@lru_cache(maxsize=65536)
def critical_f(df1: float, df2: float, alpha: float, epsilon: float = 1.0) -> float:
    """The F from which on a test rejects; both degrees of freedom are multiplied by ``epsilon``."""
    return float(f_distribution.isf(alpha, epsilon * df1, epsilon * df2))


@lru_cache(maxsize=4096)
def critical_tukey(levels: int, df: float, alpha: float) -> float:
    """Square of the t from which on Tukey's comparison of all pairs of ``levels`` means rejects."""
    return float(studentized_range.isf(alpha, levels, df)) ** 2 / 2


def power_beyond(noncentrality: float, df1: float, df2: float, critical: float) -> float:
    """Probability that F(df1, df2) with a noncentrality is above a critical value."""
    below = float(ncfdtr(df1, df2, noncentrality, critical))
    if not 0 <= below <= 1:  # scipy's series does not converge everywhere
        return _mixture_beyond(noncentrality, df1, df2, critical)
    return 1 - below


def _mixture_beyond(noncentrality: float, df1: float, df2: float, critical: float) -> float:
    """The same from its definition: a mixture of beta distributions with Poisson weights, to twelve SD of these."""
    middle = noncentrality / 2
    width = 12 * math.sqrt(middle) + 50
    terms = np.arange(max(0, math.floor(middle - width)), math.ceil(middle + width) + 1)
    share = df1 * critical / (df1 * critical + df2)
    beyond = betaincc(df1 / 2 + terms, df2 / 2, share)
    return float(np.clip(poisson.pmf(terms, middle) @ beyond, 0.0, 1.0))


@lru_cache(maxsize=65536)
def noncentrality_for(power: float, df1: float, df2: float, critical: float) -> float:
    """The noncentrality with which F(df1, df2) is above a critical value with probability ``power``.

    Returns
    -------
    float
        0 when it is so without any effect; NaN when it would be above 10⁹.
    """

    def lack(noncentrality: float) -> float:
        return power_beyond(noncentrality, df1, df2, critical) - power

    if lack(0.0) >= 0:
        return 0.0
    high = max(8.0, critical * df1)
    while lack(high) < 0:
        high *= 2
        if high > _LARGEST:
            return float("nan")
    return float(brentq(lack, 0.0, high, xtol=1e-12, rtol=1e-12))


def power_uneven(
    square: float, square_times_variance: float, total: float, total_squared: float, df2: float, critical: float
) -> float:
    """Power of an F test whose contrasts have unequal variances σⱼ².

    The sum of squares of the term is matched by its mean and variance to a scaled noncentral χ², the error's to a
    scaled χ² (Box 1954, Annals of Mathematical Statistics 25, 290-302); exact where the variances are equal.

    Parameters
    ----------
    square, square_times_variance : float
        Σμⱼ² and Σσⱼ²μⱼ² of the true effects μⱼ.
    total, total_squared : float
        Σσⱼ² and Σσⱼ⁴.
    df2 : float
        Of the error's mean square, whose expectation is that of the term's without effects.
    critical : float
        F from which on the test rejects.
    """
    df1 = total**2 / total_squared
    mean, half_variance = total + square, total_squared + 2 * square_times_variance
    rest = mean**2 - df1 * half_variance
    if rest >= 0:
        scale = (mean - math.sqrt(rest)) / df1
        noncentrality = mean / scale - df1
    else:  # the effects lie where variances are largest, so that no noncentral χ² of these df varies as much
        scale, noncentrality, df1 = half_variance / mean, 0.0, mean**2 / half_variance
    return power_beyond(max(0.0, noncentrality), df1, df2, critical * total / (scale * df1))


def smallest_with(power: Callable[[float], float], target: float, start: float) -> float:
    """The smallest difference at which a power that grows with it is reached.

    Returns
    -------
    float
        NaN when it is not reached within 10⁶ times `start`.
    """
    high = start
    while power(high) < target:
        high *= 2
        if high > 1e6 * start:
            return float("nan")
    return float(brentq(lambda difference: power(difference) - target, 0.0, high, xtol=1e-12 * start, rtol=1e-12))


def expected_epsilon(df: int, blocks: int, true: float = 1.0) -> float:
    """The Greenhouse-Geisser factor that a test of ``df`` against its interaction with blocks will be given.

    Where it will be estimated, from at least df + 1 blocks, its expectation: the ratio of the expectations of tr²(S)
    and df·tr(S²) of a Wishart matrix S of ν = blocks − 1 degrees of freedom, (df·ε·ν + 2) / (df·(ν + 1 + df·ε)) when ε
    is ``true`` (1: all contrasts vary equally from block to block). With fewer blocks the lower bound 1/df, which
    decides there.
    """
    if df == 1:
        return 1.0
    left = blocks - 1
    return (df * true * left + 2) / (df * (left + 1 + df * true)) if left >= df else 1 / df
