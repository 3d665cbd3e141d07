"""The result of asking which factor matters most: numbers, and the same in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.anova_table import df_text, p_text
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FactorShare:
    """How much one factor matters within a component; what cannot be known is None.

    Attributes
    ----------
    df : int
        Levels in the component less one.
    share : float or None
        LMG share: part of what the factors explain together; sums to 1 over the factors. Noise gives a factor of many
        levels a share even where it does nothing.
    of_within : float or None
        The same part of all variation within the blocks; sums to the R² of the factors.
    corrected : float or None
        ``of_within`` with what noise adds to it taken off, the tasks being a sample; negative where there is less than
        noise alone makes on average.
    interval : (low, high) or None
        Of ``corrected``, by bootstrap over tasks.
    omega_sq, F, p, error
        Partial ω² and test, each factor adjusted for the others, as in :func:`analysis.anova` on the component's rows.
    """

    factor: str
    levels: tuple[str, ...]
    df: int
    share: float | None
    of_within: float | None
    corrected: float | None
    interval: tuple[float, float] | None
    omega_sq: float | None
    F: float | None
    p: float | None
    df_test: int | None
    error: str | None
    df_error: float | None


@dataclass(frozen=True)
class ShareDifference:
    """How much more one factor matters than another: difference of ``corrected``, with its interval over tasks."""

    first: str
    second: str
    difference: float
    interval: tuple[float, float] | None

    @property
    def more(self) -> str | None:
        """The factor that matters more, where the interval says so."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        return self.first if self.difference > 0 else self.second


@dataclass(frozen=True)
class ComponentImportance:
    """One component of connected levels.

    Attributes
    ----------
    r_sq : float or None
        Part of the variation within the blocks that the factors explain additively.
    r_sq_cells : float or None
        Part that their combinations explain: the rest of it are interactions, which no factor's share holds. None
        where no row is left to tell them from noise.
    constant : mapping of str to str
        Factors that have one level here, with it.
    """

    component: str
    n: int
    factors: tuple[FactorShare, ...]
    differences: tuple[ShareDifference, ...]
    constant: dict[str, str]
    r_sq: float | None
    r_sq_cells: float | None
    notes: tuple[str, ...]

    def __getitem__(self, factor: str) -> FactorShare:
        """One factor's entry."""
        for row in self.factors:
            if row.factor == factor:
                return row
        raise KeyError(f"no factor {factor!r} in {self.component}; it has {', '.join(r.factor for r in self.factors)}")


@dataclass(frozen=True)
class OneWay:
    """The one-way F of a factor on all rows, which is confounded with all that goes together with the factor."""

    factor: str
    F: float | None
    p: float | None
    df: int
    df_error: float


