"""How sensitive a method is to its hyper-parameters, over the grid of settings that was run.

Three questions for each method: how much do its settings differ, how many of them are about as good as the best, and
which hyper-parameter makes the difference. Answers are about this grid; a wider one has a wider spread. Means of
settings hold noise, so they differ even where nothing matters and the best of them looks better than it is: spread and
share are given with the noise taken off, beside what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.components import connections
from analysis.declared import AUTO, Declared, declared, names
from analysis.dominance import noise, subsets
from analysis.hyper_importance import FANOVA, PED_ANOVA, Trials
from analysis.importance_shares import Bootstrap, of_rows
from analysis.model import Design, Term, name
from analysis.resampling import Units, expanded_interval, units
from analysis.sample import Sample, check_columns, text_of
from analysis.sensitivity_result import HyperShare, MethodSensitivity, Sensitivity, SettingMean
from analysis.setting_means import SettingMeans

LEVEL = 0.95
TASK, SEED = ("task",), "seed"


def sensitivity(
    frame: pd.DataFrame,
    response: str,
    settings: str | Sequence[str],
    by: str | None = "method",
    blocks: Sequence[str] = ("task", "task:seed"),
    within: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    higher_is_better: bool = True,
    evaluator_draws: int = 100,
    error: str = AUTO,
) -> Sensitivity:
    """Find out how much methods depend on their hyper-parameters.

    Parameters
    ----------
    frame : DataFrame
        One row an observation; rows whose response is missing are counted and left out.
    response : str
        A numeric column.
    settings : sequence of str
        At most eight columns of hyper-parameters; a setting is a combination of their values that was run. One that has
        no value in any row of a method does not exist there.
    by : str or None
        The column whose levels are looked at one by one; None takes all rows together.
    blocks : sequence of str
        Columns, or combinations such as ``task:seed``, whose effect is taken out first.
    within : float, optional
        Settings this close to the best count as good, in units of the response; by default the SD between seeds of one
        setting on one task, pooled over all methods.
    draws : int
        Of the bootstrap over tasks; where there are fewer than three, over the cells of the block that has most.
    seed : int
        Of the bootstrap and of the random forest.
    level : float
        Of the intervals, each on its own.
    higher_is_better : bool
        Whether the best setting is the one with the highest mean.
    evaluator_draws : int
        Draws for the intervals of optuna's importances, each of which costs a search of its own; 0 for none.
    error : "auto", "residual" or the name of a block
        What ω² is measured against, as in :func:`analysis.anova`.

    Returns
    -------
    Sensitivity

    Notes
    -----
    Means of settings are least-squares means of the model blocks + setting. The variance that noise adds to them is
    found by leaving out each task (without blocks: from the residual); the interval of the SD is that of the variance
    (:class:`analysis.resampling.Corrected`), its root taken. For the share of good settings the means are shrunk to the
    spread without noise (Louis 1984, Journal of the American Statistical Association 79, 393–398), in every draw.
    Simulated with 16 settings and 3 to 20 tasks, nominal 95 %: the SD's interval holds the true SD in 96–100 % of
    studies, the share's the true share in 82–100 %; plain percentile intervals hold it in as few as 2 %.

    Optuna's importances take the rows as trials, with the blocks taken out.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; more than eight hyper-parameters; settings out of range.
    """
    settings = names(settings)
    subsets(settings)
    if draws < 1 or evaluator_draws < 0 or not 0 < level < 1:
        raise InputFault(
            f"The bootstrap needs one draw or more and a level between 0 and 1, not {draws}, {evaluator_draws} (for "
            f"optuna's importances, 0 or more) and {level}."
        )
    if within is not None and not (np.isfinite(within) and within >= 0):
        raise InputFault(f"Settings count as good within a distance of 0 or more of the best, not {within}.")
    plan = declared(settings, blocks)
    check_columns(frame, [response, *settings, *([by] if by else [])])
    if by in plan.columns:
        raise InputFault(f"{by!r} is among the settings or blocks and cannot be what methods are told apart by.")
    whole = declared(by, blocks).read(frame, response) if by else _blocks_only(frame, response, plan)
    kept = frame[frame[response].notna()]
    source = "as asked for"
    if within is None:
        within, source = _repeats(kept, response, [*([by] if by else []), *settings], plan.blocks)
    ask = _Question(response, plan, within, higher_is_better, draws, evaluator_draws, seed, level, error)
    labels = kept[by].map(text_of) if by else pd.Series("all", index=kept.index)
    levels = whole.levels[by] if by else ("all",)
    methods = tuple(_method(label, kept[(labels == label).to_numpy()], settings, ask) for label in levels)
    return Sensitivity(
        response=response, n=whole.n, n_missing=whole.n_missing, by=by, settings=tuple(settings),
        blocks=tuple(map(name, plan.blocks)), within=within, within_source=source, higher_is_better=higher_is_better,
        methods=methods, draws=draws, evaluator_draws=evaluator_draws, level=level,
        notes=tuple(_notes(methods, within)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Question:
    """What is asked of every method."""

    response: str
    plan: Declared
    within: float | None
    higher_is_better: bool
    draws: int
    evaluator_draws: int
    seed: int
    level: float
    error: str


def _blocks_only(frame: pd.DataFrame, response: str, plan: Declared) -> Sample:
    return replace(plan, factors=(), interactions=()).read(frame, response)


def _repeats(
    frame: pd.DataFrame, response: str, columns: Sequence[str], blocks: Sequence[Term]
) -> tuple[float | None, str]:
    """SD of rows that differ in nothing but the seed, pooled."""
    same = list(dict.fromkeys([*columns, *(c for block in blocks for c in block if c != SEED)]))
    cells = frame.groupby(same, dropna=False, sort=False, observed=True)[response]
    df = int((cells.count() - 1).sum())
    if df == 0:
        return None, "no two rows differ in the seed alone"
    sum_sq = float(((frame[response] - cells.transform("mean")) ** 2).sum())
    return float(np.sqrt(sum_sq / df)), "the SD between seeds of one setting on one task"


def _method(label: str, frame: pd.DataFrame, settings: Sequence[str], ask: _Question) -> MethodSensitivity:
    there = [s for s in settings if frame[s].notna().any()]
    if not there:
        return MethodSensitivity(label, len(frame), 0, message=f"none of {', '.join(settings)} exists here.")
    plan = replace(ask.plan, factors=tuple((s,) for s in there))
    sample = plan.read(frame, ask.response)
    own = tuple(s for s in there if len(sample.levels[s]) > 1)
    entry = MethodSensitivity(label, sample.n, sample.cells(own).count if own else 1)
    if not own:
        return replace(entry, message="it has a single setting, so there is nothing to compare.")
    design, y = Design(sample), sample.y - sample.y.mean()
    space, base = design.space([*plan.blocks, own]), design.space(plan.blocks)
    if space.rank - base.rank < entry.settings - 1:
        return replace(
            entry,
            message=f"its {entry.settings} settings were not run on common {' and '.join(map(name, plan.blocks))}, so "
            "their means cannot be compared; leave blocks out or run the missing trials.",
        )
    if np.square(base.residuals(y)).sum() <= noise(sample.y):
        return replace(entry, message=f"{ask.response} does not vary within the blocks, so nothing can be said.")
    drawn = _drawn(sample, plan.blocks)
    means = SettingMeans(design, own, plan.blocks, drawn, ask.draws, ask.seed, ask.level)
    entry = _spread(entry, means, ask)
    values = sample.y.mean() + means.effects[means.cells.codes] + means.residuals
    return _important(entry, frame, replace(plan, factors=tuple((s,) for s in own)), sample, values, drawn, ask)


def _drawn(sample: Sample, blocks: Sequence[Term]) -> Units | None:
    """The tasks, or where they are fewer than three the cells of the block that has most."""
    tasks = units(sample, blocks, TASK) if "task" in sample.levels else None
    if tasks is not None or not blocks:
        return tasks
    return units(sample, blocks, max(blocks, key=lambda block: sample.cells(block).count))


def _spread(entry: MethodSensitivity, means: SettingMeans, ask: _Question) -> MethodSensitivity:
    """Spread of the settings' means, those within reach of the best, and the best."""
    sample, cells, spread = means.design.sample, means.cells, means.spread
    sign = 1 if ask.higher_is_better else -1
    near = (None, None, None) if ask.within is None else means.near_best(ask.within, sign)
    often, counts = means.best_often(sign), np.bincount(cells.codes, minlength=cells.count)
    table = tuple(
        SettingMean(
            {c: sample.levels[c][k] for c, k in zip(means.term, key, strict=True)}, int(counts[k]),
            float(sample.y.mean() + means.effects[k]), None if often is None else float(often[k]),
        )
        for k, key in enumerate(cells.levels)
    )  # fmt: skip
    best = table[int(np.argmax(sign * means.effects))]
    sd_interval = None
    if spread.interval is not None:
        low, high = np.sqrt(np.clip(spread.interval, 0, None))
        sd_interval = float(low), float(high)
    return replace(
        entry, sd=None if spread.variance is None else float(np.sqrt(max(spread.variance, 0))),
        sd_interval=sd_interval, sd_measured=float(np.sqrt(spread.measured)),
        range_measured=float(np.ptp(means.effects)), share_within_measured=near[0], share_within=near[1],
        share_within_interval=near[2], best=best.setting, best_mean=best.mean, best_often=best.best_often,
        resampled=name(means.drawn.term) if means.drawn and len(means.draws) else None, means=table,
        notes=tuple(_spread_notes(means)),
    )  # fmt: skip


