"""Intervals of variance components: linear combinations of mean squares, some with a minus.

Mean squares are taken to be independent and, over their expectations, χ² over its degrees of freedom, which is so on
balanced normal data. One mean square alone has the exact χ² interval. A combination has the modified large-sample
interval of Ting, Burdick, Graybill, Jeyaratnam & Lu (1990, J. Stat. Comput. Simul. 35, 135–143; Burdick & Graybill
1992, Confidence Intervals on Variance Components, §3.3), which is exact when all but one mean square is 0 and near its
level otherwise.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2
from scipy.stats import f as f_distribution

EXACT = "chi-square"
MODIFIED = "modified large sample (Ting et al. 1990)"


def interval(factors: np.ndarray, squares: np.ndarray, df: np.ndarray, level: float) -> tuple[float, float, str]:
    """Two-sided interval of Σ factors·E(squares).

    Parameters
    ----------
    factors : array (k,)
        Of either sign, none 0.
    squares, df : arrays (k,)
        The mean squares and their degrees of freedom.
    level : float
        Of the interval.

    Returns
    -------
    (low, high, method)
        Not cut off at 0.
    """
    tail = (1 - level) / 2
    if len(factors) == 1 and factors[0] > 0:
        value, own = float(factors[0] * squares[0]), float(df[0])
        return value * own / chi2.isf(tail, own), value * own / chi2.ppf(tail, own), EXACT
    parts, plus = np.abs(factors) * squares, factors > 0
    value = float(parts[plus].sum() - parts[~plus].sum())
    below = _spread(parts[plus], df[plus], parts[~plus], df[~plus], tail)
    above = _spread(parts[~plus], df[~plus], parts[plus], df[plus], tail)
    return value - below, value + above, MODIFIED


def _spread(up: np.ndarray, df_up: np.ndarray, down: np.ndarray, df_down: np.ndarray, tail: float) -> float:
    """How far the lower end of Σup − Σdown lies below it; with the two exchanged, the upper end above it."""
    g = 1 - df_up / chi2.isf(tail, df_up)
    h = df_down / chi2.ppf(tail, df_down) - 1
    total = float(np.square(g * up).sum() + np.square(h * down).sum())
    for i in range(len(up)):
        for j in range(len(down)):
            ratio = f_distribution.isf(tail, df_up[i], df_down[j])
            cross = ((ratio - 1) ** 2 - (g[i] * ratio) ** 2 - h[j] ** 2) / ratio
            total += cross * up[i] * down[j]
        for j in range(i + 1, len(up)):
            a, b = df_up[i], df_up[j]
            joint = 1 - (a + b) / chi2.isf(tail, a + b)
            cross = (joint**2 * (a + b) ** 2 / (a * b) - g[i] ** 2 * a / b - g[j] ** 2 * b / a) / (len(up) - 1)
            total += cross * up[i] * up[j]
    return max(total, 0.0) ** 0.5
