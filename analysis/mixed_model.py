"""Mixed models: fixed factors tested while tasks, seeds and interactions with them are random, balanced or not.

Variances by restricted maximum likelihood, terms crossed in any way (:mod:`analysis.reml`). A fixed term is tested by F
with Satterthwaite's denominator degrees of freedom, as R's lmerTest does, never by a χ² or by infinite degrees of
freedom. On balanced rows with variances above 0 this is the F test against the term's interaction with tasks that
:func:`analysis.anova` makes. Cells may be empty.

Random slopes and covariances between random terms are not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import chi2
from scipy.stats import f as f_distribution

from adapters.faults import InputFault
from analysis.basis import whole
from analysis.declared import Declared, declared, names
from analysis.mixed_result import Fitted, FixedTerm, MixedResult, RandomTerm
from analysis.model import Design, Term, contains, name, sum_coded
from analysis.reml import NoResidual, Reml
from analysis.sample import Sample, read_sample
from analysis.strata import RESIDUAL

MOST_LEVELS = 2000
"""Random levels beyond which a fit would take many minutes."""

_ALIASED = 1e-5  # of a column's length, below which what earlier columns leave of it is rounding
_SAME = 1e-9  # of an eigenvalue of the variances' overlap
_NO_RESIDUAL = 1e-9  # of the sum of squares, about what rounding leaves
_FEW = 5


def mixed(
    frame: pd.DataFrame,
    response: str,
    factors: str | Sequence[str],
    random: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    type: int = 2,
    nested: Mapping[str, str] | None = None,
) -> MixedResult:
    """Fit a mixed model and test its fixed terms.

    Parameters
    ----------
    frame : DataFrame
        One row an observation; rows whose response is missing are counted and left out.
    response : str
        A numeric column.
    factors : str or sequence of str
        Columns whose effect is asked for; none leaves the mean alone.
    random : str or sequence of str
        Random terms: columns or combinations, such as ``["task", "task:seed", "input:task"]``. Each is a random
        intercept: every combination of its columns that occurs is drawn independently. Factors may be part of one, so
        that ``input:task`` lets the effect of input differ between tasks.
    blocks, interactions, nested
        Fixed terms, as in :func:`analysis.anova`.
    type : 2 or 3
        Hypotheses of the fixed terms. 2: each term adjusted for all fixed terms that do not contain it; the hypothesis
        is that of ordinary least squares' Type II, tested in the mixed model, as lmerTest does. Any cell may be empty.
        3: each adjusted for all others in sum coding; only where the fixed effects have full rank.

    Returns
    -------
    MixedResult

    Notes
    -----
    Denominator degrees of freedom of several numerator ones depend a little on how the hypothesis is coded (a property
    of Fai and Cornelius' method); the coding is lmerTest's under sum coding, levels in their order.

    Where a variance is estimated as 0, degrees of freedom are those of the model without it. This is lmerTest's way,
    and takes the estimate at its word: the note says for which terms :func:`analysis.anova` with ``error`` is more
    careful.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; a random term that is a fixed one, or whose variance the rows cannot tell from
        others; Type III without full rank.
    """
    if type not in (2, 3):
        raise InputFault(f"The type of the hypotheses of a mixed model is 2 or 3, not {type!r}.")
    asked = tuple(names(factors))
    plan = declared(asked, blocks, interactions, None, nested) if asked or names(blocks) else Declared((), (), ())
    terms = _random_terms(random, plan)
    sample = read_sample(frame, response, [*plan.columns, *(c for t in terms for c in t)], plan.parents)
    design = Design(sample)
    reml = fit_variances(sample, design, plan.terms, terms)
    fixed = tuple(_test(reml, sample, design, plan, term, type) for term in plan.terms)
    drawn = _variances(reml, sample, terms)
    zero = [row.term for row in drawn if row.levels is not None and row.variance == 0]
    return MixedResult(
        response=response, n=sample.n, n_missing=sample.n_missing, type=type, fixed=fixed, random=drawn,
        criterion=reml.criterion, singular=_singular(zero), notes=tuple(_notes(plan, terms, zero, drawn, fixed)),
        fitted=Fitted(reml, sample, plan, asked),
    )  # fmt: skip


def _random_terms(random: str | Sequence[str], plan: Declared) -> list[Term]:
    terms = [tuple(text.split(":")) for text in names(random)]
    if not terms:
        raise InputFault(
            "No random term was named; name at least one, such as task and input:task, or use analysis.anova, where "
            "all terms are fixed."
        )
    fixed = {frozenset(term) for term in plan.terms}
    factors = {column for term in plan.factors for column in term}
    for k, term in enumerate(terms):
        if len(set(term)) < len(term) or not all(term):
            raise InputFault(f"The random term {name(term)!r} cannot be used: a column is named twice, or has no name.")
        if frozenset(term) in fixed or set(term) <= factors:
            raise InputFault(f"The random term {name(term)!r} cannot be used: its columns are fixed factors or blocks.")
        if any(set(term) == set(other) for other in terms[:k]):
            raise InputFault(f"The random term {name(term)!r} is named twice.")
    return terms


def fit_variances(
    sample: Sample, design: Design, fixed: Sequence[Term], terms: Sequence[Term], near: np.ndarray | None = None
) -> Reml:
    """Fit the variances of random terms, the fixed ones given; `near` as :meth:`analysis.reml.Reml.fit`.

    Raises
    ------
    InputFault
        There is nothing to fit, too much, or the variances cannot be told apart.
    """
    cells = [sample.cells(term) for term in terms]
    levels = sum(c.count for c in cells)
    if levels > MOST_LEVELS:
        raise InputFault(
            f"The random terms have {levels} levels together, more than the {MOST_LEVELS} that are fitted within "
            "minutes. Leave the finest random term out, or use fewer rows; analysis.anova with error='task' has no "
            "such limit."
        )
    x = whole(design, design.space(fixed))
    if sample.n <= x.shape[1]:
        raise InputFault(
            f"{sample.n} rows with a {sample.response} are not more than the {x.shape[1]} parameters of the fixed "
            "effects: nothing is left to estimate variances from. Leave factors out, or run more trials."
        )
    reml = Reml(sample.y, x, [c.codes for c in cells], [c.count for c in cells])
    _check_apart(reml, terms, sample)
    noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
    if reml.residual_sum_sq <= noise:
        raise InputFault("The fixed effects reproduce the response exactly: there is no variance to estimate.")
    try:
        left = reml.fit(near).best.size
    except NoResidual:
        left = 0.0
    if left <= _NO_RESIDUAL * reml.residual_sum_sq:
        finest = terms[int(np.argmax([c.count for c in cells]))]
        raise InputFault(
            f"The random terms reproduce {sample.response} exactly: no residual is left. Leave the finest random term "
            f"out ({name(finest)})."
        )
    return reml


def _check_apart(reml: Reml, terms: Sequence[Term], sample: Sample) -> None:
    labels = [*(f"{name(term)!r}" for term in terms), "the residual"]
    overlap = reml.overlap()
    size = np.diag(overlap)
    for label, term, own in zip(labels, terms, size, strict=False):
        if own <= _SAME * sample.n**2 / sample.cells(term).count:
            why = "it has a single level" if sample.cells(term).count == 1 else "the fixed effects hold all its levels"
            raise InputFault(f"The random term {label} has no variance to estimate: {why}. Leave it out.")
    values, vectors = np.linalg.eigh(overlap / np.sqrt(size[:, None] * size[None, :]))
    if values[0] <= _SAME:
        mixed_up = [label for label, part in zip(labels, vectors[:, 0], strict=True) if abs(part) > 0.05]
        raise InputFault(
            f"The rows cannot tell the variances of {' and '.join(mixed_up)} apart. Leave one random term out, or run "
            "repetitions that differ in the one and not in the other."
        )


def _test(reml: Reml, sample: Sample, design: Design, plan: Declared, term: Term, type: int) -> FixedTerm:
    role, label = plan.role(term), plan.label(term)
    nested = role == "block" or (role == "factor" and len(term) > 1)
    nominal = design.nominal_df(term, plan.terms, nested)
    rows = _type_3(sample, design, plan, term) if type == 3 else _type_2(sample, design, plan, term)
    if not len(rows):
        return FixedTerm(label, role, 0, nominal, None, None, None)
    f, df, df_error = reml.functions(rows).f_test()
    return FixedTerm(label, role, df, nominal, f, df_error, float(f_distribution.sf(f, df, df_error)))


def _type_2(sample: Sample, design: Design, plan: Declared, term: Term) -> np.ndarray:
    """Rows (df, n) of the Type II hypothesis of ordinary least squares, coded as lmerTest does under sum coding.

    Of a term that no other contains, the coefficients themselves; of another, each column of the term after the terms
    that do not contain it and after the term's earlier columns (Doolittle's factor of the Gram matrix).
    """
    others = [t for t in plan.terms if not contains(t, term)]
    small = design.space(others)
    df = design.space([*others, term]).rank - small.rank
    cells = sample.cells(term)
    apart: list[np.ndarray] = []
    basis: list[np.ndarray] = []
    lengths: list[float] = []
    for column in (*sum_coded(sample, term).T, *(cells.codes == np.arange(cells.count)[:, None]).astype(float)):
        if len(basis) == df:
            break
        own = left = small.residuals(column)
        for _ in range(2):
            for each in basis:
                left = left - each * (each @ left)
        length = float(np.linalg.norm(left))
        if length > _ALIASED * np.linalg.norm(column):
            apart.append(own)
            basis.append(left / length)
            lengths.append(length)
    if not basis:
        return np.zeros((0, sample.n))
    if any(contains(t, term) and t != term for t in plan.terms):
        return np.array([each / length for each, length in zip(basis, lengths, strict=True)])
    return np.linalg.pinv(np.column_stack(apart))


def _type_3(sample: Sample, design: Design, plan: Declared, term: Term) -> np.ndarray:
    """Rows (df, n) that give the term's coefficients in sum coding."""
    coded = {t: sum_coded(sample, t) for t in plan.terms}
    columns = np.hstack([np.ones((sample.n, 1)), *coded.values()])
    if columns.shape[1] != design.space(plan.terms).rank or np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise InputFault(
            f"Type III needs every cell of the model filled and crossed: its sum coding has {columns.shape[1]} "
            f"columns, of which the rows determine {design.space(plan.terms).rank}. Use type 2."
        )
    start = 1 + sum(coded[t].shape[1] for t in plan.terms[: plan.terms.index(term)])
    return np.linalg.pinv(columns)[start : start + coded[term].shape[1]]


