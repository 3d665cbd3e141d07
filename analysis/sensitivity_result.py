"""The result of a sensitivity analysis: how much a method depends on its hyper-parameters, and on which."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.hyper_importance import FANOVA, PED_ANOVA
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class SettingMean:
    """One setting of a method: its mean with the blocks taken out, and the share of draws in which it is best."""

    setting: dict[str, str]
    n: int
    mean: float
    best_often: float | None


@dataclass(frozen=True)
class HyperShare:
    """How much one hyper-parameter of a method matters, by four measures; what cannot be known is None.

    Attributes
    ----------
    share : float or None
        LMG share of what the hyper-parameters explain together.
    corrected, interval
        The same as part of all variation within the blocks, noise taken off; see
        :class:`analysis.importance_result.FactorShare`.
    omega_sq, F, p
        Partial ω² and test of :func:`analysis.anova`, each adjusted for the others.
    ped_anova, fanova : float or None
        Optuna's importances; over the hyper-parameters each sums to 1. Their intervals are quantiles of draws of tasks,
        from which no noise is taken off.
    """

    name: str
    levels: tuple[str, ...]
    share: float | None
    corrected: float | None
    interval: Interval
    omega_sq: float | None
    F: float | None
    p: float | None
    ped_anova: float | None
    ped_anova_interval: Interval
    fanova: float | None
    fanova_interval: Interval


@dataclass(frozen=True)
class MethodSensitivity:
    """One method; where ``message`` says why nothing can be known, the numbers are None.

    Attributes
    ----------
    sd : float or None
        Standard deviation of the settings' means over the grid with the noise of the means taken off, in units of the
        response; 0 where noise alone would make more. None where noise is not known.
    sd_interval : (low, high) or None
    sd_measured, range_measured : float or None
        Standard deviation and range of the means as they are, noise included.
    share_within : float or None
        Share of the settings within ``within`` of the best, the means shrunk to the spread without noise.
    share_within_measured : float or None
        The same of the means as they are: too small where noise is large.
    best : mapping of str to str or None
    best_often : float or None
        Share of the draws in which that setting is best.
    resampled : str or None
        What was drawn with replacement: the tasks, or where there are fewer than three the cells of a block.
    """

    method: str
    n: int
    settings: int
    sd: float | None = None
    sd_interval: Interval = None
    sd_measured: float | None = None
    range_measured: float | None = None
    share_within: float | None = None
    share_within_interval: Interval = None
    share_within_measured: float | None = None
    best: dict[str, str] | None = None
    best_mean: float | None = None
    best_often: float | None = None
    resampled: str | None = None
    means: tuple[SettingMean, ...] = ()
    importances: tuple[HyperShare, ...] = ()
    message: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivity(Result):
    """How much methods depend on their hyper-parameters.

    Attributes
    ----------
    within : float or None
        Settings this close to the best count as good, in units of the response.
    within_source : str
        Where that number is from.
    """

    response: str
    n: int
    n_missing: int
    by: str | None
    settings: tuple[str, ...]
    blocks: tuple[str, ...]
    within: float | None
    within_source: str
    higher_is_better: bool
    methods: tuple[MethodSensitivity, ...]
    draws: int
    evaluator_draws: int
    level: float
    notes: tuple[str, ...]

    def __getitem__(self, method: str) -> MethodSensitivity:
        """One method's entry."""
        for each in self.methods:
            if each.method == method:
                return each
        raise KeyError(f"no method {method!r}; there are {', '.join(each.method for each in self.methods)}")

    def to_frame(self) -> pd.DataFrame:
        """One row a method."""
        rows = []
        for m in self.methods:
            (low, high), (least, most) = m.sd_interval or (None, None), m.share_within_interval or (None, None)
            rows.append(
                {
                    self.by or "method": m.method, "n": m.n, "settings": m.settings, "sd": m.sd, "sd_lower": low,
                    "sd_upper": high, "sd_measured": m.sd_measured, "range_measured": m.range_measured,
                    "share_within": m.share_within, "share_lower": least, "share_upper": most,
                    "share_within_measured": m.share_within_measured, "best": setting_text(m.best),
                    "best_mean": m.best_mean, "best_often": m.best_often,
                }
            )  # fmt: skip
        texts = {self.by or "method", "n", "settings", "best"}
        return pd.DataFrame(rows).astype({c: float for c in rows[0] if c not in texts})

    def importances(self) -> pd.DataFrame:
        """One row a method and hyper-parameter, optuna's importances beside those of the analysis of variance."""
        rows = []
        for m in self.methods:
            for h in m.importances:
                row: dict[str, Any] = {self.by or "method": m.method, "hyper_parameter": h.name}
                row |= {"levels": len(h.levels), "share": h.share}
                row |= _with_interval("corrected", h.corrected, h.interval)
                row |= {"omega_sq": h.omega_sq, "p": h.p}
                row |= _with_interval(PED_ANOVA, h.ped_anova, h.ped_anova_interval)
                row |= _with_interval(FANOVA, h.fanova, h.fanova_interval)
                rows.append(row)
        return pd.DataFrame(rows)

    def means(self) -> pd.DataFrame:
        """One row a method and setting."""
        rows = [
            {self.by or "method": m.method, **s.setting, "n": s.n, "mean": s.mean, "best_often": s.best_often}
            for m in self.methods
            for s in m.means
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def explain(self) -> str:
        """Spread, how many settings are good, which is best, and which hyper-parameter matters, method by method."""
        lines = [line for m in self.methods for line in _words(m, self)]
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """The settings' means by method, and the share of settings that are good."""
        from analysis.importance_figures import grids

        return grids(self)


def setting_text(setting: dict[str, str] | None) -> str | None:
    """A setting in words: ``rank=4, learning_rate=0.001``."""
    return None if setting is None else ", ".join(f"{name}={value}" for name, value in setting.items())


def _with_interval(label: str, value: float | None, interval: Interval) -> dict[str, float]:
    low, high = interval or (np.nan, np.nan)
    return {label: np.nan if value is None else value, f"{label}_lower": low, f"{label}_upper": high}


def _words(m: MethodSensitivity, whole: Sensitivity) -> list[str]:
    if m.message:
        return [f"{m.method}: {m.message}"]
    over = f"{whole.level:.0%} interval over {m.resampled}"
    lines = [f"{m.method} ({m.settings} settings, {m.n} rows): {_spread(m, over)}."]
    if m.share_within is not None and whole.within is not None:
        ends = m.share_within_interval
        interval = f" ({over} {ends[0]:.0%} … {ends[1]:.0%})" if ends else ""
        lines.append(
            f"{m.share_within:.0%} of its settings{interval} lie within {whole.within:.3g} ({whole.within_source}) of "
            f"its best; of the means as measured, {m.share_within_measured:.0%}."
        )
    often = f", which is best in {m.best_often:.0%} of the draws" if m.best_often is not None else ""
    lines.append(f"Its best setting here is {setting_text(m.best)} (mean {m.best_mean:.4g}){often}.")
    if len(m.importances) > 1:
        lines.append(f"What matters: {'; '.join(_measures(h) for h in m.importances)}.")
    return [*lines, *(f"{m.method}: {note}" for note in m.notes)]


def _spread(m: MethodSensitivity, over: str) -> str:
    measured = f"{m.sd_measured:.3g} as measured, range {m.range_measured:.3g}"
    if m.sd is None:
        return f"the SD of its settings' means is {measured}, noise included"
    interval = f" ({over} {m.sd_interval[0]:.3g} … {m.sd_interval[1]:.3g})" if m.sd_interval else ""
    return f"its settings' means spread by an SD of {m.sd:.3g}{interval} with noise taken off; {measured}"


def _measures(h: HyperShare) -> str:
    def ranged(value: float, ends: Interval) -> str:
        return f"{value:.2f}" + (f" ({ends[0]:.2f} … {ends[1]:.2f})" if ends else "")

    parts = []
    if h.share is not None:
        parts.append(f"LMG share {h.share:.2f}")
    if h.omega_sq is not None:
        parts.append(f"partial omega² {h.omega_sq:.2f}")
    if h.ped_anova is not None:
        parts.append(f"PED-ANOVA {ranged(h.ped_anova, h.ped_anova_interval)}")
    if h.fanova is not None:
        parts.append(f"fANOVA {ranged(h.fanova, h.fanova_interval)}")
    return f"{h.name} {', '.join(parts) or 'not known'}"
