"""The result of an analysis of variance: plain numbers, one entry a term, and the same in words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ErrorTerm:
    """What a term is tested against; `mean_sq` is None when the data cannot give it."""

    term: str
    df: float
    mean_sq: float | None
    approximate: bool = False


@dataclass(frozen=True)
class TermRow:
    """One term of the table; what cannot be tested or estimated is None.

    Attributes
    ----------
    role : str
        ``block``, ``factor``, ``component`` or ``interaction``.
    df, df_nominal : int
        Estimable degrees of freedom, and those the term would have with every cell filled.
    p : float or None
        Greenhouse-Geisser corrected where ``epsilon`` is given. Where ``p_conservative`` is, it holds only if all
        differences vary equally from block to block.
    p_conservative : float or None
        Lower-bound p, where several degrees of freedom are tested against their interaction with a block and ε cannot
        be estimated.
    epsilon : float or None
        Greenhouse-Geisser ε; None where none is needed (the residual, one degree of freedom) or known.
    partial_eta_sq_ci : (low, high) or None
        At the level and in the convention of the table's ``ci``.
    omega_sq, epsilon_sq : float or None
        Partial ω² and ε²; a negative estimate is 0 here and given raw in the table's notes.
    estimable : bool
        Whether all nominal degrees of freedom are estimable.
    aliased : tuple of str
        Names of the columns (treatment coding) that the other terms leave nothing of; empty when estimable.
    """

    term: str
    role: str
    df: int
    df_nominal: int
    sum_sq: float
    mean_sq: float | None
    F: float | None
    p: float | None
    p_conservative: float | None
    epsilon: float | None
    error: ErrorTerm
    partial_eta_sq: float | None
    partial_eta_sq_ci: tuple[float, float] | None
    omega_sq: float | None
    epsilon_sq: float | None
    estimable: bool
    aliased: tuple[str, ...]

    @property
    def p_decisive(self) -> float | None:
        """The p that a claim rests on: the conservative one where the other's assumption cannot be checked."""
        return self.p if self.p_conservative is None else self.p_conservative


@dataclass(frozen=True)
class AnovaTable(Result):
    """An analysis of variance.

    ``residuals`` and ``fitted`` (both (n,)) are there for diagnostic plots and are not part of the JSON.
    """

    response: str
    n: int
    n_missing: int
    type: int
    error: str
    question: str
    terms: tuple[TermRow, ...]
    residual: dict[str, Any]
    components: tuple[dict, ...]
    notes: tuple[str, ...]
    ci: dict[str, Any]
    residuals: np.ndarray = field(repr=False, compare=False)
    fitted: np.ndarray = field(repr=False, compare=False)

    def __getitem__(self, term: str) -> TermRow:
        """The entry of one term, by name."""
        for row in self.terms:
            if row.term == term:
                return row
        raise KeyError(f"no term {term!r} in the table; it has {', '.join(r.term for r in self.terms)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists: what ``to_json`` writes."""
        return {
            "response": self.response, "n": self.n, "n_missing": self.n_missing, "type": self.type,
            "error": self.error, "question": self.question, "terms": [asdict(t) for t in self.terms],
            "residual": dict(self.residual), "components": list(self.components), "notes": list(self.notes),
            "ci": dict(self.ci),
        }  # fmt: skip

    def to_json(self) -> str:
        """One JSON document; a number that is not there is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a term, columns named as in the JSON; what cannot be tested is missing."""
        frame = pd.DataFrame([asdict(t) for t in self.terms])
        numbers = ["mean_sq", "F", "p", "p_conservative", "epsilon", "partial_eta_sq", "omega_sq", "epsilon_sq"]
        return frame.astype(dict.fromkeys(numbers, float))

    def shown(self) -> pd.DataFrame:
        """The table as it is printed: degrees of freedom with those asked for, two p where there are, a residual."""
        against = self.error != "residual"
        bounded = any(row.p_conservative is not None for row in self.terms)
        names = ["term", "df", "sum of squares", "error df" if against else "mean square", "F", "p",
                 *["p conservative"] * bounded, "partial η²", f"{self.ci['level']:.0%} interval", "ω²"]  # fmt: skip
        rows = [_cells(row, against, bounded) for row in self.terms]
        residual, df = self.residual["sum_sq"], self.residual["df"]
        mean = "" if against else f"{residual / df:.5g}" if df else "–"
        last = ["residual", str(df), f"{residual:.5g}", mean]
        return pd.DataFrame([*rows, [*last, *[""] * (len(names) - len(last))]], columns=names)

    def explain(self) -> str:
        """The table in sentences, most important first."""
        lines = [self.question]
        for row in self.terms:
            if row.role != "block":
                lines.append(_sentence(row, self.response))
        lines += [c["words"] for c in self.components]
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """Effect sizes with their intervals."""
        from analysis.figures import effects

        return effects(self)


def p_text(p: float | None) -> str:
    """A p value as it is printed: never 0, an en dash when there is none."""
    if p is None:
        return "–"
    return "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0") if p < 1 else "1"


def df_text(df: float) -> str:
    """Degrees of freedom: whole ones without decimals."""
    return str(int(df)) if float(df).is_integer() else f"{df:.1f}"


def _cells(row: TermRow, against: bool, bounded: bool) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    error_df = "–" if row.F is None else df_text(row.error.df)
    ends = "–" if row.partial_eta_sq_ci is None else "{:.2f} … {:.2f}".format(*row.partial_eta_sq_ci)
    df = str(row.df) if row.estimable else f"{row.df} of {row.df_nominal}"
    return [
        row.term, df, number(row.sum_sq, ".5g"), error_df if against else number(row.mean_sq, ".5g"),
        number(row.F, ".3f"), p_text(row.p), *[p_text(row.p_conservative)] * bounded,
        number(row.partial_eta_sq, ".3f"), ends, number(row.omega_sq, ".3f"),
    ]  # fmt: skip


def _sentence(row: TermRow, response: str) -> str:
    what = {"component": "The component", "interaction": f"The interaction {row.term}"}.get(row.role, row.term)
    part = "" if row.estimable else f" ({row.df} of {row.df_nominal} degrees of freedom are estimable)"
    if row.df == 0:
        return f"{what} cannot be told apart from the other terms{part}."
    p = row.p_decisive
    if p is None or row.partial_eta_sq is None:
        return f"{what} cannot be tested: nothing is left to measure the error with{part}."
    verdict = "makes a difference to" if p < 0.05 else "shows no clear difference in"
    bound = " (lower bound)" if row.p_conservative is not None else ""
    return (
        f"{what} {verdict} {response}: F({row.df}, {df_text(row.error.df)}) = {row.F:.3g} against {row.error.term}, p "
        f"{'' if p < 1e-4 else '= '}{p_text(p)}{bound}, partial eta² = {row.partial_eta_sq:.2f}{part}."
    )
