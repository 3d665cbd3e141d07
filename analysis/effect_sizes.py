"""Effect sizes of an F test: partial η², ω², ε² and the interval of the population's partial η².

With F on d1 and d2 degrees of freedom (Steiger 2004, Psychological Methods 9, 164–182; Olejnik & Algina 2003):
η²p = F·d1/(F·d1 + d2), ω²p = (F − 1)d1/(F·d1 + d2 + 1), ε²p = (F − 1)d1/(F·d1 + d2).
The interval belongs to η²p: the noncentralities λ at which the observed F is the upper and the lower quantile of the
noncentral F, each as λ/(λ + d2), the convention of R's effectsize (Steiger's λ/(λ + d1 + d2 + 1) is a little lower, so
that a large η²p with many degrees of freedom could lie above its own interval).
"""

from __future__ import annotations

from scipy.optimize import brentq
from scipy.special import ncfdtr

LEVEL = 0.90
CONVENTION = "effectsize: lambda / (lambda + df2), lambda from the noncentral F, two-sided"


def partial_eta_sq(f: float, d1: int, d2: float) -> float:
    """Partial η²: share of the term in the sum of itself and the error."""
    return f * d1 / (f * d1 + d2)


def omega_sq(f: float, d1: int, d2: float) -> float:
    """Partial ω², not cut off at 0."""
    return (f - 1) * d1 / (f * d1 + d2 + 1)


def epsilon_sq(f: float, d1: int, d2: float) -> float:
    """Partial ε², not cut off at 0."""
    return (f - 1) * d1 / (f * d1 + d2)


def noncentrality_interval(f: float, d1: int, d2: float, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the two-sided interval of λ; an end without a root is 0.

    P(F' ≥ f | low) = P(F' ≤ f | high) = (1 − level)/2.

    Raises
    ------
    ValueError
        ``f`` is negative or a degree of freedom is not positive.
    """
    if not (f >= 0 and d1 > 0 and d2 > 0):
        raise ValueError(f"an F of {f} on {d1} and {d2} df has no noncentrality")
    tail = (1 - level) / 2

    def end(probability: float) -> float:
        def off(lam: float) -> float:
            return float(ncfdtr(d1, d2, lam, f)) - probability

        if off(0.0) <= 0:
            return 0.0
        high = max(4.0, 2 * f * d1)
        while off(high) > 0:
            high *= 2
        return float(brentq(off, 0.0, high, xtol=1e-12, rtol=1e-13))

    return end(1 - tail), end(tail)


def partial_eta_sq_interval(f: float, d1: int, d2: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of partial η² in effectsize's convention λ/(λ + d2), at the two-sided ``level``."""
    low, high = noncentrality_interval(f, d1, d2, level)
    return low / (low + d2), high / (high + d2)
