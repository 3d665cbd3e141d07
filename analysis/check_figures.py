"""Figures of the assumption checks: made from a result, nothing is computed here but a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm

from analysis.figures import ACCENT, COLOURS, INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    from analysis.checks import Checks


def residual_plots(checks: Checks) -> Figure:
    """Residuals against fitted values, and their quantiles against the normal's; an outlier is named in both."""
    figure = new_figure(6.8, 2.9)
    left, right = figure.subplots(1, 2)
    residuals = checks.residuals
    order = np.argsort(residuals, kind="stable")
    quantiles = np.empty(len(residuals))
    quantiles[order] = norm.ppf((np.arange(1, len(order) + 1) - 0.5) / len(order))
    scaled = residuals / (float(residuals.std()) or 1.0)
    left.plot(checks.fitted, residuals, ".", color=ACCENT, markersize=4, alpha=0.6)
    left.axhline(0, color=MUTED, linewidth=0.8)
    left.set(xlabel=f"fitted {checks.response}", ylabel="residual")
    right.plot(quantiles, scaled, ".", color=ACCENT, markersize=4, alpha=0.6)
    right.axline((0, 0), slope=1, color=MUTED, linewidth=0.8)
    right.set(xlabel="normal quantile", ylabel="residual / SD")
    if checks.outlier is not None:
        at = checks.outlier.position
        for ax, x, y in ((left, checks.fitted[at], residuals[at]), (right, quantiles[at], scaled[at])):
            ax.plot([x], [y], "o", color=COLOURS[1], markersize=5)
            # Towards the middle, so that the name stays inside.
            side = "right" if x > float(np.mean(ax.get_xlim())) else "left"
            ax.annotate(f"row {checks.outlier.row}", (x, y), xytext=(-6 if side == "right" else 6, 0), ha=side,
                        va="center", textcoords="offset points", size=7.5, color=INK)  # fmt: skip
    for ax in (left, right):
        plain_axes(ax, "both")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure
