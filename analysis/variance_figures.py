"""The figure of variance components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures import ACCENT, COLOURS, GRID, INK, MUTED

if TYPE_CHECKING:
    from analysis.variance_result import VarianceResult

_ROLES = {"design": COLOURS[2], "shared": MUTED, "noise": COLOURS[1]}


def shares(result: VarianceResult) -> Figure:
    """Share of each component in the variance of a row; beside it the standard error that doubling each unit leads "
    "to."""
    rows = [row for row in result.components if row.variance == row.variance]
    figure = Figure(figsize=(8.2, 1.1 + 0.36 * max(len(rows), 2)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    if result.designs > 1:
        left, right = figure.subplots(1, 2, width_ratios=(5, 4))
        table = result.budget()
        labels = [buy if buy == "as run" else f"twice the {buy}s" for buy in table["buy"]]
        right.barh(range(len(table)), table["se"], color=ACCENT, height=0.62)
        for y, se in enumerate(table["se"]):
            right.text(se, y, f" {se:.3g}", va="center", size=7.5, color=INK)
        _plain(right, labels, "standard error of a difference")
        right.margins(x=0.18)
    else:
        left = figure.subplots()
    left.barh(range(len(rows)), [row.share for row in rows], color=[_ROLES[row.role] for row in rows], height=0.62)
    for y, row in enumerate(rows):
        left.text(row.share, y, f" SD {row.sd:.3g}", va="center", size=7.5, color=INK)
    _plain(left, [row.component for row in rows], f"share in the variance of one row's {result.response}")
    left.set_xlim(0, 1.12 * max(row.share for row in rows) + 0.02)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    handles = [Patch(color=colour) for colour in _ROLES.values()]
    names = ["designs", "shared by all designs", "differs between designs"]
    figure.legend(handles, names, loc="outside upper left", ncols=3, frameon=False, fontsize=7.5, labelcolor=INK)
    return figure


def _plain(ax: Axes, labels: list[str], axis: str) -> None:
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#b8bec6")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(length=0, labelsize=8, colors=INK)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(axis, size=8.5, color=MUTED)
