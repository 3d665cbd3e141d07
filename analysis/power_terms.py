"""The tests of an analysis-of-variance table as they will be, and what each sees of a difference between levels.

A term is tested by the squared length of what it adds to the terms that it is adjusted for. For effects e of its levels
that is e'Ae, with A the cross-products of the levels' indicators after those terms are taken out of them; the
noncentrality of the test is e'Ae over the expected mean square of its error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.components import connect, connections
from analysis.declared import Declared
from analysis.model import Design, Term, contains
from analysis.sample import Sample

DESIGN = "whole design"  # a space in it keeps it apart from factors
COMPONENT = "component of the pair"  # the sample's own column, as in the table; a space keeps it apart from a store's
_NOTHING = 1e-9


@dataclass(frozen=True)
class TestedTerm:
    """A test: a term and what it is compared with, blocks left out.

    Attributes
    ----------
    label, role : str
        As in the table; the label and role "whole design" stand for the planned designs as wholes.
    fixed : tuple of terms
        The model that the test is made in, the term among them.
    others : tuple of terms
        Those that the term is adjusted for.
    model : tuple of terms
        Those that leave the residual.
    mixed : tuple of terms
        Those that share columns with the term, are not within it and are not taken out: what they vary by from task to
        task is in the term's test, too.
    """

    label: str
    role: str
    term: Term
    fixed: tuple[Term, ...]
    others: tuple[Term, ...]
    model: tuple[Term, ...]
    mixed: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What one replicate of the planned cells tells of a term.

    Attributes
    ----------
    df, df_nominal, levels, pairs : int
        `pairs` of levels can be compared.
    two : (float, float)
        Least e'Ae, and e'AAe, of a difference of 1 between two levels, whichever they are and however the others lie;
        NaN where no two levels can be compared.
    one : (float, float)
        Least e'Ae, and e'AAe, of one level that is 1 above all others.
    load, load_squared : float
        Rows of a level, in the mean over the term's contrasts, tr(A)/df; and tr(AA)/df.
    """

    df: int
    df_nominal: int
    levels: int
    pairs: int
    two: tuple[float, float]
    one: tuple[float, float]
    load: float
    load_squared: float


def tested_terms(sample: Sample, plan: Declared, pair: tuple[str, str] | None) -> tuple[Sample, tuple[TestedTerm, ...]]:
    """The tests of a table, in its order, and one of the designs as wholes where that is none of them.

    Returns
    -------
    Sample
        With a column of components, where the cells of two factors fall into several.
    tuple of TestedTerm
    """
    terms = (*plan.factors, *plan.interactions)
    rows = [_marginal("pair", "factor", pair, pair, terms)] if pair else []
    crossed = [t[0] for t in plan.factors if len(t) == 1]
    found = [connect(sample, *pair)] if pair else connections(sample, crossed)
    split = max(found, key=lambda c: len(c.components), default=None)
    if split is not None and split.split:
        sample = replace(
            sample,
            codes={**sample.codes, COMPONENT: split.of_row},
            levels={**sample.levels, COMPONENT: tuple(c.name for c in split.components)},
            _cells={},
        )
        rows.append(_marginal("component", "component", (COMPONENT,), split.factors, terms))
    for term in terms:
        others = tuple(t for t in terms if not contains(t, term))
        rows.append(TestedTerm(plan.label(term), plan.role(term), term, terms, others, terms))
    columns = tuple(dict.fromkeys(column for term in plan.factors for column in term))
    if not any(set(row.term) == set(columns) and row.role == "factor" for row in rows):
        rows.append(TestedTerm(DESIGN, DESIGN, columns, (columns,), (), (columns,)))
    return sample, tuple(rows)


def _marginal(label: str, role: str, term: Term, without: tuple[str, str], terms: tuple[Term, ...]) -> TestedTerm:
    fixed = (*(t for t in terms if not set(t) <= set(without)), term)
    others = tuple(t for t in terms if not set(t) & set(without))
    mixed = tuple(t for t in terms if set(t) & set(without) and not set(t) <= set(without))
    return TestedTerm(label, role, term, fixed, others, terms, mixed)


def shape(design: Design, plan: Declared, tested: TestedTerm) -> Shape:
    """Find what one replicate of the cells tells of a term."""
    sample = design.sample
    cells = sample.cells(tested.term)
    small = design.space(tested.others)
    df = design.space([*tested.others, tested.term]).rank - small.rank
    nominal = cells.count - 1
    if tested.term in plan.terms and tested.label == plan.label(tested.term):
        nested = tested.term in plan.factors and len(tested.term) > 1
        nominal = design.nominal_df(tested.term, plan.terms, nested=nested)
    nothing = Shape(df, nominal, cells.count, 0, (np.nan, np.nan), (np.nan, np.nan), np.nan, np.nan)
    if not df:
        return nothing
    inside = small.outside(cells.codes, cells.count)
    size = np.bincount(cells.codes, minlength=cells.count)
    own, squared = np.diag(inside), np.square(inside).sum(axis=1)
    least = int(np.argmin(np.where(own > _NOTHING * size, own, np.inf)))
    known = replace(
        nothing, one=(float(own[least]), float(squared[least])), load=float(own.sum()) / df,
        load_squared=float(squared.sum()) / df,
    )  # fmt: skip
    if tested.role == "interaction":
        return known
    values, vectors = np.linalg.eigh(inside)
    basis, kept = vectors[:, -df:], values[-df:]
    reach, inverse = basis @ basis.T, (basis / kept) @ basis.T
    first, second = np.triu_indices(cells.count, 1)

    def of_pairs(matrix: np.ndarray) -> np.ndarray:
        return matrix[first, first] + matrix[second, second] - 2 * matrix[first, second]

    comparable = of_pairs(reach) > 2 - 1e-6
    if not comparable.any():
        return known
    # The effects that add least, e = A⁺c / c'A⁺c with c the difference, have e'Ae = 1 / c'A⁺c and e'AAe = 2 / (c'A⁺c)².
    square = 1 / float(of_pairs(inverse)[comparable].max())
    return replace(known, pairs=int(comparable.sum()), two=(square, 2 * square**2))
