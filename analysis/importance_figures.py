"""Figures of importance and sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.figures import ACCENT, COLOURS, INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    from analysis.importance_result import Importance
    from analysis.near_best_result import NearBest
    from analysis.sensitivity_result import Sensitivity

_PANELS = 4


def shares(found: Importance) -> Figure:
    """Bars of what each factor explains of the variation within blocks, a panel for each of the first components.

    With intervals where tasks give them, noise then taken off; without them the shares as measured.
    """
    parts = found.components[:_PANELS]
    counts = [len(part.factors) for part in parts]
    figure = new_figure(7.2, 0.5 + sum(0.55 + 0.34 * count for count in counts))
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=counts, sharex=True)[:, 0]
    corrected = found.resampled is not None
    for ax, part in zip(axes, parts, strict=True):
        for y, row in enumerate(part.factors):
            value = row.corrected if corrected else row.of_within
            if value is None:
                ax.text(0, y, " not known", va="center", size=8, color=MUTED)
                continue
            ax.barh(y, max(value, 0), height=0.62, color=ACCENT, alpha=0.75)
            if row.interval is not None:
                ax.plot(row.interval, [y, y], color=INK, linewidth=1.6, solid_capstyle="round")
            if row.share is not None:
                ax.text(1.02, y, f"share {row.share:.0%}", va="center", size=8, color=INK,
                        transform=ax.get_yaxis_transform())  # fmt: skip
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_yticks(range(len(part.factors)), [row.factor for row in part.factors])
        ax.set_ylim(len(part.factors) - 0.5, -0.5)
        ax.set_title(part.component, size=8.5, color=INK, loc="left")
        plain_axes(ax, "x")
    words = f"noise taken off, {found.level:.0%} interval over {found.resampled}s" if corrected else "as measured"
    axes[-1].set_xlabel(f"part of the variation of {found.response} within blocks; {words}")
    return figure


def grids(found: Sensitivity) -> Figure:
    """Each method's settings as dots, the best one ringed, and the share of settings about as good, with intervals."""
    methods = [m for m in found.methods if m.means]
    figure = new_figure(7.2, 0.9 + 0.42 * max(1, len(methods)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    if not methods:
        left.text(0.5, 0.5, "no method has settings to compare", ha="center", va="center", color=MUTED, size=9)
        for ax in (left, right):
            ax.set_axis_off()
        return figure
    for y, m in enumerate(methods):
        left.plot([s.mean for s in m.means], [y] * len(m.means), "o", color=ACCENT, markersize=5, alpha=0.45)
        left.plot([m.best_mean], [y], "o", markerfacecolor="none", markeredgecolor=INK, markersize=8)
        if m.share_within is not None:
            if m.share_within_interval is not None:
                right.plot(m.share_within_interval, [y, y], color=ACCENT, linewidth=2, alpha=0.5)
            right.plot([m.share_within], [y], "o", color=ACCENT, markersize=5)
    left.set_yticks(range(len(methods)), [m.method for m in methods])
    left.set_ylim(len(methods) - 0.5, -0.5)
    left.set_xlabel(f"{found.response}, mean of each setting (ring: best)")
    right.set_xlim(-0.02, 1.02)
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    reach = "" if found.within is None else f" {found.within:.3g}"
    right.set_xlabel(f"settings within{reach} of the best")
    for ax in (left, right):
        plain_axes(ax, "x")
    return figure


def near_best_curves(found: NearBest) -> Figure:
    """Share of each method's settings against the distance to the best: its own, and that of all methods.

    Lines are means over tasks, bands their intervals at each distance by itself, none where all tasks give the same
    share; the distance of the test is dotted.
    """
    figure = new_figure(9.0, 3.7)
    axes = figure.subplots(1, 2, sharey=True)
    methods = list(found.rows["method"])
    banded = bool(found.curve["lower"].notna().any())
    for ax, (of, words) in zip(axes, (("own", "its own best"), ("overall", "the best of all methods")), strict=True):
        for k, method in enumerate(methods):
            line = found.curve[(found.curve["of"] == of) & (found.curve["method"] == method)]
            colour = COLOURS[k % len(COLOURS)]
            ax.plot(line["within"], line["share"], color=colour, linewidth=1.8, label=method)
            ax.fill_between(line["within"], line["lower"], line["upper"], color=colour, alpha=0.1, linewidth=0)
        ax.axvline(found.within, color=MUTED, linewidth=1, linestyle=":")
        ax.set_xlabel(f"distance to {words} on the task ({found.response})")
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(0, float(found.curve["within"].max()))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        plain_axes(ax, "both")
    bands = f", {found.level:.0%} intervals" if banded else ""
    axes[0].set_ylabel(f"settings at most so far away\n(mean over {len(found.tasks)} tasks{bands})")
    axes[0].legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    return figure