@dataclass(frozen=True)
class Importance(Result):
    """Which factor matters most, component by component, the one with most combinations first.

    Attributes
    ----------
    resampled : str or None
        What was drawn with replacement; None where there is no interval, and ``why`` says why.
    """

    response: str
    n: int
    n_missing: int
    blocks: tuple[str, ...]
    components: tuple[ComponentImportance, ...]
    one_way: tuple[OneWay, ...]
    resampled: str | None
    why: str
    draws: int
    level: float
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a component and factor, with the confounded one-way test beside."""
        beside = {o.factor: o for o in self.one_way}
        rows = []
        for part in self.components:
            for row in part.factors:
                low, high = row.interval or (None, None)
                rows.append(
                    {
                        "component": part.component, "factor": row.factor, "df": row.df, "share": row.share,
                        "of_within": row.of_within, "corrected": row.corrected, "lower": low, "upper": high,
                        "omega_sq": row.omega_sq, "F": row.F, "p": row.p, "df_error": row.df_error,
                        "error": row.error, "confounded_F": beside[row.factor].F, "confounded_p": beside[row.factor].p,
                    }
                )  # fmt: skip
        numbers = [c for c in rows[0] if c not in ("component", "factor", "df", "error")]
        return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))

    def shown(self) -> pd.DataFrame:
        """The same without the confounded tests, which the sentences have with their warning."""
        return self.to_frame().drop(columns=["confounded_F", "confounded_p", "error"])

    def differences(self) -> pd.DataFrame:
        """One row a pair of factors of a component; ``more`` names the one that matters more, where that is clear."""
        rows = []
        for part in self.components:
            for d in part.differences:
                low, high = d.interval or (np.nan, np.nan)
                rows.append((part.component, d.first, d.second, d.difference, low, high, d.more))
        return pd.DataFrame(rows, columns=["component", "first", "second", "difference", "lower", "upper", "more"])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = asdict(self)
        for part, own in zip(found["components"], self.components, strict=True):
            for each, difference in zip(part["differences"], own.differences, strict=True):
                each["more"] = difference.more
        found["one_way"] = {"label": "confounded", "tests": found["one_way"]}
        return found

    def explain(self) -> str:
        """What explains how much, which order may be claimed, and what the one-way tests confound."""
        within = f" within {', '.join(self.blocks)}" if self.blocks else ""
        lines = []
        for part in self.components:
            lines += _words(part, self, within)
        tests = [f"{o.factor} F({o.df}, {df_text(o.df_error)}) = {o.F:.3g}" for o in self.one_way if o.F is not None]
        if tests:
            lines.append(
                f"One-way F's on all {self.n} rows, confounded: {', '.join(tests)}. Each takes in all that goes "
                f"together with its factor (the other factors, and which component a level belongs to), and F's of "
                "unequal degrees of freedom do not compare, so they rank nothing."
            )
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """What each factor explains of the variation within blocks, with intervals."""
        from analysis.importance_figures import shares

        return shares(self)


def _words(part: ComponentImportance, whole: Importance, within: str) -> list[str]:
    names = ", ".join(f.factor for f in part.factors)
    notes = [f"{part.component}: {note}" for note in part.notes]
    where = "In all rows" if part.component == "all rows" else f"In {part.component}"
    if part.r_sq is None:
        return notes
    shares = ", ".join(f"{f.factor} {f.share:.0%}" for f in part.factors if f.share is not None)
    sizes = ", ".join(f"{f.factor} {f.df + 1} levels" for f in part.factors)
    divided = f"; of this (LMG, averaged over all orderings): {shares}." if len(part.factors) > 1 else "."
    lines = [
        f"{where} ({part.n} rows; {sizes}), {names} explain {part.r_sq:.0%} of the variation of "
        f"{whole.response}{within}{divided}"
    ]
    if part.r_sq_cells is not None and part.r_sq_cells - part.r_sq > 0.005:
        rest = part.r_sq_cells - part.r_sq
        lines.append(f"Their interactions, with noise, explain another {rest:.0%}, which belongs to no factor alone.")
    sized = [_sized(f.factor, f.corrected, f.interval) for f in part.factors if f.corrected is not None]
    if sized:
        lines.append(
            f"With what noise adds taken off, as parts of all variation{within} ({whole.level:.0%} intervals over "
            f"{whole.resampled}s): {', '.join(sized)}."
        )
    lines += [_order(d, whole.level) for d in part.differences]
    if not part.differences and len(part.factors) > 1:
        reason = whole.why or "there is no interval of the differences"
        lines.append(f"No order of {names} is claimed, because {reason}.")
    tests = [
        f"{f.factor} {f.omega_sq:.2f} (F({f.df_test}, {df_text(f.df_error)}) = {f.F:.3g} against {f.error}, p "
        f"{'' if p_text(f.p).startswith('<') else '= '}{p_text(f.p)})"
        for f in part.factors
        if f.omega_sq is not None and f.df_error is not None
    ]
    if tests:
        lines.append(f"Partial omega², each adjusted for the others: {', '.join(tests)}.")
    return [*lines, *notes]


def _sized(factor: str, value: float, interval: tuple[float, float] | None) -> str:
    return f"{factor} {value:.3f}" + (f" ({interval[0]:.3f} … {interval[1]:.3f})" if interval else "")


def _order(d: ShareDifference, level: float) -> str:
    if d.interval is None:
        return f"No order of {d.first} and {d.second} is claimed: too few draws gave a difference."
    more, low, high = d.more, *d.interval
    size = f"difference {d.difference:.3f}, {level:.0%} interval {low:.3f} … {high:.3f}"
    if more is None:
        return f"Between {d.first} and {d.second} no order can be claimed ({size})."
    less = d.second if more == d.first else d.first
    return f"{more} matters more than {less} ({size}, {d.first} less {d.second})."
