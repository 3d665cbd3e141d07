"""Failed trials as outcomes: who fails, whether that depends on a factor, and what would change if failures counted.

Leaving failures out flatters a design that fails where tasks are hard: what remains of it are easy tasks. So rates are
tested as a response of their own, designs are compared on the tasks where all of them succeeded, and the analysis is
run again with the worst observed value in place of every failure. A trial failed when its response is missing; the
words of a ``status`` column are counted, not interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.anova_table import AnovaTable
from analysis.declared import AUTO, Declared, declared, names
from analysis.failures_result import ALPHA, INTERVAL, LEVEL, Failures
from analysis.model import Design, contains
from analysis.permutation import Arrangements, Tested, freedman_lane, permutation_columns
from analysis.plain import cell_name
from analysis.sample import Sample, check_columns


def failures(
    frame: pd.DataFrame,
    response: str,
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    failed: str | None = None,
    higher_is_better: bool = True,
    error: str = AUTO,
    permutations: int = 4999,
    seed: int = 0,
    nested: Mapping[str, str] | None = None,
) -> Failures:
    """Analyse failures of trials as an outcome, and what they do to the comparison of designs.

    Parameters
    ----------
    frame : DataFrame
        One row a trial, failed ones included; a column ``status`` is counted where it is there.
    response : str
        The score; a trial without one failed.
    factors : str or sequence of str
        Columns whose combinations are the designs.
    blocks, interactions, error, nested
        As in :func:`analysis.anova`. The cells of all blocks together are the places where designs are compared.
    failed : str, optional
        A column of truth values (or 0 and 1) that marks failures besides missing responses; the response of a marked
        trial is not used.
    higher_is_better : bool
        Which end of the response is the worst.
    permutations, seed
        As in :func:`analysis.robust`.

    Returns
    -------
    Failures

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; the column ``failed`` holds something else; every trial failed.
    """
    factors = names(factors)
    plan = declared(factors, blocks, interactions, nested=nested)
    check_columns(frame, [response, *plan.columns])
    frame = _marked(frame, response, failed)
    lost = frame[response].isna().to_numpy()
    if lost.all():
        raise InputFault(f"All {len(frame)} trials failed: none has a {response}, so nothing can be compared.")
    outcome = f"failure of {response}"  # a space keeps it apart from columns of a store
    sample = plan.read(frame.assign(**{outcome: lost.astype(float)}), outcome)
    within = permutation_columns(plan.blocks)
    worst, table, notes = None, None, []
    if lost.any():
        worst = float(frame[response].min() if higher_is_better else frame[response].max())
    whole = frame if worst is None else frame.fillna({response: worst})
    filled = anova(whole, response, factors, blocks, interactions, error=error, nested=nested)
    try:
        table = anova(frame, response, factors, blocks, interactions, error=error, nested=nested)
    except InputFault as fault:  # with the failures filled in it can be fitted, so it is they that prevent it
        notes.append(f"Without the failures there is no analysis of variance: {fault}")
    y = frame[response].to_numpy(dtype=float, na_value=np.nan)
    designs, common, others, never = _designs(sample, y, factors, within, worst, higher_is_better)
    return Failures(
        response=response, factors=tuple(factors), within=":".join(within), higher_is_better=higher_is_better,
        error=filled.error, n=len(frame), n_failed=int(lost.sum()), reasons=_reasons(frame, lost),
        rates=_rates(sample), tests=_tests(sample, plan, within, permutations, seed), designs=designs,
        common_blocks=common, other_blocks=others, never=never, decisions=_decisions(table, filled), worst=worst,
        notes=(*notes, *_notes(frame, lost, failed)),
    )  # fmt: skip


def _marked(frame: pd.DataFrame, response: str, failed: str | None) -> pd.DataFrame:
    """The frame without the responses of trials that a column marks as failed."""
    if failed is None:
        return frame
    check_columns(frame, [failed])
    marks = frame[failed]
    if marks.isna().any() or not marks.isin([True, False, 0, 1]).all():
        raise InputFault(f"The column {failed!r} must hold True or False (or 1 or 0) in every row, to mark failures.")
    return frame.assign(**{response: frame[response].mask(marks.astype(bool))})


def _reasons(frame: pd.DataFrame, lost: np.ndarray) -> dict[str, int]:
    if "status" not in frame.columns:
        return {}
    return {str(word): int(count) for word, count in frame.loc[lost, "status"].value_counts(dropna=False).items()}


def _rates(sample: Sample) -> pd.DataFrame:
    rows = []
    for factor, levels in sample.levels.items():
        counts = np.bincount(sample.codes[factor], minlength=len(levels))
        lost = np.bincount(sample.codes[factor], sample.y, minlength=len(levels)).round().astype(int)
        for level, n, k in zip(levels, counts.tolist(), lost.tolist(), strict=True):
            interval = binomtest(k, n).proportion_ci(LEVEL, method="exact")
            rows.append((factor, level, n, k, k / n, float(interval.low), float(interval.high)))
    return pd.DataFrame(rows, columns=["factor", "level", "n", "failed", "rate", "lower", "upper"])


def _tests(sample: Sample, plan: Declared, within: tuple[str, ...], permutations: int, seed: int) -> pd.DataFrame:
    """Each factor after the others, on failures as 0 and 1."""
    design, blocks = Design(sample), [within] if within else []
    terms, tested = [*blocks, *plan.factors], []
    for factor in plan.factors:
        others = [t for t in terms if not contains(t, factor)]
        tested.append(Tested(factor[-1], design.space(others), design.space([*others, factor])))
    y = sample.y - sample.y.mean()
    full = design.space(terms)
    found: list[tuple[str, int, float | None, int, bool, str]]
    if np.ptp(sample.y) == 0:
        found = [(each.label, 0, None, 0, False, "no trial failed") for each in tested]
    else:
        arrangements = Arrangements(sample, plan.columns, within, permutations, seed)
        permuted = freedman_lane(design, y, full, tested, arrangements)
        found = [
            (t.label, t.large.rank - t.small.rank, p.p, p.arrangements, p.exact, p.reason)
            for t, p in zip(tested, permuted, strict=True)
        ]
    frame = pd.DataFrame(found, columns=["factor", "df", "p", "arrangements", "exact", "reason"])
    return frame.astype({"p": float})


def _designs(
    sample: Sample, y: np.ndarray, factors: Sequence[str], within: tuple[str, ...], worst: float | None,
    higher_is_better: bool,
) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """Means of the designs in every way of counting; common blocks, other blocks, designs that never succeeded."""
    cells = sample.cells(tuple(factors))
    labels = [cell_name(sample, factors, key) for key in cells.levels]
    rows = pd.DataFrame({"design": cells.codes, "y": y, "failed": sample.y})
    rows["unit"] = sample.cells(within).codes if within else 0
    filled = rows["y"] if worst is None else rows["y"].fillna(worst)
    grouped = rows.groupby("design")
    out = pd.DataFrame({"design": labels, "n": grouped.size(), "failed": grouped["failed"].sum().astype(int)})
    out["mean"], out["worst"] = grouped["y"].mean(), filled.groupby(rows["design"]).mean()
    never = out.index[out["mean"].isna()]
    # A design succeeded in a block when none of its trials there failed; the mean of a list with a gap is a gap.
    means = rows.groupby(["unit", "design"])["y"].mean(skipna=False).unstack("design")
    out["common"], out["shared"], out["against_leader"] = np.nan, 0, np.nan
    common: list[str] = []
    others: list[str] = []
    if within:
        good = means.drop(columns=never).notna().all(axis=1)
        units = sample.cells(within).levels
        for unit in means.index:
            (common if good[unit] else others).append(cell_name(sample, within, units[unit]))
        out["common"] = means[good].mean().drop(never).reindex(out.index)
        leader = out["mean"].idxmax() if higher_is_better else out["mean"].idxmin()
        both = means.sub(means[leader], axis=0)
        out["shared"], out["against_leader"] = both.notna().sum(), both.mean()
    out = out.sort_values("worst", ascending=not higher_is_better, kind="stable").reset_index(drop=True)
    columns = ["design", "n", "failed", "mean", "common", "worst", "shared", "against_leader"]
    return out[columns], tuple(common), tuple(others), tuple(labels[k] for k in never)


def _decisions(table: AnovaTable | None, filled: AnovaTable) -> pd.DataFrame:
    before = {} if table is None else {row.term: row for row in table.terms}
    rows = []
    for row in filled.terms:
        if row.role == "block":
            continue
        own = before.get(row.term)
        f, p = (None, None) if own is None else (own.F, own.p_decisive)
        changes = (p is not None and p < ALPHA) != (row.p_decisive is not None and row.p_decisive < ALPHA)
        rows.append((row.term, f, p, row.F, row.p_decisive, changes))
    frame = pd.DataFrame(rows, columns=["term", "F", "p", "F_worst", "p_worst", "changes"])
    return frame.astype(dict.fromkeys(["F", "p", "F_worst", "p_worst"], float))


def _notes(frame: pd.DataFrame, lost: np.ndarray, failed: str | None) -> tuple[str, ...]:
    notes = []
    if lost.any():
        notes.append(
            f"Intervals of rates are {LEVEL:.0%} {INTERVAL}, as if trials failed independently; trials of one task do "
            "not quite."
        )
    if "status" in frame.columns and failed is None:
        words = set(frame.loc[lost, "status"].dropna().astype(str)) & {"done", "ok"}
        if words:
            notes.append(f"Some trials are {', '.join(sorted(words))} but have no score; they count as failed here.")
    return tuple(notes)
