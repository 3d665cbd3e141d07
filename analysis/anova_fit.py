"""Analysis of variance by comparing models, right where cells are empty.

A term's sum of squares is the difference of two least-squares fits and its degrees of freedom the difference of their
ranks, so forbidden cells, failed runs and nested blocks need no special case (Type II as in R's ``car::Anova``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from adapters.faults import InputFault
from analysis import effect_sizes as es
from analysis.anova_table import AnovaTable, ErrorTerm, TermRow
from analysis.components import Connection, connect, connections
from analysis.declared import AUTO, RESIDUAL, Declared, declared
from analysis.model import Design, Space, Term, contains, name, sum_coded
from analysis.sample import Sample
from analysis.sphericity import constant_within, epsilon
from analysis.strata import Strata, with_block

COMPONENT = "component of the pair"  # the sample's own column; a space in it keeps it apart from columns of a store


def anova(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    type: int = 2,
    error: str = AUTO,
    pair: tuple[str, str] | None = None,
    nested: Mapping[str, str] | None = None,
) -> AnovaTable:
    """Analysis of variance of a response on categorical factors, any cell of which may be empty.

    Parameters
    ----------
    frame : DataFrame
        One row an observation; rows whose response is missing are counted and left out.
    response : str
        A numeric column.
    factors : sequence of str
        Columns whose effect is asked for; every value is a level.
    blocks : sequence of str
        Columns, or combinations such as ``task:seed``, whose effect is taken out first.
    interactions : "none", "all" or a sequence such as ``["input:output"]``
        ``all`` means all two-way interactions of the factors.
    type : 1, 2 or 3
        1: each term after those before it (blocks, factors, interactions, in the order given). 2: each term after all
        that do not contain it. 3: each after all others, in sum coding; only where the model has full rank, and only
        against the residual.
    error : "auto", "residual" or the name of a block
        What a term is tested against, and so what the answer holds for. ``residual``: what the declared model leaves;
        for these tasks. A block, say ``task``: the term's interaction with it, which is added to the model for every
        declared term; for new tasks too. ``auto``: ``task`` when it is a declared block of two levels or more, else
        the residual.
    pair : (str, str), optional
        Two factors whose valid combinations are the real factor. Adds both, their interaction, a row ``pair`` (all
        valid combinations) and a row ``component``; both rows are adjusted for every term without the two. The rows of
        the two factors and of their interaction are then differences within components.
    nested : mapping of str to str, optional
        Factors that exist under some levels of another only, with that other: ``{"rank": "method"}``. They are tested
        within its levels, in a row ``rank(method)``, and may be missing where they do not exist.

    Returns
    -------
    AnovaTable

    Notes
    -----
    Where two factors' cells fall into several components, a row ``component`` is there also without ``pair``: its
    degrees of freedom are not part of the two factors' own.

    Tests against ``T:task`` on rows that are not balanced use a combination of mean squares and are marked
    approximate. Several degrees of freedom are Greenhouse-Geisser corrected where there are tasks enough; where there
    are not, ``p`` holds only if all differences vary equally from task to task, and ``p_conservative`` always.

    Raises
    ------
    InputFault
        Columns missing, text as response, nothing to fit, fewer rows than parameters, Type III without full rank.
    """
    plan = declared(factors, blocks, interactions, pair, nested)
    if type not in (1, 2, 3):
        raise InputFault(f"The type of sums of squares is 1, 2 or 3, not {type!r}.")
    sample = plan.read(frame, response)
    block = plan.error_block(error, sample)
    if type == 3 and block is not None:
        raise InputFault(
            f"Type III is offered against the residual only: use --error residual, or --type 2 to test against "
            f"factor × {name(block)}."
        )
    found = connections(sample, [t[0] for t in plan.factors if len(t) == 1])
    split = connect(sample, *pair) if pair else max(found, key=lambda c: len(c.components), default=None)
    if split is not None and split.split:
        sample = replace(
            sample,
            codes={**sample.codes, COMPONENT: split.of_row},
            levels={**sample.levels, COMPONENT: tuple(c.name for c in split.components)},
        )
    test = Comparisons(Design(sample), plan, type, block)
    rows = test.rows(pair, split.factors if split is not None and split.split else None)
    residual = test.strata
    return AnovaTable(
        response=response, n=sample.n, n_missing=sample.n_missing, type=type, error=name(block) if block else RESIDUAL,
        question=_question(frame, plan, sample, block), terms=tuple(rows),
        residual={"df": residual.df, "sum_sq": residual.sum_sq}, components=tuple(c.to_dict() for c in found),
        notes=tuple(_notes(test, rows, split, error, frame)), ci={"level": es.LEVEL, "convention": es.CONVENTION},
        residuals=test.residuals, fitted=sample.y - test.residuals,
    )  # fmt: skip


class Comparisons:
    """The comparisons of one table.

    Parameters
    ----------
    design
        The models of the sample; where two factors are split, it has the column ``COMPONENT``.
    plan
        The declared model.
    type
        Of the sums of squares.
    block
        What terms are tested by their interaction with; None for the residual.
    """

    def __init__(self, design: Design, plan: Declared, type: int, block: Term | None) -> None:
        self.design, self.plan, self.type, self.block = design, plan, type, block
        sample = design.sample
        self.y = sample.y - sample.y.mean()
        terms = plan.terms
        self.nominal = {
            t: design.nominal_df(t, terms, nested=t in plan.blocks or t in plan.factors and len(t) > 1) for t in terms
        }
        self._check_size()
        full = design.space(terms)
        self.residuals = full.residuals(self.y)
        self.strata = self._strata(terms)
        # A sum of squares below what rounding of the response itself can make is none at all.
        self.noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
        self.raw_negative: list[str] = []
        if type == 3 and full.rank < 1 + sum(self.nominal.values()):
            raise InputFault(
                f"Type III needs every cell of the model filled: it has {1 + sum(self.nominal.values())} parameters, "
                f"of which the rows determine {full.rank}. With empty cells there is no unique hypothesis; "
                "use --type 2."
            )
        self.coded = {t: sum_coded(sample, t) for t in terms} if type == 3 else {}
        if type == 3 and any(self.coded[t].shape[1] != self.nominal[t] for t in terms):
            raise InputFault("Type III needs crossed terms with all their margins in the model; use --type 2.")

    def _check_size(self) -> None:
        main = {t: self.nominal[t] for t in (*self.plan.blocks, *self.plan.factors)}
        parameters, sample = 1 + sum(main.values()), self.design.sample
        if sample.n < parameters:
            raise InputFault(
                f"{sample.n} rows with a {sample.response} are fewer than the model's {parameters} parameters "
                f"(1 mean, {', '.join(f'{df} for {self.plan.label(t)}' for t, df in main.items())}). "
                "Leave factors or blocks out, or run more trials."
            )

    def rows(self, pair: tuple[str, str] | None, split: tuple[str, str] | None) -> list[TermRow]:
        """The rows of the table: blocks, pair, component, factors, interactions."""
        rows = [self.declared(t) for t in self.plan.blocks]
        if pair:
            rows.append(self.marginal("pair", "factor", pair, pair))
        if split:
            rows.append(self.marginal("component", "component", (COMPONENT,), split))
        return rows + [self.declared(t) for t in (*self.plan.factors, *self.plan.interactions)]

    def _within(self, term: Term) -> Term:
        """The columns of a term that differ within blocks; all of them when nothing is tested against a block."""
        if self.block is None:
            return term
        return tuple(c for c in term if not constant_within(self.design.sample, (c,), self.block))

    def _strata(self, terms: Sequence[Term], whole: Sequence[Term] | None = None) -> Strata:
        """The strata of a model. A term that differs between blocks only varies by the blocks themselves."""
        if self.block is None:
            return Strata(self.design, self.y, terms, (), whole)
        asked = [t for t in terms if t not in self.plan.blocks]
        random = with_block([self._within(t) for t in asked], self.block)
        fixed = [t for t in terms if set(t) not in map(set, random)]
        return Strata(self.design, self.y, fixed, random, whole)

    def _holds(self, big: Term, small: Term) -> bool:
        """Whether the space of one term holds another's: what is the same within blocks is in their space too."""
        if self.block is not None and contains(big, self.block):
            return contains(big, self._within(small))
        return contains(big, small)

    def declared(self, term: Term) -> TermRow:
        """The row of a declared term, by the table's type."""
        role, label, terms = self.plan.role(term), self.plan.label(term), self.plan.terms
        if self.type == 3:
            error = self.strata.error({})
            return self._row(label, role, self.nominal[term], self._drop(term), self.nominal[term], (), error)
        holds = contains if role == "block" else self._holds
        given = terms[: terms.index(term)] if self.type == 1 else self.strata.terms
        others = [t for t in given if not holds(t, term)]
        return self._compare(label, role, term, others, self.nominal[term], self.strata, terms)

    def marginal(self, label: str, role: str, term: Term, without: tuple[str, str]) -> TermRow:
        """A row adjusted for the terms that have neither of two factors."""
        apart = [t for t in self.plan.terms if not set(t) & set(without)]
        inside = [t for t in self.plan.terms if set(t) <= set(without)]
        fixed = [*(t for t in self.plan.terms if t not in inside), term]
        strata = self._strata(fixed, self.strata.terms)
        if self.block is not None:
            # As the row itself, its interaction with the block is adjusted for no random term with one of the two:
            # input:backbone:task has all that is in input:task, and would leave nothing of it to pair:task.
            own = with_block([self._within(term)], self.block)[0]
            given = [*strata.fixed, *(t for t in strata.random if not set(t) & {*without, *term})]
            strata = Strata(self.design, self.y, strata.fixed, strata.random, self.strata.terms, {own: given})
        others = [t for t in strata.terms if not set(t) & {*without, *term}]
        nominal = self.design.sample.cells(term).count - 1
        return self._compare(label, role, term, others, nominal, strata, [*apart, term])

    def _compare(
        self, label: str, role: str, term: Term, others: Iterable[Term], nominal: int, strata: Strata,
        model: Sequence[Term],
    ) -> TermRow:  # fmt: skip
        others = list(others)
        small, large = self.design.space(others), self.design.space([*others, term])
        df = large.rank - small.rank
        if not df:
            aliased = self._aliased(term, others, nominal)
            return self._row(label, role, 0, 0.0, nominal, aliased, ErrorTerm(RESIDUAL, strata.df, None))
        change = small.residuals(self.y) - large.residuals(self.y)
        aliased = self._aliased(term, others, nominal - df) if df < nominal else []
        if role == "block" and self.block is not None:
            error, spherical = ErrorTerm(RESIDUAL, strata.df, None), None
        else:
            error = strata.error(strata.loads_between(small, large, df))
            spherical = self._spherical(term, small, df, model, error)
        return self._row(label, role, df, float(change @ change), nominal, aliased, error, spherical)

    def _aliased(self, term: Term, others: list[Term], missing: int) -> list[str]:
        known = "aliased", term, tuple(others)
        return self.design.once(known, lambda: self.design.aliased(term, others, missing))

    def _spherical(
        self, term: Term, small: Space, df: int, model: Sequence[Term], error: ErrorTerm
    ) -> float | None:  # fmt: skip
        """ε of a term; 1 where it needs none, None where it is not known."""
        within = self._within(term)
        if self.block is None or error.term == RESIDUAL or not within:
            return 1.0
        if within != term:  # its effects differ from block to block as those of what differs within blocks do
            small = self.design.space(t for t in self.strata.terms if not self._holds(t, within))
            df = self.design.space([*small.terms, within]).rank - small.rank
        return 1.0 if df == 1 else epsilon(self.design, self.y, within, small, df, model, self.block)

    def _drop(self, term: Term) -> float:
        """Type III: what the fit loses without the term's own sum-coded columns."""
        kept = [np.ones((len(self.y), 1)), *(c for t, c in self.coded.items() if t != term)]
        basis = np.linalg.qr(np.hstack(kept))[0]
        left = self.y
        for _ in range(2):
            left = left - basis @ (basis.T @ left)
        change = left - self.residuals
        return float(change @ change)

    def _row(
        self, label: str, role: str, df: int, sum_sq: float, nominal: int, aliased: Sequence[str], error: ErrorTerm,
        spherical: float | None = 1.0,
    ) -> TermRow:  # fmt: skip
        mean_sq = sum_sq / df if df else None
        values: dict[str, Any] = dict.fromkeys(
            ["F", "p", "p_conservative", "epsilon", "partial_eta_sq", "partial_eta_sq_ci", "omega_sq", "epsilon_sq"]
        )
        if mean_sq is not None and error.mean_sq is not None and error.mean_sq * error.df > self.noise:
            f = mean_sq / error.mean_sq
            omega, shrunk = es.omega_sq(f, df, error.df), es.epsilon_sq(f, df, error.df)
            if omega < 0:
                self.raw_negative.append(f"{label} omega² {omega:.4f}, epsilon² {shrunk:.4f}")
            factor = 1.0 if spherical is None else spherical
            p = float(f_distribution.sf(f, factor * df, factor * error.df))
            # Where F is below 1 the lower bound of the degrees of freedom gives the smaller p.
            bound = None if spherical is not None else max(p, float(f_distribution.sf(f, 1, error.df / df)))
            values = {
                "F": f, "p": p, "p_conservative": bound,
                "epsilon": None if spherical == 1.0 else spherical,
                "partial_eta_sq": es.partial_eta_sq(f, df, error.df),
                "partial_eta_sq_ci": es.partial_eta_sq_interval(f, df, error.df),
                "omega_sq": max(0.0, omega), "epsilon_sq": max(0.0, shrunk),
            }  # fmt: skip
        return TermRow(
            term=label, role=role, df=df, df_nominal=nominal, sum_sq=sum_sq if df else 0.0, mean_sq=mean_sq,
            error=replace(error, term=error.term.replace(COMPONENT, "component")), estimable=df == nominal,
            aliased=tuple(aliased), **values,
        )  # fmt: skip


