"""Figures of a power analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.figures import COLOURS, INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    from analysis.power_result import Power

_PANELS = 6
_COLUMNS = 3


def power_curves(found: Power) -> Figure:
    """Power against the number of tasks: a panel for each of the first six terms, a line for each number of seeds.

    The dashed lines are the power that is asked for and the planned number of tasks.
    """
    grid = found.grid_frame()
    if len(grid):
        grid = grid[grid["power"].notna()]
    terms = list(dict.fromkeys(grid["term"]))[:_PANELS] if len(grid) else []
    columns = min(_COLUMNS, max(1, len(terms)))
    rows = max(1, -(-len(terms) // columns))
    figure = new_figure(0.8 + 2.6 * columns, 0.6 + 2.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(terms) :]:
        ax.set_axis_off()
    if not terms:
        axes[0, 0].text(0.5, 0.5, "no power is known", ha="center", va="center", color=MUTED, size=9)
        return figure
    seeds = sorted(grid["seeds"].unique().tolist())
    for ax, term in zip(axes.flat, terms, strict=False):
        part = grid[grid["term"] == term]
        for number, each in enumerate(seeds):
            line = part[part["seeds"] == each].sort_values("tasks")
            ax.plot(line["tasks"], line["power"], "-", color=COLOURS[number % len(COLOURS)], linewidth=1.6,
                    label=f"{each} seed{'s' * (each != 1)}")  # fmt: skip
        ax.axhline(found.target, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.axvline(found.tasks, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_title(f"{term}, difference {part['difference'].iloc[0]:.3g}", size=8.5, color=INK, loc="left")
        ax.set(xlabel="tasks", ylim=(0, 1.02))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        plain_axes(ax, "both")
    for ax in axes[:, 0]:
        ax.set_ylabel("power", size=8.5, color=MUTED)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=7.5, loc="outside upper left", ncols=len(labels),
                  labelcolor=INK)  # fmt: skip
    return figure
