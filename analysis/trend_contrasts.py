"""Trends of a response over the levels of a numeric factor: orthogonal polynomial contrasts of its means."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from adapters.faults import InputFault
from analysis.compare import declared_contrasts
from analysis.compare_tables import ContrastTable
from analysis.compared import Compared, check_adjust, check_level
from analysis.declared import AUTO
from analysis.means import LEVEL

_NAMES = ("linear", "quadratic", "cubic", "quartic")


def trend(
    frame: pd.DataFrame,
    response: str,
    of: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    error: str = AUTO,
    scale: str = "log2",
    degree: int = 2,
    adjust: str = "none",
    level: float = LEVEL,
) -> ContrastTable:
    """Polynomial contrasts of the means of an ordered numeric factor, such as scale or rank.

    The contrast of degree d is the leading coefficient of the least-squares polynomial of degree d through the level
    means, each counted equally. So ``linear`` is a slope: the change of the response for each doubling of the factor
    (``log2``), each unit (``linear``) or each step to the next level (``rank``).

    Parameters
    ----------
    of : str
        One of ``factors``, whose levels are numbers.
    error : "auto", "residual" or the name of a block
        As in :func:`analysis.anova`. Under a block each contrast is measured by its own variation over the block's
        levels: an exact t on balanced rows, whatever other contrasts vary by.
    scale : "log2", "linear" or "rank"
        Where the levels stand.
    degree : int
        The highest, at most the number of levels less 1.
    adjust : "none" or "holm"
        Of p values over the degrees.
    level : float
        Of the intervals.

    Returns
    -------
    ContrastTable
        Its ``departure`` is the F test that the means are no polynomial of this degree, where the error is the residual
        and levels are left for it; under a block it is None, since several degrees of freedom would need more than t.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; levels that are no numbers, or not positive for "log2"; a degree without levels for
        it.
    """
    check_adjust(adjust, ("none", "holm"))
    check_level(level)
    compared = Compared(frame, response, of, factors, blocks, interactions, error)
    if len(compared.of) > 1:
        raise InputFault(f"A trend is over the levels of one factor, not of {', '.join(compared.of)}.")
    x = _positions(compared, scale)
    if not 1 <= degree < len(x):
        raise InputFault(
            f"A trend over the {len(x)} levels of {compared.of[0]} has a degree from 1 to {len(x) - 1}, not {degree!r}."
        )
    matrix = polynomials(x)
    labels = [_NAMES[d - 1] if d <= len(_NAMES) else f"degree {d}" for d in range(1, degree + 1)]
    departure, notes = None, [_unit(compared.of[0], scale)]
    if compared.fit.block is not None and degree < len(x) - 1:
        notes.append(
            "What the trend leaves is not tested: against a block that takes more than contrasts of one degree."
        )
    elif degree < len(x) - 1:
        departure = _departure(compared, matrix[degree:])
    return declared_contrasts(
        compared, matrix[:degree], labels, adjust, level, False, "trend", notes, departure
    )  # fmt: skip


def polynomials(x: np.ndarray) -> np.ndarray:
    """Contrasts (k − 1, k) that give the leading coefficient of the least-squares polynomial of degree 1 … k − 1.

    Parameters
    ----------
    x : array (k,)
        Different positions; values at them are counted equally.
    """
    size = np.abs(x - x.mean()).max()
    basis, upper = np.linalg.qr(np.vander((x - x.mean()) / size, increasing=True))
    degrees = np.arange(1, len(x))
    return np.asarray((basis / np.diag(upper)).T[1:] / size ** degrees[:, None])


def _positions(compared: Compared, scale: str) -> np.ndarray:
    if scale not in ("log2", "linear", "rank"):
        raise InputFault(f"Levels stand on the scale 'log2', 'linear' or 'rank', not {scale!r}.")
    factor, numbers = compared.of[0], []
    for (text,) in compared.labels:
        try:
            numbers.append(float(text))
        except ValueError:
            raise InputFault(
                f"A trend needs numbers, and {factor} has the level {text!r}; leave its rows out (--where)."
            ) from None
    x = np.array(numbers)
    if not np.isfinite(x).all() or any(a == b for a, b in pairwise(sorted(numbers))):
        raise InputFault(f"A trend needs different finite numbers; {factor} has {', '.join(compared.texts)}.")
    if scale == "rank":
        return np.argsort(np.argsort(x)).astype(float)
    if scale == "log2":
        if (x <= 0).any():
            raise InputFault(
                f"The scale 'log2' needs positive levels; {factor} has {x.min():g}. Use 'linear' or 'rank'."
            )
        return np.asarray(np.log2(x))
    return x


def _unit(factor: str, scale: str) -> str:
    unit = {"log2": f"doubling of {factor}", "linear": f"unit of {factor}", "rank": f"step to the next {factor}"}[scale]
    return f"Linear is the change for each {unit}; level means count equally."


def _departure(compared: Compared, rest: np.ndarray) -> dict[str, float] | None:
    """Wald's F test that contrasts (k, levels) are all 0, against the residual; None where it cannot be given."""
    found = compared.joint(rest)
    if found is None:
        return None
    f, df2 = found
    return {"F": f, "df1": float(len(rest)), "df2": df2, "p": float(f_distribution.sf(f, len(rest), df2))}