def _question(frame: pd.DataFrame, plan: Declared, sample: Sample, block: Term | None) -> str:
    if block is not None:
        label, count = name(block), sample.cells(block).count
        return (
            f"Which settings differ in {sample.response} on new levels of {label}, of which these {count} are a "
            f"sample? Every term is tested against its interaction with {label}."
        )
    tasks = 0
    if "task" in sample.levels:
        tasks = len(sample.levels["task"])
    elif "task" in frame.columns:
        tasks = frame.loc[frame[sample.response].notna(), "task"].nunique()
    if tasks >= 2:
        return (
            f"Which settings differ in {sample.response} on these {tasks} tasks? The error is the residual, so the "
            "answer holds on these tasks, not on new tasks."
        )
    return (
        f"Which settings differ in {sample.response} under the conditions of these runs? The error is the residual, so "
        "the answer holds for repetitions of what was run here."
    )


def _notes(
    test: Comparisons, rows: Sequence[TermRow], split: Connection | None, error: str, frame: pd.DataFrame
) -> Iterable[str]:
    columns, block, strata = test.design.sample.levels, test.block, test.strata
    if error == AUTO:
        if block is None:
            yield "Error 'auto' was taken as 'residual': the residual of the declared model, nothing added."
        else:
            yield f"Error 'auto' was taken as '{name(block)}'; --error residual answers for these tasks alone."
    if "task" in frame.columns and frame["task"].nunique() >= 2 and "task" not in columns:
        yield "The rows come from several tasks and task is not a block: differences between tasks are in the residual."
    if split is not None and split.split:
        a, b = split.factors
        yield (
            f"component compares the {len(split.components)} components as wholes, adjusted for every term without {a} "
            f"and {b}; the rows of {a}, {b} and {a}:{b} are differences within components."
        )
    copies = _copies(frame, test.design.sample)
    if copies:
        yield (
            f"{copies} rows are copies of others in every column. If runs were entered twice, leave the copies out: "
            "with them p is too small."
        )
    for column, levels in columns.items():
        if len(levels) == 1:
            yield f"{column} has the single level {levels[0]!r}: it has no effect to test."
    if block is None and strata.df == 0:
        yield "The model uses up every degree of freedom: no residual is left, so nothing can be tested."
    elif block is None and strata.sum_sq <= test.noise:
        yield "The model reproduces the response exactly: there is no residual to test against."
    if block is not None:
        yield from _notes_on_error(rows, name(block))
    below = [row.term for row in rows if row.partial_eta_sq_ci and row.partial_eta_sq_ci[1] < (row.partial_eta_sq or 0)]
    if below:
        yield (
            f"The interval of {', '.join(below)} ends below its partial eta²: F is so small that hardly any effect "
            "explains it, and eta² is above 0 by chance alone."
        )
    if test.raw_negative:
        yield "Negative estimates are given as 0; raw: " + "; ".join(test.raw_negative) + "."


