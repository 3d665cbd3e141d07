"""Variance components: how much of a score is the design, the task, the seed, the prompt and the picture.

And so, how much of a difference between two designs is noise, where the noise comes from, and what to buy more of. Rows
are trials, or the generated pictures of trials. Designs are fixed, all else is random; variances are found by equating
mean squares to their expectations (Henderson 1953, method III), with those by restricted maximum likelihood beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.declared import declared
from analysis.effect_sizes import noncentrality_interval
from analysis.means import LEVEL
from analysis.mixed_model import fit_variances
from analysis.model import Design, Term, contains, name
from analysis.sample import Sample, check_columns
from analysis.strata import RESIDUAL, Strata
from analysis.variance_intervals import interval
from analysis.variance_result import Component, Evaluation, VarianceResult

DESIGN, SHARED, NOISE = "design", "shared", "noise"

PICTURE_BLOCKS = ("task", "task:seed", "task:prompt", "task:seed:prompt", "task:seed:prompt:picture")
"""Blocks of a table of pictures, as :func:`with_pictures` makes it."""

_MOST_LEVELS = 1000
"""Random levels beyond which no estimates by REML are made; they would take minutes."""

_WIDEST = 4000
"""Columns of a model, its largest term aside, beyond which it takes many minutes."""


def variance_components(
    frame: pd.DataFrame,
    response: str,
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = ("task", "task:seed"),
    trial: str = "task:seed",
    nested: Mapping[str, str] | None = None,
    level: float = LEVEL,
) -> VarianceResult:
    """Estimate variance components.

    Parameters
    ----------
    frame : DataFrame
        A row a trial, or a row a generated picture (:func:`with_pictures`); rows whose response is missing are left
        out.
    response : str
        A numeric column.
    factors : str or sequence of str
        Their combinations that occur are the designs.
    blocks : str or sequence of str
        What is drawn at random, from the coarsest on: ``["task", "task:seed"]`` for trials, :data:`PICTURE_BLOCKS` for
        pictures. What is nested names what it is nested in. For every block the variance that all designs share is
        estimated, and that by which designs differ (design × block). A block that is the same as another in these rows
        is left out, and so is a combination that has a row each: that is the residual.
    trial : str
        The block that makes one trial with a design. Where rows are finer, the noise of the trial's mean is reported.
    nested : mapping of str to str, optional
        Factors that exist under others only, as in :func:`analysis.anova`.
    level : float
        Of the intervals.

    Returns
    -------
    VarianceResult

    Notes
    -----
    Intervals: χ² for a single mean square; the modified large-sample interval (Ting et al. 1990) for a combination; for
    the spread of the designs, the exact interval of its ratio to the noise (noncentral F) times the noise as estimated,
    which holds the truth a little more often than its level. On rows that are not balanced all are approximate, and so
    marked.

    The spread of the designs is the variance of their true means, Σ(μᵢ − μ̄)²/(designs − 1), noise taken off.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; no block; rows that leave no residual.
    """
    plan = declared(factors, blocks, "none", None, nested)
    if not plan.blocks:
        raise InputFault(
            "No block was named: variance components need what was drawn at random, such as task,task:seed."
        )
    sample = plan.read(frame, response)
    what = tuple(dict.fromkeys(column for term in plan.factors for column in term))
    used, notes = _distinct(sample, sorted(plan.blocks, key=len))
    strata, finest = _strata(sample, what, used)
    designs, balanced = sample.cells(what).count, _balanced(sample, what, used)
    units = _units(sample, what, used, finest)
    reml, told = _reml(strata, sample, what)
    rows = _random(strata, sample, what, finest or tuple(units), level, reml)
    if designs > 1:
        rows.insert(0, _spread(strata, what, level))
    else:
        notes.append("There is a single design: nothing is said of differences.")
    rows = [replace(row, method=_method(row.method, balanced)) for row in rows]
    notes += told
    if not balanced:
        notes.append(
            "The rows are not balanced: intervals are approximate, and the numbers of units are means over designs."
        )
    few = [f"{row.component} {row.df}" for row in rows if row.role != DESIGN and 0 < row.df < 5]
    if few:
        notes.append(f"Hardly known, for want of degrees of freedom: {', '.join(few)}.")
    result = VarianceResult(
        response=response, n=sample.n, n_missing=sample.n_missing, designs=designs, components=tuple(rows),
        residual=_meaning(finest), units=units, evaluation=None, level=level, balanced=balanced, notes=tuple(notes),
    )  # fmt: skip
    return _with_shares(result, tuple(c for c in trial.split(":") if len(sample.levels.get(c, ())) != 1))


def with_pictures(trials: pd.DataFrame, images: pd.DataFrame, response: str) -> pd.DataFrame:
    """Make a table of pictures, with what is known of each one's trial.

    Parameters
    ----------
    trials : DataFrame
        A row a trial, with a column ``id``.
    images : DataFrame
        A row a picture: ``id`` of its trial, ``index`` in it, ``prompt`` and the response, as a store keeps them.
    response : str
        The score of a picture.

    Returns
    -------
    DataFrame
        A row a picture of these trials: the trial's columns, ``prompt``, ``picture`` (its number among those of the
        trial with this prompt, from 0: pictures of one task, seed, prompt and number start from the same noise in all
        designs) and the picture's response.

    Raises
    ------
    InputFault
        A column is missing, or no trial has pictures.
    """
    check_columns(trials, ["id"])
    check_columns(images, ["id", "index", "prompt", response])
    own = images[["id", "index", "prompt", response]].sort_values(["id", "index"], kind="stable")
    own = own.assign(picture=own.groupby(["id", "prompt"]).cumcount())
    kept = trials.drop(columns=[c for c in ("index", "prompt", "picture", response) if c in trials.columns])
    rows = kept.merge(own, on="id")
    if rows.empty:
        raise InputFault("None of the trials has rows of its pictures; leave --pictures out to analyse the trials.")
    return rows


def _distinct(sample: Sample, blocks: Sequence[Term]) -> tuple[list[Term], list[str]]:
    """The blocks that are not the same as a coarser one in these rows, and what is left out, in words.

    A column of one level is taken out of them: nothing can be said of what more of its levels would do.
    """
    single = [c for c in dict.fromkeys(c for block in blocks for c in block) if len(sample.levels[c]) == 1]
    kept: list[Term] = []
    notes = [
        f"There is one level of {column} only ({sample.levels[column][0]!r}): what is said holds for it, and nothing "
        f"is known of what more {column}s would do."
        for column in single
    ]
    for block in dict.fromkeys(tuple(c for c in block if c not in single) for block in blocks):
        same = [b for b in kept if contains(block, b) and sample.cells(b).count == sample.cells(block).count]
        if same:
            notes.append(
                f"{name(block)} has one level only in each {name(same[0])}, so its variance cannot be told from the "
                "coarser one's; it is left out."
            )
        elif block:
            kept.append(block)
    if not kept:
        raise InputFault(f"None of the blocks {', '.join(map(name, blocks))} has two levels: nothing varies at random.")
    return kept, notes


def _strata(sample: Sample, what: Term, blocks: Sequence[Term]) -> tuple[Strata, Term]:
    """The model, and the block whose combination with the design is the residual (empty: rows within all of them)."""
    several = sample.cells(what).count > 1
    shared = [b for b in blocks if sample.cells(b).count < sample.n]
    crossed = [(*what, *b) for b in blocks] if several else []
    widths = [sample.cells(t).count for t in (*shared, *crossed) if sample.cells(t).count < sample.n]
    if sum(widths) - max(widths, default=0) > _WIDEST:
        raise InputFault(
            f"The random terms have {sum(widths)} levels together, too many to fit within minutes. Analyse fewer "
            "designs at a time (--where), or the trials instead of their pictures."
        )
    design, y = Design(sample), sample.y - sample.y.mean()
    finest: Term = ()
    random = [*shared, *(t for t in crossed if sample.cells(t).count < sample.n)]
    for term in crossed:
        if term not in random:
            finest = max(finest, term[len(what) :], key=len)
    strata = Strata(design, y, [what], random)
    while strata.df == 0 and any(contains(t, what) for t in random):
        last = max((t for t in random if contains(t, what)), key=lambda t: sample.cells(t).count)
        random.remove(last)
        finest = max(finest, last[len(what) :], key=len)
        strata = Strata(design, y, [what], random)
    if strata.df == 0:
        raise InputFault(
            "The rows leave no residual: every one is alone in its block. Leave the finest block out, or run "
            "repetitions."
        )
    every = tuple(dict.fromkeys(column for block in blocks for column in block))
    if not finest and sample.cells((*what, *every)).count == sample.n:
        finest = every
    noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
    if strata.sum_sq <= noise:
        raise InputFault(f"The terms reproduce {sample.response} exactly: there is no residual variance.")
    return strata, finest


def _balanced(sample: Sample, what: Term, blocks: Sequence[Term]) -> bool:
    for block in blocks:
        both, own = sample.cells((*what, *block)), sample.cells(block)
        if both.count != own.count * sample.cells(what).count:
            return False
        if any(np.ptp(np.bincount(c.codes)) for c in (both, own)):
            return False
    return True


def _units(sample: Sample, what: Term, blocks: Sequence[Term], finest: Term) -> dict[str, float]:
    """How many of each block column there are in a design, within the columns that the block names before it."""
    units: dict[str, float] = {}
    for block in blocks:
        for k, column in enumerate(block):
            if column not in units:
                inner = sample.cells((*what, *block[:k])).count
                units[column] = sample.cells((*what, *block[: k + 1])).count / inner
    if not finest:
        units["repetition"] = sample.n / sample.cells((*what, *units)).count
    return units


def _meaning(finest: Term) -> str:
    return f"design × {name(finest)}, and all that is finer" if finest else "repetitions of a row"


def _label(term: Term, what: Term) -> tuple[str, Term]:
    """A random term's name and the columns that it has beside the design's."""
    if contains(term, what):
        rest = tuple(c for c in term if c not in what)
        return f"design:{name(rest)}", rest
    return name(term), term


def _random(
    strata: Strata, sample: Sample, what: Term, finest: Term, level: float, reml: Mapping[Term, float]
) -> list[Component]:
    """The random components and the residual, as combinations of mean squares."""
    terms = sorted(strata.random, key=len)
    columns = [*terms, (RESIDUAL,)]
    squares, df, loads = [], [], []
    for term in terms:
        own_df, value = strata.mean_square(term)
        small = [t for t in strata.terms if not contains(t, term)]
        own: Mapping[Term, float] = {}
        if own_df:
            space = strata.design.space
            own = strata.loads_between(space(small), space([*small, term]), own_df)
        squares.append(value)
        df.append(own_df)
        loads.append([*(own.get(t, 0.0) for t in terms), 1.0])
    squares.append(strata.sum_sq / strata.df)
    df.append(strata.df)
    matrix = np.array([*loads, [0.0] * len(terms) + [1.0]])
    order = np.arange(len(columns))
    known = np.array(df) > 0
    rows = []
    for k, term in enumerate(columns):
        factors = _solve(matrix, known, k)
        variance, low, high, method = np.nan, np.nan, np.nan, "none: not estimable"
        if factors is not None:
            at = order[np.abs(factors) > 1e-10 * np.abs(factors).max()]
            variance = float(sum(factors[i] * squares[i] for i in at))
            low, high, method = interval(factors[at], np.array(squares)[at], np.array(df, dtype=float)[at], level)
        last = term == (RESIDUAL,)
        label, rest = (RESIDUAL, finest) if last else _label(term, what)
        noise = last or contains(term, what)
        rows.append(
            Component(
                component=label, role=NOISE if noise else SHARED, columns=rest,
                levels=None if last else sample.cells(term).count, df=int(df[k]), variance=variance,
                sd=max(variance, 0.0) ** 0.5, lower=max(low, 0.0), upper=max(high, 0.0), method=method,
                reml=reml.get(term, np.nan), share=np.nan, in_difference=np.nan,
            )
        )  # fmt: skip
    return rows


def _solve(matrix: np.ndarray, known: np.ndarray, k: int) -> np.ndarray | None:
    """Factors by which mean squares give the k-th variance; None when they need one without degrees of freedom.

    A mean square holds the variances of its own term and of terms that contain it, so the unknowns are solved for from
    the finest on.
    """
    if not known[k]:
        return None
    factors = np.zeros(len(matrix))
    factors[k] = 1.0
    for other in range(len(matrix) - 1, -1, -1):
        if other != k and matrix[k, other]:
            inner = _solve(matrix, known, other)
            if inner is None:
                return None
            factors -= matrix[k, other] * inner
    return factors / matrix[k, k]


def _spread(strata: Strata, what: Term, level: float) -> Component:
    """The spread of the designs' means, from their mean square adjusted for all that does not contain the design."""
    space, sample = strata.design.space, strata.design.sample
    others = [t for t in strata.terms if not contains(t, what)]
    small, large = space(others), space([*others, what])
    df = large.rank - small.rank
    cells = sample.cells(what)
    values = dict.fromkeys(("variance", "sd", "lower", "upper"), np.nan)
    method = "none: nothing to measure it by"
    if df:
        change = small.residuals(strata.y) - large.residuals(strata.y)
        square = float(change @ change) / df
        error = strata.error(strata.loads_between(small, large, df))
        if error.mean_sq is not None:
            load = small.size_outside(cells.codes, cells.count) / df
            scale = error.mean_sq / (load * df)
            low, high = noncentrality_interval(square / error.mean_sq, df, error.df, level)
            variance = (square - error.mean_sq) / load
            values = {
                "variance": variance,
                "sd": max(variance, 0.0) ** 0.5,
                "lower": low * scale,
                "upper": high * scale,
            }
            method = f"noncentral F against {_label_error(error.term, what)}"
    return Component(
        component=DESIGN, role=DESIGN, columns=(), levels=cells.count, df=df, method=method, reml=np.nan, share=np.nan,
        in_difference=np.nan, **values,
    )  # fmt: skip


