"""Robust companions of the analysis of variance, beside the F test they are to confirm.

HC3 allows errors whose spread differs from row to row, Freedman and Lane's permutation and aligned ranks errors that
are not normal. All of them test against the residual, so they speak about the tasks that were run; none makes a claim
about new tasks safer. Friedman's test compares complete designs by their ranks within tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from scipy.stats import f as f_distribution
from scipy.stats import friedmanchisquare

from adapters.faults import InputFault
from analysis.aligned_ranks import RankTest, aligned_ranks
from analysis.anova_fit import anova
from analysis.anova_table import TermRow
from analysis.declared import RESIDUAL, declared, names
from analysis.hc3 import Wald
from analysis.model import Design, contains
from analysis.permutation import Arrangements, Permuted, Tested, freedman_lane, permutation_columns
from analysis.plain import cell_name, p_is
from analysis.result import Result

ALPHA = 0.05


@dataclass(frozen=True)
class RobustRow:
    """One term; what cannot be tested is None, and `reasons` says why.

    Attributes
    ----------
    F, p : float or None
        The ordinary test against the residual, `df` and `df_error` degrees of freedom.
    hc3_F, hc3_p : float or None
        Wald test with the HC3 covariance (MacKinnon & White 1985), on the same degrees of freedom.
    permutation_p : float or None
        Freedman and Lane's, with the ordinary F as statistic.
    permutation_exact : bool
        Whether that p holds exactly when errors are exchangeable within blocks.
    ranks_F, ranks_p : float or None
        On aligned ranks, against the residual of the full factorial, `ranks_df_error` degrees of freedom.
    """

    term: str
    role: str
    df: int
    df_error: int
    F: float | None
    p: float | None
    hc3_F: float | None
    hc3_p: float | None
    permutation_p: float | None
    arrangements: int
    permutation_exact: bool
    ranks_F: float | None
    ranks_df_error: int
    ranks_p: float | None
    reasons: tuple[str, ...]

    @property
    def tests(self) -> dict[str, float]:
        """The p values there are, by the test's name."""
        named = {
            "F": self.p, "HC3": self.hc3_p, "permutation": self.permutation_p, "aligned ranks": self.ranks_p
        }  # fmt: skip
        return {test: p for test, p in named.items() if p is not None}

    @property
    def agree(self) -> bool | None:
        """Whether all tests fall on the same side of .05; None with fewer than two."""
        tests = self.tests
        return None if len(tests) < 2 or self.p is None else len({p < ALPHA for p in tests.values()}) == 1


