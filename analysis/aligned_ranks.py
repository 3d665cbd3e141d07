"""The aligned rank transform: F tests on ranks for small factorials whose errors are far from normal.

Ranks of the response itself mix up main effects and interactions. Wobbrock, Findlater, Gergle & Higgins (2011, CHI '11,
143–146) therefore align first: for each term, every other effect is taken out of the response, what is left is ranked,
and only that term is read from the analysis of variance of these ranks. It needs each effect to be estimable by itself,
so every combination of the factors must have been observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import rankdata

from analysis.declared import Declared
from analysis.model import Design, Term, contains, sum_coded

# Values that are equal in exact arithmetic differ by rounding and must get the same rank.
_DIGITS = 10


@dataclass(frozen=True)
class RankTest:
    """The test of one term on its aligned ranks; `reason` says why there is none."""

    F: float | None
    df: int
    df_error: int
    p: float | None
    reason: str = ""


def aligned_ranks(design: Design, y: np.ndarray, plan: Declared) -> dict[Term, RankTest]:
    """Test the declared factors and interactions on aligned ranks, each against the residual of the full factorial.

    Parameters
    ----------
    y
        The response (n,), centred.
    plan
        The model; all interactions of its factors are taken out, declared or not, and its blocks.

    Returns
    -------
    dict
        One entry a factor or interaction; where the design does not allow it, all with the reason.
    """
    asked = (*plan.factors, *plan.interactions)
    factors = [column for (column,) in (t for t in plan.factors if len(t) == 1)]
    factorial = [c for k in range(1, len(factors) + 1) for c in combinations(factors, k)]
    full = design.space([*plan.blocks, *factorial])
    reason = _reason(design, plan, factors, full.rank)
    if reason:
        return {term: RankTest(None, 0, 0, None, reason) for term in asked}
    blocks = design.space(plan.blocks)
    coded = {term: sum_coded(design.sample, term) for term in factorial}
    inside = np.column_stack([blocks.residuals(column) for columns in coded.values() for column in columns.T])
    beta = np.linalg.lstsq(inside, blocks.residuals(y), rcond=None)[0]
    ends = np.cumsum([columns.shape[1] for columns in coded.values()])
    own = dict(zip(coded, np.split(beta, ends[:-1]), strict=True))
    residuals = full.residuals(y)
    df_error = design.sample.n - full.rank
    found = {}
    for term in asked:
        key = next(each for each in factorial if set(each) == set(term))
        aligned = residuals + coded[key] @ own[key]
        ranks = rankdata(np.round(aligned / (np.abs(aligned).max() or 1.0), _DIGITS))
        ranks -= ranks.mean()
        others = [t for t in (*plan.blocks, *factorial) if not contains(t, key)]
        small, large = design.space(others), design.space([*others, key])
        change, left = small.residuals(ranks) - large.residuals(ranks), full.residuals(ranks)
        df, error = large.rank - small.rank, float(left @ left) / df_error
        if error <= 0:
            found[term] = RankTest(None, df, df_error, None, "the ranks leave no residual")
            continue
        f = float(change @ change) / df / error
        found[term] = RankTest(f, df, df_error, float(f_distribution.sf(f, df, df_error)))
    return found


def _reason(design: Design, plan: Declared, factors: list[str], rank: int) -> str:
    sample = design.sample
    if plan.parents:
        return "aligned ranks need crossed factors, and one is nested"
    if not 2 <= len(factors) <= 3:
        return f"aligned ranks are for two or three crossed factors, not {len(factors)}"
    cells = int(np.prod([len(sample.levels[c]) for c in factors]))
    seen = sample.cells(factors).count
    if seen < cells:
        return f"aligned ranks need every combination of the factors, and {cells - seen} of {cells} have no response"
    if rank < design.space(plan.blocks).rank + cells - 1:
        return "aligned ranks need factors that the blocks do not decide"
    if sample.n <= rank:
        return "the full factorial of the factors leaves no residual"
    return ""