def _spread_notes(means: SettingMeans) -> Iterator[str]:
    if means.drawn is None:
        yield "No interval: no block has three levels or more to draw from."
    elif not len(means.draws):
        yield "No interval: most draws leave out a setting altogether."
    elif means.drawn.term != TASK:
        yield (
            f"Drawn over {name(means.drawn.term)}, since there are no three tasks: the intervals speak about these "
            "tasks only."
        )
    if means.spread.variance is None:
        yield "There is one row a setting, and none to tell noise from effects."
    elif means.spread.variance < 0:
        yield f"Noise alone would make a wider spread: the variance {means.spread.variance:.3g} was taken as 0."


def _important(
    entry: MethodSensitivity, frame: pd.DataFrame, plan: Declared, sample: Sample, values: np.ndarray,
    drawn: Units | None, ask: _Question,
) -> MethodSensitivity:  # fmt: skip
    """How much each hyper-parameter matters."""
    own = [term[0] for term in plan.factors]
    over = drawn.term if drawn else TASK
    found = of_rows(entry.method, frame, ask.response, plan, Bootstrap(over, ask.draws, ask.seed, ask.level), ask.error)
    notes = found.notes if drawn else ()
    split = [c.sentence() for c in connections(sample, own) if c.split]
    optuna: dict[str, np.ndarray] = {}
    ends: dict[str, list] = {}
    if len(own) > 1:
        trials = Trials(sample, own, values, ask.higher_is_better)
        everything = np.arange(sample.n)
        optuna = trials.importances(everything, ask.seed)
        if drawn is not None and ask.evaluator_draws:
            weights = drawn.weights(ask.evaluator_draws, ask.seed).astype(int)
            boot = [trials.importances(np.repeat(everything, each[drawn.codes]), ask.seed) for each in weights]
            for label in optuna:
                drawn_values = np.stack([b[label] for b in boot])
                ends[label] = [expanded_interval(column, ask.level, drawn.count) for column in drawn_values.T]
    shares = []
    for k, row in enumerate(found.factors):
        ped, forest = (float(optuna[e][k]) if e in optuna else None for e in (PED_ANOVA, FANOVA))
        shares.append(
            HyperShare(
                name=row.factor, levels=row.levels, share=row.share, corrected=row.corrected, interval=row.interval,
                omega_sq=row.omega_sq, F=row.F, p=row.p, ped_anova=_known(ped), fanova=_known(forest),
                ped_anova_interval=ends[PED_ANOVA][k] if PED_ANOVA in ends else None,
                fanova_interval=ends[FANOVA][k] if FANOVA in ends else None,
            )
        )  # fmt: skip
    return replace(entry, importances=tuple(shares), notes=(*entry.notes, *notes, *split))


def _known(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _notes(methods: Sequence[MethodSensitivity], within: float | None) -> list[str]:
    notes = []
    if within is None and any(m.means for m in methods):
        notes.append(
            "Which settings are about as good as the best is not said, because no two rows differ in the seed alone; "
            "name a distance with --within."
        )
    asked = [h for m in methods if len(m.importances) > 1 for h in m.importances]
    if asked and all(h.fanova is None for h in asked):
        notes.append(
            "fANOVA is left out: optuna's needs scikit-learn, which is not installed (pip install scikit-learn)."
        )
    return notes
