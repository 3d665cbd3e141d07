"""Analysis of variance by comparing models, right where cells are empty.

A term's sum of squares is the difference of two least-squares fits and its degrees of freedom the difference of their
ranks, so forbidden cells, failed runs and nested blocks need no special case (Type II as in R's ``car::Anova``). What
this does not do: tests against factor × task, which a claim about new tasks needs; the table says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from adapters.faults import InputFault
from analysis import effect_sizes as es
from analysis.anova_table import AnovaTable, ErrorTerm, TermRow
from analysis.components import Connection, connect, connections
from analysis.model import Design, Term, contains, name, sum_coded
from analysis.sample import Sample, read_sample

_COMPONENT = "component of the pair"  # the sample's own column; a space in it keeps it apart from columns of a store


@dataclass(frozen=True)
class _Plan:
    """The declared model: terms in order with their roles."""

    blocks: tuple[Term, ...]
    factors: tuple[Term, ...]
    interactions: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return (*self.blocks, *self.factors, *self.interactions)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(c for t in self.terms for c in t))

    def role(self, term: Term) -> str:
        return "block" if term in self.blocks else "factor" if term in self.factors else "interaction"


def anova(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    type: int = 2,
    error: str = "auto",
    pair: tuple[str, str] | None = None,
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
        that do not contain it. 3: each after all others, in sum coding; only where the model has full rank.
    error : "auto" or "residual"
        What a term is tested against: the residual of the declared model. ``auto`` is the same.
    pair : (str, str), optional
        Two factors whose valid combinations are the real factor. Adds both, their interaction, a row ``pair`` (all
        valid combinations) and a row ``component``; both rows are adjusted for every term without the two. The rows of
        the two factors and of their interaction are then differences within components.

    Returns
    -------
    AnovaTable

    Notes
    -----
    Where two factors' cells fall into several components, a row ``component`` is there also without ``pair``: its
    degrees of freedom are not part of the two factors' own.

    Raises
    ------
    InputFault
        Columns missing, text as response, nothing to fit, fewer rows than parameters, Type III without full rank.
    """
    plan = _plan(factors, blocks, interactions, pair)
    _check_settings(type, error, plan)
    sample = read_sample(frame, response, plan.columns)
    found = connections(sample, [t[0] for t in plan.factors])
    split = connect(sample, *pair) if pair else max(found, key=lambda c: len(c.components), default=None)
    if split is not None and split.split:
        sample = replace(
            sample,
            codes={**sample.codes, _COMPONENT: split.of_row},
            levels={**sample.levels, _COMPONENT: tuple(c.name for c in split.components)},
        )
    design = Design(sample)
    nominal = {t: design.nominal_df(t, plan.terms, nested=t in plan.blocks) for t in plan.terms}
    parameters = 1 + sum(nominal[t] for t in (*plan.blocks, *plan.factors))
    if sample.n < parameters:
        raise InputFault(
            f"{sample.n} rows with a {response} are fewer than the model's {parameters} parameters "
            f"(1 mean, {', '.join(f'{nominal[t]} for {name(t)}' for t in (*plan.blocks, *plan.factors))}). "
            "Leave factors or blocks out, or run more trials."
        )
    test = _Test(design, plan, nominal, type)
    rows = [test.declared(t) for t in plan.blocks]
    if pair:
        rows.append(test.marginal("pair", "factor", pair, pair))
    if split is not None and split.split:
        rows.append(test.marginal("component", "component", (_COMPONENT,), split.factors))
    rows += [test.declared(t) for t in (*plan.factors, *plan.interactions)]
    return AnovaTable(
        response=response, n=sample.n, n_missing=sample.n_missing, type=type, error="residual",
        question=_question(frame, plan, sample), terms=tuple(rows),
        residual={"df": test.df, "sum_sq": test.sum_sq}, components=tuple(c.to_dict() for c in found),
        notes=tuple(_notes(test, rows, split, error, frame)), ci={"level": es.LEVEL, "convention": es.CONVENTION},
        residuals=test.residuals, fitted=sample.y - test.residuals,
    )  # fmt: skip


