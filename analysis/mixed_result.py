"""What a mixed model says: tests of its fixed terms, variances of its random ones, means and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.anova_table import df_text
from analysis.declared import Declared, names
from analysis.linear import Fit
from analysis.means import LEVEL, with_interval
from analysis.plain import or_none, p_is
from analysis.reml import Reml
from analysis.result import Result
from analysis.sample import Sample


@dataclass(frozen=True)
class FixedTerm:
    """The test of a fixed term.

    Attributes
    ----------
    role : str
        ``block``, ``factor`` or ``interaction``.
    df, df_nominal : int
        Estimable degrees of freedom, and those with every cell filled.
    F, p : float or None
        None where the term is aliased with others.
    df_error : float or None
        Satterthwaite's denominator degrees of freedom.
    """

    term: str
    role: str
    df: int
    df_nominal: int
    F: float | None
    df_error: float | None
    p: float | None

    @property
    def estimable(self) -> bool:
        """Whether all nominal degrees of freedom are estimable."""
        return self.df == self.df_nominal


@dataclass(frozen=True)
class RandomTerm:
    """A variance.

    Attributes
    ----------
    levels : int or None
        Number of levels drawn; None for the residual.
    variance, sd : float
        In the response's units, squared and plain; exactly 0 at the boundary.
    se : float
        Asymptotic standard error of the variance; NaN at the boundary. Rough with few levels.
    lrt, p : float or None
        By how much the REML criterion rises without the term, and its p against χ² with 1 degree of freedom, which is
        conservative because a variance cannot be negative (as lmerTest's ranova).
    """

    term: str
    levels: int | None
    variance: float
    sd: float
    se: float
    lrt: float | None
    p: float | None


@dataclass(frozen=True)
class Fitted:
    """What further questions are answered from; not part of what is shown."""

    reml: Reml
    sample: Sample
    plan: Declared
    factors: tuple[str, ...]


@dataclass(frozen=True)
class MixedResult(Result):
    """A mixed model.

    Attributes
    ----------
    type : int
        Of the hypotheses of the fixed terms, as :func:`mixed` says.
    criterion : float
        REML criterion, see :class:`analysis.reml.Reml`.
    singular : str or None
        In words, which variances are estimated as 0; None when all are positive.
    """

    response: str
    n: int
    n_missing: int
    type: int
    fixed: tuple[FixedTerm, ...]
    random: tuple[RandomTerm, ...]
    criterion: float
    singular: str | None
    notes: tuple[str, ...]
    fitted: Fitted = field(repr=False, compare=False)

    def __getitem__(self, term: str) -> FixedTerm:
        """The test of one fixed term, by name."""
        for row in self.fixed:
            if row.term == term:
                return row
        raise KeyError(f"no term {term!r} in the model; it has {', '.join(r.term for r in self.fixed)}")

    @property
    def variances(self) -> dict[str, float]:
        """Variance of each random term and of the residual."""
        return {row.term: row.variance for row in self.random}

    def to_frame(self) -> pd.DataFrame:
        """The tests of the fixed terms, a row each."""
        frame = pd.DataFrame([{**asdict(row), "estimable": row.estimable} for row in self.fixed])
        return frame.astype(dict.fromkeys(["F", "df_error", "p"], float)) if len(frame) else frame

    def variances_frame(self) -> pd.DataFrame:
        """The variances, a row each; the residual is last."""
        return pd.DataFrame([asdict(row) for row in self.random]).astype({"lrt": float, "p": float})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "response": self.response, "n": self.n, "n_missing": self.n_missing, "type": self.type,
            "fixed": [{**asdict(row), "estimable": row.estimable} for row in self.fixed],
            "random": [{k: or_none(v) for k, v in asdict(row).items()} for row in self.random],
            "criterion": self.criterion, "singular": self.singular, "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """The model in sentences."""
        drawn = ", ".join(f"{row.term} ({row.levels} levels)" for row in self.random if row.levels is not None)
        lines = [f"Which settings differ in {self.response} when what was drawn at random, {drawn}, is drawn anew?"]
        lines += [_sentence(row, self.response) for row in self.fixed if row.role != "block"]
        parts = ", ".join(f"{row.term} {row.variance:.4g} (SD {row.sd:.3g})" for row in self.random)
        lines.append(f"Variances by restricted maximum likelihood: {parts}.")
        if self.singular:
            lines.append(self.singular)
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def means(self, of: str | Sequence[str], over: str = "cells", level: float = LEVEL) -> pd.DataFrame:
        """Means of factor levels with Satterthwaite intervals, random terms being drawn anew.

        Parameters and columns as in :func:`analysis.marginal_means`. The variance of tasks themselves is in the
        standard error of a mean; it is not in that of a difference between means, for which see :meth:`differences`.

        Raises
        ------
        InputFault
            ``of`` is not among the factors, or ``over`` is unknown.
        """
        labels, weights, count = self._weights(names(of), over)
        out = pd.DataFrame(labels)
        out["n"] = count
        return with_interval(self._estimate(out, weights, "mean"), "mean", level)

    def differences(self, of: str | Sequence[str], over: str = "cells", level: float = LEVEL) -> pd.DataFrame:
        """Differences of all pairs of levels, each with its own standard error and p, unadjusted for their number.

        Returns
        -------
        DataFrame
            Columns a, b, n (rows of both), difference (a − b), se, df, lower, upper, p, estimable.
        """
        labels, weights, count = self._weights(names(of), over)
        pairs = [(i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))]
        named = [":".join(label.values()) for label in labels]
        out = pd.DataFrame({"a": [named[i] for i, _ in pairs], "b": [named[j] for _, j in pairs]})
        out["n"] = [int(count[i] + count[j]) for i, j in pairs]
        rows = np.array([weights[i] - weights[j] for i, j in pairs]).reshape(len(pairs), self.n)
        out = self._estimate(out, rows, "difference")
        out["p"] = 2 * t_distribution.sf(np.abs(out["difference"]) / out["se"], out["df"])
        return with_interval(out, "difference", level)

    def _weights(self, of: list[str], over: str) -> tuple[list[dict[str, str]], np.ndarray, np.ndarray]:
        sample, plan, factors = self.fitted.sample, self.fitted.plan, self.fitted.factors
        if over not in ("cells", "levels"):
            raise InputFault(f"Means are taken over 'cells' or 'levels', not {over!r}.")
        strange = [c for c in of if c not in factors]
        if strange or not of:
            raise InputFault(f"{', '.join(strange) or 'Nothing'} is not among the factors {', '.join(factors)}.")
        fit = Fit(sample, plan)
        columns = np.zeros((sample.n, fit.width))
        for term in fit.terms:
            columns[np.arange(sample.n), fit.start[term] + sample.cells(term).codes] = 1.0
        cells = sample.cells(tuple(of))
        weights = np.full((cells.count, sample.n), np.nan)
        for k, key in enumerate(cells.levels):
            wanted = fit.weights(of, key, factors, over)
            if wanted is None:
                continue
            row = np.linalg.lstsq(columns.T, wanted, rcond=1e-10)[0]
            if np.linalg.norm(columns.T @ row - wanted) <= 1e-7 * np.linalg.norm(wanted):
                weights[k] = row
        labels = [{c: sample.levels[c][i] for c, i in zip(of, key, strict=True)} for key in cells.levels]
        return labels, weights, np.bincount(cells.codes, minlength=cells.count)

    def _estimate(self, out: pd.DataFrame, weights: np.ndarray, column: str) -> pd.DataFrame:
        known = ~np.isnan(weights).any(axis=1)
        out["estimable"] = known
        out[[column, "se", "df"]] = np.nan
        if known.any():
            found = self.fitted.reml.functions(weights[known])
            out.loc[known, column] = found.value
            out.loc[known, "se"] = np.sqrt(np.diag(found.covariance))
            out.loc[known, "df"] = found.df(np.eye(int(known.sum())))
        return out


def _sentence(row: FixedTerm, response: str) -> str:
    what = f"The interaction {row.term}" if row.role == "interaction" else row.term
    if row.F is None or row.p is None or row.df_error is None:
        return f"{what} cannot be told apart from the other terms (0 of {row.df_nominal} df are estimable)."
    verdict = "makes a difference to" if row.p < 0.05 else "shows no clear difference in"
    return f"{what} {verdict} {response}: F({row.df}, {df_text(row.df_error)}) = {row.F:.3g}, p {p_is(row.p)}."
