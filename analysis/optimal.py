"""D-optimal subsets: which of the valid cells to run when there are too many for all of them.

The candidates are an explicit list, so forbidden cells, components and nested factors need no special case. The model
is taken as far as all candidates determine it, its functions orthonormal over them, so that their moment matrix is the
identity and a subset's determinant is its efficiency. That ratio is the same in every coding, sum to zero or other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.declared import Declared, declared
from analysis.exchange import log_det, search, shuffled
from analysis.model import Design, Term, contains, cross_counts, maximal, name
from analysis.result import Result
from analysis.sample import Sample, check_columns

RANDOM = 100
"""Random subsets that a chosen one is compared with."""

_RESPONSE = "response of the cells"  # a space in it keeps it apart from columns of a store
_ZERO = 1e-9  # an eigenvalue that is 0 but for rounding, as in `analysis.model`
_NO_BIAS = 1e-8
_SHOWN = 6  # aliased cells or columns named in a sentence


@dataclass(frozen=True)
class TermStatus:
    """What the chosen cells say of a term.

    Attributes
    ----------
    role : {"factor", "interaction", "not declared"}
        `not declared`: an interaction of two factors that is left out of the model.
    df, df_all, df_nominal : int
        Degrees of freedom on the chosen cells; on all cells; and if every combination of levels could be run. For an
        interaction that was not declared: if it alone were added to the model.
    efficiency : float or None
        Of a declared term: the D-efficiency of its own parameters, adjusted for every term that does not contain it,
        for each run, relative to all cells. None without degrees of freedom.
    aliased : tuple of str
        What takes the degrees of freedom that are missing from the nominal ones of a declared term.
    biases : dict of str to float
        Of an interaction that was not declared: by how much, at worst, each declared term's effects are off (root mean
        square over all cells), if there is such an interaction with a root mean square of 1 over all cells.
    """

    term: str
    role: str
    df: int
    df_all: int
    df_nominal: int
    efficiency: float | None = None
    aliased: tuple[str, ...] = ()
    biases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RandomSubsets:
    """Subsets of the same size drawn at random, for comparison.

    Attributes
    ----------
    count : int
    singular : int
        How many do not determine the model; their efficiency is 0.
    median, best : float
        Their D-efficiency relative to the chosen subset's.
    """

    count: int
    singular: int
    median: float
    best: float


@dataclass(frozen=True, eq=False)
class Subset(Result):
    """Chosen cells and what they are worth.

    Attributes
    ----------
    rows : DataFrame
        The chosen rows of the cells that were given, with their index, in their order.
    cells : int
        How many cells there were to choose from.
    model : str
        In words.
    parameters : int
        Of the model, the mean included, as far as all cells determine them; the chosen cells determine as many.
    efficiency : float
        (\\|X'X\\| / n^p)^(1/p) of the chosen cells over that of all cells. Above 1 where all cells, taken together, are
        less well balanced than a part of them can be.
    random : RandomSubsets or None
        None if all cells are taken.
    starts, seed : int
        `starts` is 0 if all cells are taken.
    terms : tuple of TermStatus
        Factors, interactions, then the interactions that were not declared.
    """

    rows: pd.DataFrame
    cells: int
    model: str
    parameters: int
    efficiency: float
    random: RandomSubsets | None
    starts: int
    seed: int
    terms: tuple[TermStatus, ...]

    @property
    def size(self) -> int:
        """How many cells are chosen."""
        return len(self.rows)

    @property
    def residual_df(self) -> int:
        """Degrees of freedom that the model leaves when each chosen cell is run once."""
        return self.size - self.parameters

    def to_frame(self) -> pd.DataFrame:
        """A row a term, with the attributes of `TermStatus`."""
        return pd.DataFrame([asdict(term) for term in self.terms])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `rows` holds the index of the chosen cells."""
        same = ("size", "cells", "model", "parameters", "residual_df", "efficiency")
        return {
            **{key: getattr(self, key) for key in same},
            "random": asdict(self.random) if self.random else None, "starts": self.starts, "seed": self.seed,
            "rows": self.rows.index.tolist(), "terms": [{**asdict(t), "aliased": list(t.aliased)} for t in self.terms],
        }  # fmt: skip

    def explain(self) -> str:
        """What was chosen, what it is worth, what stays estimable and what undeclared interactions would do."""
        return "\n".join([self._chosen(), self._estimable(), *self._undeclared()])

    def _chosen(self) -> str:
        if self.random is None:
            return f"All {self.cells} cells are taken, so that nothing had to be chosen, for the {self.model}."
        random = self.random
        told = (
            f"{self.size} of {self.cells} cells were chosen, D-optimal for the {self.model}, by exchange from "
            f"{_several(self.starts, 'random start')} (seed {self.seed}). For each run they determine its "
            f"{self.parameters} parameters {self.efficiency:.2f} times as well as all cells together (D-efficiency). "
            f"Of {random.count} random subsets of this size the median reaches {random.median:.2f} of that and the "
            f"best {random.best:.2f}"
        )
        if random.singular:
            told += f"; {random.singular} of them leave parameters undetermined and count as 0"
        return f"{told}."

    def _estimable(self) -> str:
        verb = "stay" if self.random else "are"
        told = [f"All {_several(self.parameters, 'parameter')} that the cells determine {verb} estimable."]
        left, verb = _several(self.residual_df, "degree"), "remains" if self.residual_df == 1 else "remain"
        told.append(f"{left} of freedom {verb} for the error if each cell is run once.")
        told += [
            f"{term.term} has {term.df} of {term.df_nominal} nominal degrees of freedom, as on all cells; aliased: "
            f"{_first(term.aliased)}."
            for term in self.terms
            if term.role != "not declared" and term.df < term.df_nominal
        ]
        return " ".join(told)

    def _undeclared(self) -> list[str]:
        told = []
        for term in (term for term in self.terms if term.role == "not declared"):
            line = (
                f"{term.term} is not in the model: {term.df} of the {_several(term.df_all, 'degree')} of freedom that "
                "all cells have for it could be added"
            )
            label, bias = max(term.biases.items(), key=lambda item: item[1], default=("", 0.0))
            if bias >= 0.005:
                line += f"; if it is there, it makes the effects of {label} wrong by up to {bias:.2f} times its size"
            told.append(f"{line}.")
        return told


def subset(
    cells: pd.DataFrame,
    size: int,
    factors: Sequence[str] | None = None,
    interactions: str | Sequence[str] = "none",
    starts: int = 10,
    seed: int = 0,
    nested: Mapping[str, str] | None = None,
    pair: tuple[str, str] | None = None,
) -> Subset:
    """Choose the cells to run so that a model of their factors is determined as well as so many cells can.

    Parameters
    ----------
    cells : DataFrame
        One row a valid cell; each is chosen at most once.
    size : int
        How many to choose; all, if there are no more.
    factors : sequence of str, optional
        Columns of the model; every value is a level. By default all columns that take more than one value.
    interactions : "none", "all" or a sequence such as ``["input:output"]``
        ``all`` means all two-way interactions of the factors.
    starts : int
        Random starts of the search, of which the best end is kept.
    seed : int
        Decides the starts and the random subsets; the same seed chooses the same cells on every machine.
    nested : mapping of str to str, optional
        Factors that exist under some levels of another only, with that other: ``{"rank": "method"}``. They are missing
        elsewhere, and have their own effect under each of its levels.
    pair : (str, str), optional
        Two factors whose valid combinations are the real factor, as in :func:`analysis.anova`: both and their
        interaction are in the model.

    Returns
    -------
    Subset

    Raises
    ------
    InputFault
        ``size`` or ``starts`` is no whole number above 0, or ``seed`` one below; fewer cells are asked for than the
        model has parameters; a factor has no value in some cells and is not nested; the model is none.

    Notes
    -----
    Where several exchanges gain the same, the one that comes first in the rows' order is made: give the rows in an
    order of their own (say, of a hash) if the choice must not depend on how they were listed.
    """
    for what, number, least in (("size", size, 1), ("number of starts", starts, 1), ("seed", seed, 0)):
        if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
            raise InputFault(f"The {what} of a subset is a whole number of at least {least}, not {number!r}.")
    plan, sample = _read(cells, factors, interactions, nested, pair)
    model = _basis(sample, plan.terms)
    values = model.at(np.arange(sample.n))
    parameters = values.shape[1]
    words = _words(plan)
    random = None
    if size >= sample.n:
        chosen = np.arange(sample.n)
    elif size < parameters:
        raise InputFault(
            f"{_several(size, 'cell')} cannot determine the {parameters} parameters of the {words}: choose at least "
            f"{parameters}, or leave factors or interactions out."
        )
    else:
        chosen = search(values, size, starts, seed)
        random = _random(values, size, seed, log_det(values[chosen]))
    return Subset(
        rows=cells.iloc[chosen], cells=sample.n, model=words, parameters=parameters,
        efficiency=float(np.exp(log_det(values[chosen]) / parameters)), random=random, starts=starts if random else 0,
        seed=seed, terms=tuple(_terms(plan, sample, model, chosen)),
    )  # fmt: skip


def _read(
    cells: pd.DataFrame, factors: Sequence[str] | None, interactions: str | Sequence[str],
    nested: Mapping[str, str] | None,
    pair: tuple[str, str] | None,
) -> tuple[Declared, Sample]:  # fmt: skip
    if not len(cells):
        raise InputFault("There is no cell to choose from; expected a row for each valid cell.")
    if factors is None:
        factors = [column for column in cells.columns if cells[column].nunique(dropna=False) > 1]
    plan = declared(factors, (), interactions, pair, nested)
    check_columns(cells, plan.columns)
    for column in plan.columns:
        lacking = 0 if column in plan.parents else int(np.sum(cells[column].isna().to_numpy()))
        if lacking:
            raise InputFault(
                f"{column!r} has no value in {lacking} of the {len(cells)} cells. If it exists under some levels of "
                f"another factor only, say so with nested={{{column!r}: FACTOR}}."
            )
    return plan, plan.read(cells[plan.columns].assign(**{_RESPONSE: 0.0}), _RESPONSE)


def _words(plan: Declared) -> str:
    labels = ", ".join(map(plan.label, plan.factors))
    if not plan.interactions:
        return f"additive model of {labels}"
    return f"model of {labels} with {', '.join(map(name, plan.interactions))}"


def _first(labels: Sequence[str]) -> str:
    more = len(labels) - _SHOWN
    return ", ".join(labels[:_SHOWN]) + (f" and {_several(more, 'other')}" if more > 0 else "")


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


@dataclass(frozen=True)
class _Basis:
    """Functions of the cells, as weights (columns, functions) of the one-hot columns of terms."""

    sample: Sample
    terms: tuple[Term, ...]
    weights: np.ndarray

    @cached_property
    def codes(self) -> list[np.ndarray]:
        """The column of each row, for each term; without terms there is the one of the mean."""
        found, width = [], 0
        for term in self.terms:
            cells = self.sample.cells(term)
            found.append(cells.codes + width)
            width += cells.count
        return found or [np.zeros(self.sample.n, dtype=np.int64)]

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Values (rows, functions)."""
        values = np.zeros((len(rows), self.weights.shape[1]))
        for codes in self.codes:
            values += self.weights[codes[rows]]
        return values

    def inner(self, other: _Basis) -> np.ndarray:
        """Means over all rows of products with another's functions: (functions, other's functions)."""
        return self.weights.T @ _means(self, other) @ other.weights

    def beyond(self, small: _Basis) -> _Basis:
        """The functions of this space that are orthogonal, over all rows, to one that lies in it."""
        directions = np.linalg.svd(small.inner(self), full_matrices=True)[2][small.weights.shape[1] :]
        return replace(self, weights=self.weights @ directions.T)


def _means(a: _Basis, b: _Basis) -> np.ndarray:
    """Means over all rows of products of the one-hot columns of two bases."""
    counts = np.zeros((len(a.weights), len(b.weights)))
    for own, other in product(a.codes, b.codes):
        counts += cross_counts(own, len(a.weights), other, len(b.weights))
    return counts / a.sample.n


def _basis(sample: Sample, terms: Sequence[Term]) -> _Basis:
    """Orthonormal functions, over all rows, that span a model."""
    top = tuple(maximal(terms))
    columns = _Basis(sample, top, np.eye(sum(sample.cells(term).count for term in top) or 1))
    gram = _means(columns, columns)
    scale = 1 / np.sqrt(np.diag(gram))
    eigenvalues, vectors = np.linalg.eigh(gram * scale[:, None] * scale[None, :])
    keep = eigenvalues > _ZERO * max(1, len(top))
    return replace(columns, weights=scale[:, None] * vectors[:, keep] / np.sqrt(eigenvalues[keep]))


def _random(values: np.ndarray, size: int, seed: int, reached: float) -> RandomSubsets:
    """Random subsets, their efficiency relative to a subset with the logarithm `reached` of its determinant."""
    found = np.array([log_det(values[shuffled(len(values), seed, 1, k)[:size]]) for k in range(RANDOM)])
    relative = np.exp((found - reached) / values.shape[1])
    return RandomSubsets(RANDOM, int(np.isneginf(found).sum()), float(np.median(relative)), float(relative.max()))


def _terms(plan: Declared, sample: Sample, model: _Basis, chosen: np.ndarray) -> list[TermStatus]:
    codes = {column: codes[chosen] for column, codes in sample.codes.items()}
    every, some = Design(sample), Design(replace(sample, y=sample.y[chosen], codes=codes, _cells={}))

    def df(design: Design, term: Term, others: Sequence[Term]) -> int:
        return design.space([*others, term]).rank - design.space(others).rank

    found, parts = [], {}
    for term in (*plan.factors, *plan.interactions):
        others = [t for t in plan.terms if not contains(t, term)]
        here = df(some, term, others)
        nominal = every.nominal_df(term, plan.terms, nested=term in plan.factors and len(term) > 1)
        efficiency = None
        if here:
            small, large = _basis(sample, others), _basis(sample, [*others, term])
            gained = log_det(large.at(chosen)) - log_det(small.at(chosen))
            efficiency = float(np.exp(gained / here))
            parts[plan.label(term)] = large.beyond(small).inner(model)
        aliased = some.aliased(term, others, nominal - here) if here < nominal else []
        found.append(
            TermStatus(
                plan.label(term), plan.role(term), here, df(every, term, others), nominal, efficiency, tuple(aliased)
            )
        )
    values = model.at(chosen)
    fit = np.linalg.inv(values.T @ values) @ values.T
    crossed = [term[0] for term in plan.factors if len(term) == 1]
    for pair in combinations(crossed, 2):
        possible = 0 if any(contains(t, pair) for t in plan.terms) else df(every, pair, plan.terms)
        if possible:
            # What the fit of the model makes of the interaction's own part: the alias matrix (Box and Wilson 1951).
            wrong = fit @ _basis(sample, [*plan.terms, pair]).beyond(model).at(chosen)
            biases = {label: float(np.linalg.norm(part @ wrong, 2)) for label, part in parts.items()}
            biases = {label: bias for label, bias in biases.items() if bias > _NO_BIAS}
            nominal = every.nominal_df(pair, [*plan.terms, pair])
            found.append(
                TermStatus(name(pair), "not declared", df(some, pair, plan.terms), possible, nominal, biases=biases)
            )
    return found