def _label_error(text: str, what: Term) -> str:
    return text.replace(f"{name(what)}:", "design:")


def _method(method: str, balanced: bool) -> str:
    return method if balanced or method.startswith("none") else f"{method}, approximate: not balanced"


def _reml(strata: Strata, sample: Sample, what: Term) -> tuple[dict[Term, float], list[str]]:
    levels = sum(sample.cells(t).count for t in strata.random)
    if levels > _MOST_LEVELS:
        return {}, [
            f"No estimates by REML: {levels} random levels are more than the {_MOST_LEVELS} that are fitted here."
        ]
    known = strata.variances()
    near = np.array([known[name(t)] for t in (*strata.random, (RESIDUAL,))])
    try:
        fit = fit_variances(sample, strata.design, [what], strata.random, None if np.isnan(near).any() else near)
    except InputFault as fault:
        return {}, [f"No estimates by REML: {fault}"]
    return dict(zip([*strata.random, (RESIDUAL,)], fit.variances.tolist(), strict=True)), []


def _with_shares(result: VarianceResult, trial: Term) -> VarianceResult:
    total = sum(max(row.variance, 0.0) for row in result.components if row.variance == row.variance)
    now = result.difference_variance()
    rows = []
    for row in result.components:
        share = max(row.variance, 0.0) / total if total > 0 else np.nan
        part = np.nan
        if row.role == NOISE and now > 0:
            part = 2 * max(row.variance, 0.0) / float(np.prod([result.units[c] for c in row.columns])) / now
        rows.append(replace(row, share=share, in_difference=part))
    result = replace(result, components=tuple(rows))
    return replace(result, evaluation=_evaluation(result, trial))


def _evaluation(result: VarianceResult, trial: Term) -> Evaluation | None:
    """Noise of the mean of a trial's rows: the terms with columns that a trial has several levels of."""
    noise = [row for row in result.components if row.role == NOISE]
    inside = [c for c in result.units if c not in trial]
    if not set(trial) <= set(result.units) or not inside or any(row.variance != row.variance for row in noise):
        return None
    total = judged = 0.0
    for row in noise:
        own = max(row.variance, 0.0) / float(np.prod([result.units[c] for c in row.columns if c in inside]))
        total += own
        judged += own if set(row.columns) & set(inside) else 0.0
    rows = float(np.prod([result.units[c] for c in inside]))
    return Evaluation(rows, judged, judged**0.5, judged / total) if total > 0 and rows > 1 else None
