"""From evidence to a design: the set that may be the best, and the design that a stated rule names from it.

The set comes from Hsu's comparisons with the best on the chosen error term; what is outside of it is not the best. In
it differences are within noise, so other things may decide: other scores, failures, the number of parameters. How far
they may is bounded: a design that is estimated more than one trial's SD below the best estimate is not named for its
size. Nothing is said of designs without trials, and of new tasks only with the tasks' own error term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.compare_tables import BestSet, percent
from analysis.compared import Compared, check_level
from analysis.declared import AUTO, declared
from analysis.means import LEVEL
from analysis.model import Design, Term, name
from analysis.plain import or_none
from analysis.recommend_sets import Choice, Model, Runs, choose
from analysis.recommended import CHOSEN, EXCLUDED, MAY_BE_BEST, Recommendation
from analysis.sample import check_columns
from analysis.strata import Strata, with_block

SAME_SIZE = 0.1
"""Designs whose parameters are at most this share above the fewest count as of the same size."""


def recommend(
    frame: pd.DataFrame,
    response: str,
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    pair: tuple[str, str] | None = None,
    error: str = AUTO,
    higher_is_better: bool = True,
    scores: Mapping[str, str] | None = None,
    parameters: str | None = None,
    costs: Sequence[str] = (),
    level: float = LEVEL,
    tests: bool = True,
) -> Recommendation:
    """Recommend one of the designs that were run, with the set of those that may be the best.

    The rule, which the result repeats with its numbers:

    1. Designs that may be the best are those in Hsu's set (:func:`analysis.best`). With several factors (a pair is one)
       each is compared on its own in the additive model, at 1 − (1 − level)/factors, and a design is in if each of
       its levels is. A design with failed trials must be in the set with and without the failures counted as the worst
       observed value; one without failures, in either.
    2. Of these, those whose mean, failures counted as the worst, is at most one SD of a trial behind the best one's.
    3. Of these, for each other score in the order given, those not shown to be worse in it than another of them.
    4. Of these, those with the lowest share of failed trials.
    5. Of these, those with the fewest parameters; up to a tenth more counts as the same.
    6. Of these, the one with the best mean.

    Parameters
    ----------
    frame : DataFrame
        A row a trial. One whose response is missing is a failure, an outcome of its design; leave rows of trials that
        are still to be run out.
    response : str
        The score that decides.
    factors : str or sequence of str
        Columns whose combinations are the designs.
    blocks, pair, error
        As in :func:`analysis.anova`.
    higher_is_better : bool
        Which end of the response is good.
    scores : mapping of str to str, optional
        Other scores in the order in which they count → "higher" or "lower", whichever is better.
    parameters : str, optional
        The column with a design's number of trained parameters.
    costs : sequence of str
        Numeric columns that are shown beside (means over a design's trials) and decide nothing.
    level : float
        The confidence with which the truly best design is in the set.
    tests : bool
        Whether to add the analysis of variance, which decides nothing and takes time.

    Returns
    -------
    Recommendation

    Notes
    -----
    The SD of a trial is that about its design's mean on its task; with one trial a design and task, what the declared
    model leaves. "Shown to be worse" is a one-sided t test at 1 − level, Bonferroni-adjusted over the rivals and the
    factors. Where the levels in the sets were never run together, whole designs are compared instead of factors.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; nothing varies; a direction other than "higher" and "lower".
    """
    check_level(level)
    others = {score: better for score, better in (scores or {}).items() if score != response}
    wrong = {score: better for score, better in others.items() if better not in ("higher", "lower")}
    if wrong:
        raise InputFault(f"Of each score say whether 'higher' or 'lower' is better; got {wrong}.")
    frame = frame.reset_index(drop=True)
    plan = declared(factors, blocks, pair=pair)
    sized = [parameters] if parameters else []
    check_columns(frame, [response, *plan.columns, *others, *sized, *costs])
    runs = Runs(frame, response, plan, pair, higher_is_better)
    notes: list[str] = []
    choice = choose(runs, runs.model(), error, level)
    if not choice.candidates.any():
        choice = choose(runs, runs.whole(), error, level)
        notes.append(
            "The levels that may be the best were never run together, so whole designs are compared, each with a mean "
            "of its own."
        )
    told = {score: better for score, better in others.items() if frame[score].notna().any()}
    notes += [f"{score} has no value in any row, so it decides nothing." for score in others if score not in told]
    designs = runs.table(choice.model, told, sized, costs)
    trial_sd, trial_sd_of = _trial_sd(runs, error)
    if np.isnan(trial_sd):
        notes.append("Nothing measures the SD of a trial, so no design is preferred to one with a better mean.")
    gain = designs["counted"].to_numpy(dtype=float) * (1 if higher_is_better else -1)
    funnel = _Funnel(choice.candidates, f"in the set at {percent(level)}")
    lead = float(np.fmax.reduce(gain[funnel.left]))
    funnel.keep(gain >= lead - np.nan_to_num(trial_sd), "within one SD of a trial", "its mean is further behind")
    for score, better in told.items():
        worse = _shown_worse(runs, choice.model, funnel.left, score, better, error, level)
        funnel.keep(~worse, f"not shown to be worse in {score}", f"worse in {score}")
    funnel.keep_least(runs.failed / runs.trials, 0.0, "fewest failures", "more of its trials failed")
    if parameters:
        size = designs["parameters"].to_numpy(dtype=float)
        funnel.keep_least(size, SAME_SIZE, "fewest parameters", "it has more parameters")
    best_mean = f"its mean is {'lower' if higher_is_better else 'higher'}"
    chosen = funnel.choose(np.nan_to_num(gain, nan=-np.finfo(float).max), "best mean", best_mean)
    designs["verdict"] = np.where(choice.candidates, MAY_BE_BEST, EXCLUDED)
    designs.loc[chosen, "verdict"] = CHOSEN
    designs["reason"] = np.where(choice.candidates, funnel.reasons, choice.reasons)
    order = pd.DataFrame({"first": funnel.left, "in": choice.candidates, "gain": gain})
    order = order.sort_values(["first", "in", "gain"], ascending=False, kind="stable")
    terms, told_terms = _terms(runs, error) if tests else ((), [])
    return Recommendation(
        response=response, higher_is_better=higher_is_better, factors=tuple(runs.columns),
        blocks=tuple(map(name, plan.blocks)), error=runs.error(error), question=runs.question(error), level=level,
        n=len(frame), n_failed=int(runs.failed.sum()), chosen=runs.names[chosen], levels=runs.levels_of(chosen),
        trial_sd=or_none(trial_sd), trial_sd_of=trial_sd_of,
        rule=_rule(runs, choice, told, parameters, error, level, trial_sd, trial_sd_of), steps=tuple(funnel.steps),
        ahead=tuple(_ahead(found, choice.model.text[tuple(found.of)][chosen]) for found in choice.sets),
        terms=terms, on_these_tasks=choice.on_these_tasks, not_tested=tuple(_not_tested(runs, choice.model, error)),
        notes=(*notes, *told_terms, *choice.sets[0].notes),
        designs=designs.loc[order.index].reset_index(drop=True), sets=choice.sets,
    )  # fmt: skip


class _Funnel:
    """The designs that are left, step by step, and why the others are not."""

    def __init__(self, left: np.ndarray, what: str) -> None:
        self.left, self.steps = left.copy(), [(what, int(left.sum()))]
        self.reasons = np.full(len(left), "", dtype=object)

    def keep(self, good: np.ndarray, what: str, why: str) -> None:
        """Keep the designs that are good; all of them if none is, or one is left."""
        if self.left.sum() == 1 or not (self.left & good).any():
            return
        self.reasons[self.left & ~good] = why
        self.left &= good
        self.steps.append((what, int(self.left.sum())))

    def keep_least(self, values: np.ndarray, tolerance: float, what: str, why: str) -> None:
        """Keep the designs with the least value, up to a share above it."""
        self.keep(values <= (1 + tolerance) * np.fmin.reduce(values[self.left]), what, why)

    def choose(self, gain: np.ndarray, what: str, why: str) -> int:
        """Keep the design with the most gain, the first of equal ones."""
        first = int(np.argmax(np.where(self.left, gain, -np.inf)))
        self.keep(np.arange(len(gain)) == first, what, why)
        return first


def _shown_worse(
    runs: Runs, model: Model, left: np.ndarray, score: str, better: str, error: str, level: float
) -> np.ndarray:
    """Which designs (bool) have a level that is shown to be worse in a score than another of those left."""
    worse, sign = np.zeros(len(left), dtype=bool), 1.0 if better == "higher" else -1.0
    for part in model.parts:
        kept = set(model.text[part][left])
        if len(kept) < 2:
            continue
        compared = Compared(model.frame, score, list(part), model.columns, runs.blocks, model.interactions, error)
        at = [k for k, text in enumerate(compared.texts) if text in kept]
        pairs = list(combinations(at, 2))
        if not pairs:
            continue
        matrix = np.zeros((len(pairs), len(compared.texts)))
        for row, (a, b) in zip(matrix, pairs, strict=True):
            row[a], row[b] = sign, -sign
        found = compared.estimate(matrix)
        limit = t_distribution.isf((1 - level) / (len(at) - 1) / len(model.parts), found.df) * found.se
        first, second = np.array([[compared.texts[k] for k in pair] for pair in pairs], dtype=object).T
        with np.errstate(invalid="ignore"):
            beaten = {*second[found.value > limit], *first[-found.value > limit]}
        worse |= np.isin(model.text[part], list(beaten))
    return worse


def _trial_sd(runs: Runs, error: str) -> tuple[float, str]:
    """SD of a trial, and what it is."""
    plan, sample = runs.plan, runs.sample
    design, y = Design(sample), sample.y - sample.y.mean()
    block: Term | None = plan.error_block(error, sample)
    if block is None and ("task",) in plan.blocks:
        block = ("task",)
    own = [term for term in plan.terms if term not in plan.blocks]
    tries = [([*plan.terms, *with_block(own, block)], f"about its design's mean on its {name(block)}")] if block else []
    for whole, what in [*tries, (list(plan.terms), "that the model leaves")]:
        strata = Strata(design, y, plan.terms, (), whole)
        if strata.df > 0 and strata.sum_sq > sample.n * (np.finfo(float).eps * np.abs(sample.y).max()) ** 2:
            return float(np.sqrt(strata.sum_sq / strata.df)), what
    return float("nan"), "not known"


def _terms(runs: Runs, error: str) -> tuple[tuple[dict, ...], list[str]]:
    """The analysis of variance behind, or why there is none."""
    pair = runs.parts[0] if len(runs.parts[0]) == 2 else None
    try:
        table = anova(
            runs.frame, runs.response, runs.columns, runs.blocks, error=error,
            pair=(pair[0], pair[1]) if pair else None,
        )  # fmt: skip
    except InputFault as fault:
        return (), [f"There is no analysis of variance: {fault}"]
    rows = [row for row in table.terms if row.role != "block" and row.F is not None]
    return tuple(
        {
            "term": row.term,
            "F": row.F,
            "df": row.df,
            "error_df": row.error.df,
            "p": row.p_decisive,
            "p_is_a_bound": row.p_conservative is not None,
        }
        for row in rows
    ), []


def _ahead(found: BestSet, level: str) -> dict[str, object]:
    rows = found.rows[found.rows["level"] == level]
    numbers = {key: or_none(float(rows.iloc[0][key])) if len(rows) else None for key in ("estimate", "lower", "upper")}
    return {"of": list(found.of), "level": level, **numbers}


def _rule(
    runs: Runs,
    choice: Choice,
    scores: Mapping[str, str],
    parameters: str | None,
    error: str,
    level: float,
    sd: float,
    of: str,
) -> tuple[str, ...]:
    parts = choice.model.parts
    each = (
        f"; each of {', '.join(map(name, parts))} on its own at {percent(round(1 - (1 - level) / len(parts), 6))}, in "
        "the additive model, and a design is in if all of its levels are"
        if len(parts) > 1
        else ""
    )
    lines = [
        f"May be the best: designs in Hsu's set (comparisons with the best) in {runs.response} at {percent(level)}, "
        f"error: {runs.error(error)}{each}. A design with failed trials must be in the set with and without these "
        "counted as the worst observed value; one without, in either.",
        "Of these, those whose mean, failures counted as the worst value, is at most one SD of a trial "
        + (f"({sd:.4g}, {of}) " if not np.isnan(sd) else "(not known, so 0) ")
        + "behind the best one's.",
    ]
    if scores:
        listed = ", ".join(f"{score} ({better} is better)" for score, better in scores.items())
        lines.append(
            f"Of these, score by score in the order {listed}, those not shown to be worse than another (one-sided t at "
            f"{percent(round(1 - level, 6))}, Bonferroni)."
        )
    lines.append("Of these, those with the lowest share of failed trials.")
    if parameters:
        lines.append(f"Of these, those with the fewest parameters; up to {SAME_SIZE:.0%} more counts as the same.")
    lines.append("Of these, the one with the best mean.")
    return tuple(f"{k}. {line}" for k, line in enumerate(lines, start=1))


def _not_tested(runs: Runs, model: Model, error: str) -> list[str]:
    every = runs.every
    combined = int(np.prod([float(len(every.levels[column])) for column in runs.columns]))
    lines = []
    if combined > len(runs.names):
        lines.append(
            f"{combined - len(runs.names)} of {combined} combinations of the levels of {', '.join(runs.columns)}: "
            "forbidden, or without a trial."
        )
    if len(model.parts) > 1:
        lines.append(
            f"interactions between {', '.join(map(name, model.parts))}: each was chosen on its own, as if effects "
            "added up."
        )
    tasks = runs.sample.levels.get("task", ())
    block = runs.plan.error_block(error, runs.sample)
    if len(tasks) > 1 and block == ("task",):
        lines.append(f"tasks unlike these {len(tasks)}: {', '.join(tasks[:8])}{', …' * (len(tasks) > 8)}.")
    elif len(tasks) > 1:
        lines.append(f"other tasks than these {len(tasks)}: the error is the residual.")
    else:
        lines.append("other tasks: there is one, so nothing is said of new ones.")
    return lines