def declare(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
) -> tuple[Sample, tuple[Term, ...]]:
    """Read a frame as :func:`anova` does: the sample and the terms of the declared model."""
    plan = _plan(factors, blocks, interactions, None)
    return read_sample(frame, response, plan.columns), plan.terms


def _names(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _plan(
    factors: Sequence[str], blocks: Sequence[str], interactions: str | Sequence[str], pair: tuple[str, str] | None
) -> _Plan:
    own = [f for f in _names(factors) if not (pair and f == "pair")]
    own = list(dict.fromkeys([*(pair or ()), *own])) if pair else own
    if not own:
        raise InputFault("No factor was named; name at least one, for instance --factors input,output.")
    if len(set(own)) < len(own):
        raise InputFault(f"A factor is named twice: {', '.join(own)}.")
    block_terms = [tuple(b.split(":")) for b in _names(blocks)]
    for b in block_terms:
        both = [c for c in b if c in own]
        if both or len(set(b)) < len(b):
            why = f"{both[0]!r} is a factor already" if both else "a column is named twice"
            raise InputFault(f"The block {name(b)!r} cannot be used: {why}.")
    if len({frozenset(b) for b in block_terms}) < len(block_terms):
        raise InputFault(f"A block is named twice: {', '.join(map(name, block_terms))}.")
    if interactions == "all":
        crossed: list[Term] = list(combinations(own, 2))
    elif interactions == "none":
        crossed = []
    else:
        crossed = [_interaction(i, own) for i in _names(interactions)]
    if pair and not any(set(t) == set(pair) for t in crossed):
        crossed.append(pair)
    unique = {frozenset(t): t for t in reversed(crossed)}
    ordered = sorted((t for t in crossed if unique[frozenset(t)] is t), key=len)
    return _Plan(tuple(block_terms), tuple((f,) for f in own), tuple(ordered))


def _interaction(text: str, factors: Sequence[str]) -> Term:
    term = tuple(text.split(":"))
    strange = [c for c in term if c not in factors]
    if strange or len(term) < 2 or len(set(term)) < len(term):
        raise InputFault(
            f"The interaction {text!r} cannot be used: it must join different factors with ':' "
            f"(factors: {', '.join(factors)}), or be 'none' or 'all'."
        )
    return term


def _check_settings(type: int, error: str, plan: _Plan) -> None:
    if type not in (1, 2, 3):
        raise InputFault(f"The type of sums of squares is 1, 2 or 3, not {type!r}.")
    if error in ("auto", "residual"):
        return
    if error in [name(b) for b in plan.blocks]:
        raise InputFault(
            f"Testing against factor × {error} is not offered yet. Allowed: 'residual' or 'auto', which answer for the "
            f"levels of {error} that were run, not for new ones."
        )
    raise InputFault(f"The error term {error!r} is neither 'auto' nor 'residual'.")


class _Test:
    """The comparisons of one table: all against the residual of the declared model."""

    def __init__(self, design: Design, plan: _Plan, nominal: dict[Term, int], type: int) -> None:
        self.design, self.plan, self.nominal, self.type = design, plan, nominal, type
        sample = design.sample
        self.full = design.space(plan.terms)
        self.y = sample.y - sample.y.mean()
        self.residuals = self.full.residuals(self.y)
        self.df = sample.n - self.full.rank
        self.sum_sq = float(self.residuals @ self.residuals) if self.df else 0.0
        # A sum of squares below what rounding of the response itself can make is none at all.
        self.noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
        self.mean_sq = self.sum_sq / self.df if self.df else None
        self.testable = self.mean_sq is not None and self.sum_sq > self.noise
        self.raw_negative: list[str] = []
        if type == 3 and self.full.rank < 1 + sum(nominal.values()):
            raise InputFault(
                f"Type III needs every cell of the model filled: it has {1 + sum(nominal.values())} parameters, of "
                f"which the rows determine {self.full.rank}. With empty cells there is no unique hypothesis; "
                "use --type 2."
            )
        self.coded = {t: sum_coded(sample, t) for t in plan.terms} if type == 3 else {}
        if type == 3 and any(self.coded[t].shape[1] != nominal[t] for t in plan.terms):
            raise InputFault("Type III needs crossed terms with all their margins in the model; use --type 2.")

    def declared(self, term: Term) -> TermRow:
        """The row of a declared term, by the table's type."""
        terms = self.plan.terms
        role = self.plan.role(term)
        if self.type == 3:
            return self._row(name(term), role, self.nominal[term], self._drop(term), self.nominal[term], ())
        others = terms[: terms.index(term)] if self.type == 1 else [t for t in terms if not contains(t, term)]
        return self._compare(name(term), role, term, others, self.nominal[term])

    def marginal(self, label: str, role: str, term: Term, without: tuple[str, str]) -> TermRow:
        """A row adjusted for the terms that have neither of two factors."""
        others = [t for t in self.plan.terms if not set(t) & set(without)]
        cells = self.design.sample.cells(term).count
        return self._compare(label, role, term, others, cells - 1)

    def _compare(self, label: str, role: str, term: Term, others: Iterable[Term], nominal: int) -> TermRow:
        others = list(others)
        small, large = self.design.space(others), self.design.space([*others, term])
        df = large.rank - small.rank
        change = small.residuals(self.y) - large.residuals(self.y) if df else np.zeros(1)
        aliased = self.design.aliased(term, others, nominal - df) if df < nominal else []
        return self._row(label, role, df, float(change @ change), nominal, aliased)

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
        self, label: str, role: str, df: int, sum_sq: float, nominal: int, aliased: Sequence[str]
    ) -> TermRow:  # fmt: skip
        mean_sq = sum_sq / df if df else None
        values: dict[str, Any] = dict.fromkeys(
            ["F", "p", "partial_eta_sq", "partial_eta_sq_ci", "omega_sq", "epsilon_sq"]
        )
        if mean_sq is not None and self.testable and self.mean_sq is not None:
            f = mean_sq / self.mean_sq
            omega, epsilon = es.omega_sq(f, df, self.df), es.epsilon_sq(f, df, self.df)
            if omega < 0:
                self.raw_negative.append(f"{label} omega² {omega:.4f}, epsilon² {epsilon:.4f}")
            values = {
                "F": f, "p": float(f_distribution.sf(f, df, self.df)),
                "partial_eta_sq": es.partial_eta_sq(f, df, self.df),
                "partial_eta_sq_ci": es.partial_eta_sq_interval(f, df, self.df),
                "omega_sq": max(0.0, omega), "epsilon_sq": max(0.0, epsilon),
            }  # fmt: skip
        return TermRow(
            term=label, role=role, df=df, df_nominal=nominal, sum_sq=sum_sq if df else 0.0, mean_sq=mean_sq,
            p_conservative=None, epsilon=None, error=ErrorTerm("residual", self.df, self.mean_sq),
            estimable=df == nominal, aliased=tuple(aliased), **values,
        )  # fmt: skip