@dataclass(frozen=True)
class Robust(Result):
    """The F test of every factor and interaction with its robust companions."""

    response: str
    n: int
    n_missing: int
    within: str
    enumerated: bool
    terms: tuple[RobustRow, ...]
    notes: tuple[str, ...]

    def __getitem__(self, term: str) -> RobustRow:
        """The entry of one term, by name."""
        for row in self.terms:
            if row.term == term:
                return row
        raise KeyError(f"no term {term!r}; there are {', '.join(row.term for row in self.terms)}")

    @property
    def agreement(self) -> str:
        """One sentence: do the robust versions agree with the F test at .05?"""
        apart = [row for row in self.terms if row.agree is False]
        same = [row for row in self.terms if row.agree]
        if not apart and not same:
            return "Whether the robust versions agree cannot be said: no term has an F test and a robust version."
        if not apart:
            return f"The robust versions agree with the F test at {ALPHA}: {'; '.join(map(_numbers, same))}."
        both = f"; they agree on {'; '.join(map(_numbers, same))}" if same else ""
        return f"The robust versions disagree with the F test at {ALPHA} on {'; '.join(map(_numbers, apart))}{both}."

    def to_frame(self) -> pd.DataFrame:
        """One row a term; what cannot be tested is missing."""
        frame = pd.DataFrame([{**asdict(row), "agree": row.agree} for row in self.terms])
        return frame.astype(dict.fromkeys(["F", "p", "hc3_F", "hc3_p", "permutation_p", "ranks_F", "ranks_p"], float))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what cannot be tested is None."""
        return {
            "response": self.response, "n": self.n, "n_missing": self.n_missing, "within": self.within,
            "enumerated": self.enumerated, "agreement": self.agreement,
            "terms": [{**asdict(row), "agree": row.agree} for row in self.terms], "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """Whether the robust versions agree, what each allows for, and what could not be tested."""
        lines = [self.agreement, *self.notes]
        for reason in dict.fromkeys(reason for row in self.terms for reason in row.reasons):
            lines.append(f"{', '.join(row.term for row in self.terms if reason in row.reasons)}: {reason}.")
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join(lines)


def robust(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    permutations: int = 4999,
    seed: int = 0,
    nested: Mapping[str, str] | None = None,
) -> Robust:
    """Test each factor and interaction by F, HC3, permutation and aligned ranks, all against the residual.

    Parameters
    ----------
    factors, blocks, interactions, nested
        As in :func:`analysis.anova`. Residuals are permuted within the cells of all blocks together.
    permutations : int
        Random arrangements of the residuals; where no more than 50,000 are possible at all, these are gone through
        instead.
    seed : int
        Of the random arrangements.

    Returns
    -------
    Robust

    Notes
    -----
    HC3's F of a term is the difference of the Wald statistics of leaving out the term and all that contain it, and of
    leaving out the latter alone, over its degrees of freedom (as R's ``car::Anova(white.adjust="hc3")``, type II).
    It needs residuals: a row that alone decides a parameter the term rests on (leverage 1) has none.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; fewer than 99 permutations.
    """
    if permutations < 99:
        raise InputFault(f"A permutation test at .05 needs 99 arrangements or more, not {permutations}.")
    table = anova(frame, response, factors, blocks, interactions, 2, RESIDUAL, nested=nested)
    plan = declared(factors, blocks, interactions, nested=nested)
    sample = plan.read(frame, response)
    design, y = Design(sample), sample.y - sample.y.mean()
    full = design.space(plan.terms)
    asked = (*plan.factors, *plan.interactions)
    tested = []
    for term in asked:
        others = [t for t in plan.terms if not contains(t, term)]
        tested.append(Tested(plan.label(term), design.space(others), design.space([*others, term])))
    within = permutation_columns(plan.blocks)
    arrangements = Arrangements(sample, plan.columns, within, permutations, seed)
    exact_fit = all(table[plan.label(term)].F is None for term in asked)
    if exact_fit:
        permuted = [Permuted(None, 0, False, False, "there is no residual to test against")] * len(asked)
        ranked = {term: RankTest(None, 0, 0, None, "") for term in asked}
        hc3: list[tuple[float | None, str]] = [(None, "")] * len(asked)
    else:
        permuted = freedman_lane(design, y, full, tested, arrangements)
        ranked = aligned_ranks(design, y, plan)
        wald = Wald(design, full, y)
        hc3 = [wald.F(each.small, each.large) for each in tested]
    rows = [
        _row(table[plan.label(term)], table.residual["df"], white, shuffled, ranked[term])
        for term, white, shuffled in zip(asked, hc3, permuted, strict=True)
    ]
    where = ":".join(within)
    return Robust(
        response, sample.n, sample.n_missing, where, arrangements.enumerated, tuple(rows),
        tuple(_notes(rows, arrangements, where)),
    )  # fmt: skip


def _row(
    ordinary: TermRow, df_error: int, white: tuple[float | None, str], shuffled: Permuted, ranks: RankTest
) -> RobustRow:
    f, reason = white
    reasons = [reason, f"no permutation test, since {shuffled.reason}" if shuffled.reason else "", ranks.reason]
    p = None if f is None else float(f_distribution.sf(f, ordinary.df, df_error))
    return RobustRow(
        ordinary.term, ordinary.role, ordinary.df, df_error, ordinary.F, ordinary.p, f, p, shuffled.p,
        shuffled.arrangements, shuffled.exact, ranks.F, ranks.df_error, ranks.p, tuple(filter(None, reasons)),
    )  # fmt: skip


def _numbers(row: RobustRow) -> str:
    return f"{row.term} ({', '.join(f'{test} p {p_is(p)}' for test, p in row.tests.items())})"


def _notes(rows: Sequence[RobustRow], arrangements: Arrangements, where: str) -> list[str]:
    notes = []
    if any(row.hc3_p is not None for row in rows):
        notes.append("HC3 allows a spread that differs from row to row, and is tested against the residual.")
    shuffled = [row for row in rows if row.permutation_p is not None]
    if shuffled:
        count = arrangements.count
        how = f"all {count} arrangements" if arrangements.enumerated else f"{count} random arrangements"
        places = f"within cells of {where}" if where else "among all rows"
        notes.append(
            f"The permutation test (Freedman and Lane) compares F with {how} of the residuals {places}; it allows any "
            "distribution of the errors, of equal spread."
        )
        if arrangements.enumerated and 1 / count >= ALPHA:
            notes.append(f"With {count} arrangements its smallest possible p is {1 / count:.2f}: it cannot decide.")
        if not arrangements.enumerated:
            width = 1.96 * (ALPHA * (1 - ALPHA) / count) ** 0.5
            notes.append(f"A permutation p near {ALPHA} is known to ±{width:.4f}.")
        rough = [row.term for row in shuffled if not row.permutation_exact]
        if rough:
            notes.append(f"It is approximate for {', '.join(rough)}, since effects of other terms are estimated first.")
    notes.append("All of these speak about the conditions that were run, not about new tasks.")
    return notes


@dataclass(frozen=True)
class Friedman(Result):
    """Friedman's test: do complete designs rank alike in every block?

    Attributes
    ----------
    statistic, df, p : float, int, float
        χ², corrected for ties.
    F, p_F : float or None
        Iman and Davenport's F on df and df·(blocks − 1) degrees of freedom, closer to its level with few blocks; None
        where all blocks rank alike, which leaves it no error.
    W : float
        Kendall's coefficient of concordance: 0 no agreement of the blocks, 1 the same order in all.
    ranks : tuple of (str, float)
        Mean rank of each design, 1 for the highest response, best first.
    left_out : tuple of str
        Blocks in which some design has no response.
    """

    response: str
    of: tuple[str, ...]
    within: str
    blocks: int
    statistic: float
    df: int
    p: float
    F: float | None
    p_F: float | None
    W: float
    ranks: tuple[tuple[str, float], ...]
    left_out: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """Mean ranks, one row a design."""
        return pd.DataFrame(self.ranks, columns=[":".join(self.of), "mean_rank"])

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    def explain(self) -> str:
        """The test in sentences."""
        lines = [
            f"Ranks of {len(self.ranks)} designs in {self.response} within {self.blocks} cells of {self.within}: "
            f"Friedman's χ²({self.df}) = {self.statistic:.4g}, p {p_is(self.p)}; Kendall's W = {self.W:.2f} (0: blocks "
            "rank at random, 1: all alike)."
        ]
        if self.F is None or self.p_F is None:
            lines.append(f"All {self.blocks} blocks rank alike, so Iman and Davenport's F has no error.")
        else:
            lines.append(
                f"Iman and Davenport's F({self.df}, {self.df * (self.blocks - 1)}) = {self.F:.4g}, p {p_is(self.p_F)}, "
                "holds its level better with few blocks."
            )
        (first, high), (last, low) = self.ranks[0], self.ranks[-1]
        lines.append(f"Mean ranks go from {high:.2f} ({first}) to {low:.2f} ({last}); 1 is the highest response.")
        if self.left_out:
            lines.append(
                f"{len(self.left_out)} cells of {self.within} were left out, since some design has no response there: "
                f"{', '.join(self.left_out)}."
            )
        return "\n".join(lines)


def friedman(frame: pd.DataFrame, response: str, of: str | Sequence[str], blocks: str | Sequence[str]) -> Friedman:
    """Friedman's rank test of designs within blocks.

    Parameters
    ----------
    of : str or sequence of str
        Columns whose combinations are the designs.
    blocks : str or sequence of str
        Columns, or combinations such as ``task:seed``, whose cells together are the blocks. Several responses of a
        design in one block are averaged; a block in which a design has none is left out and named.

    References
    ----------
    Friedman 1937, Journal of the American Statistical Association 32, 675–701; Iman & Davenport 1980, Communications in
    Statistics A9, 571–595; Kendall & Babington Smith 1939, Annals of Mathematical Statistics 10, 275–287.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; fewer than three designs or two complete blocks; no two responses differ.
    """
    plan = declared(of, blocks)
    sample = plan.read(frame, response)
    own, within = sample.cells(names(of)), permutation_columns(plan.blocks)
    if not within:
        raise InputFault("Friedman's test ranks within blocks; name at least one, for instance --blocks task.")
    units = sample.cells(within)
    table = pd.DataFrame({"unit": units.codes, "design": own.codes, "y": sample.y})
    wide = table.pivot_table(index="unit", columns="design", values="y", aggfunc="mean")
    complete = wide.notna().all(axis=1)
    left_out = [cell_name(sample, within, units.levels[unit]) for unit in wide.index[~complete]]
    wide = wide[complete]
    if own.count < 3 or len(wide) < 2:
        raise InputFault(
            f"Friedman's test needs three designs or more in two complete blocks or more; there are {own.count} "
            f"designs, and {len(wide)} of {units.count} cells of {':'.join(within)} have a {response} of all of them. "
            "Leave out designs that failed, or declare fewer blocks."
        )
    ranks = wide.rank(axis=1, ascending=False)
    if (ranks.nunique(axis=1) == 1).all():
        raise InputFault(f"Every {response} is the same within its block; there is nothing to rank.")
    found = friedmanchisquare(*wide.to_numpy().T)
    count, df = len(wide), own.count - 1
    statistic = float(found.statistic)
    left = count * df - statistic
    f = (count - 1) * statistic / left if left > 1e-9 * count * df else None
    mean = ranks.mean().sort_values(kind="stable")
    named = [(cell_name(sample, names(of), own.levels[k]), float(mean[k])) for k in mean.index.tolist()]
    return Friedman(
        response, tuple(names(of)), ":".join(within), count, statistic, df, float(found.pvalue), f,
        None if f is None else float(f_distribution.sf(f, df, df * (count - 1))), statistic / (count * df),
        tuple(named), tuple(left_out),
    )  # fmt: skip