def _variances(reml: Reml, sample: Sample, terms: Sequence[Term]) -> tuple[RandomTerm, ...]:
    values = reml.variances
    errors = np.sqrt(np.diag(reml.covariance_of_variances()))
    rows = []
    for k, term in enumerate(terms):
        rise = max(0.0, reml.criterion_without(k) - reml.criterion)
        value = float(values[k])
        se = float(errors[k]) if value > 0 else float("nan")
        rows.append(
            RandomTerm(name(term), sample.cells(term).count, value, value**0.5, se, rise, float(chi2.sf(rise, 1)))
        )
    left = float(values[-1])
    return (*rows, RandomTerm(RESIDUAL, None, left, left**0.5, float(errors[-1]), None, None))


def _singular(zero: Sequence[str]) -> str | None:
    if not zero:
        return None
    return (
        f"The fit is singular: the variance of {' and '.join(zero)} is estimated as 0, the least it can be, so the "
        "model is the one without."
    )


def _notes(
    plan: Declared, terms: Sequence[Term], zero: Sequence[str], drawn: Sequence[RandomTerm], fixed: Sequence[FixedTerm]
) -> list[str]:
    notes = [
        "F tests have Satterthwaite's denominator degrees of freedom, which are approximate unless rows are balanced."
    ]
    factors = {column for term in plan.factors for column in term}
    blocks = [term for term in terms if not set(term) & factors]
    for term in (*plan.factors, *plan.interactions):
        own = [t for t in terms if contains(t, term)]
        if own and all(name(t) in zero for t in own):
            notes.append(
                f"{plan.label(term)} is tested as if it did not vary with {name(_rest(own[0], factors))}, because that "
                f"is what 0 means; few levels often give 0 where the truth is above it. analysis.anova with "
                f"error='{name(_rest(own[0], factors))}' tests it against its own interaction instead."
            )
        outer = [b for b in blocks if not any(set(o) < set(b) for o in blocks)]
        missing = [name(b) for b in outer if not any(contains(t, (*term, *b)) for t in terms)]
        if missing:
            wanted = ", ".join(f"{name(term)}:{b}" for b in missing)
            notes.append(
                f"{plan.label(term)} is taken to have the same effect on every level of {', '.join(missing)}: {wanted} "
                "is no random term. If its effect does vary, its p is too small."
            )
    few = [f"{row.term} {row.levels}" for row in drawn if row.levels is not None and row.levels < _FEW]
    if few:
        notes.append(f"Variances of few levels are hardly known: {', '.join(few)} levels.")
    part = [f"{row.term} {row.df} of {row.df_nominal}" for row in fixed if not row.estimable]
    if part:
        notes.append(f"Degrees of freedom that are estimable: {', '.join(part)}.")
    return notes


def _rest(term: Term, factors: set[str]) -> Term:
    return tuple(column for column in term if column not in factors)