def _question(frame: pd.DataFrame, plan: _Plan, sample: Sample) -> str:
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
    test: _Test, rows: Sequence[TermRow], split: Connection | None, error: str, frame: pd.DataFrame
) -> Iterable[str]:
    columns = test.design.sample.levels
    if error == "auto":
        new = "; it answers on these tasks, not on new tasks" if len(columns.get("task", ())) >= 2 else ""
        yield f"Error 'auto' was taken as 'residual': the residual of the declared model, nothing added{new}."
    if "task" in frame.columns and frame["task"].nunique() >= 2 and "task" not in columns:
        yield "The rows come from several tasks and task is not a block: differences between tasks are in the residual."
    if split is not None and split.split:
        a, b = split.factors
        yield (
            f"component compares the {len(split.components)} components as wholes, adjusted for every term without {a} "
            f"and {b}; the rows of {a}, {b} and {a}:{b} are differences within components."
        )
    for column, levels in columns.items():
        if len(levels) == 1:
            yield f"{column} has the single level {levels[0]!r}: it has no effect to test."
    if test.df == 0:
        yield "The model uses up every degree of freedom: no residual is left, so nothing can be tested."
    elif not test.testable:
        yield "The model reproduces the response exactly: there is no residual to test against."
    if test.raw_negative:
        yield "Negative estimates are given as 0; raw: " + "; ".join(test.raw_negative) + "."