def _copies(frame: pd.DataFrame, sample: Sample) -> int:
    """Count rows that repeat another one exactly."""
    told = pd.DataFrame({"point": sample.points.of_row, "y": sample.y})
    if not told.duplicated().any():  # what is compared is a small part of the columns
        return 0
    return int(frame[frame[sample.response].notna()].astype(str).duplicated().sum())


def _notes_on_error(rows: Sequence[TermRow], block: str) -> Iterable[str]:
    asked = [row for row in rows if row.role != "block" and row.df]
    untested = [row.term for row in asked if row.F is None]
    if untested:
        yield (
            f"Not tested, because the rows do not tell how much they vary with {block}: {', '.join(untested)}. "
            "--error residual answers for these levels alone."
        )
    bounded = [row.term for row in asked if row.p_conservative is not None]
    if bounded:
        yield (
            f"p of {', '.join(bounded)} holds only if all differences vary equally with {block}, which cannot be seen "
            f"here (it needs as many levels of {block} as degrees of freedom and one more, with every cell filled); "
            "p_conservative, the Greenhouse-Geisser lower bound, holds always and decides here."
        )
    corrected = [f"{row.term} {row.epsilon:.2f}" for row in asked if row.epsilon is not None]
    if corrected:
        yield f"p is Greenhouse-Geisser corrected; epsilon: {', '.join(corrected)}."
    rough = [row.term for row in asked if row.error.approximate]
    if rough:
        yield (
            f"Approximate, since the rows are not balanced: the error of {', '.join(rough)} is combined from several "
            "mean squares (Satterthwaite)."
        )
