"""Figures of several scores: made from a result, nothing is computed here but a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    from analysis.pareto_optimal import Pareto

_MOST_NAMES = 12


def pareto_plot(result: Pareto) -> Figure:
    """The first two scores of every design; rings are optimal on the tasks run, colour is the probability."""
    import seaborn as sns

    first, second = list(result.scores)[:2]
    designs = result.designs
    figure = new_figure(5.4, 3.8)
    ax = figure.subplots()
    known = designs["probability"].notna().all()
    if known:
        colours = sns.color_palette("crest", as_cmap=True)
        dots = ax.scatter(designs[first], designs[second], c=designs["probability"], cmap=colours, vmin=0, vmax=1, s=26)
        bar = figure.colorbar(dots, ax=ax, shrink=0.8, aspect=26, label="probability of being Pareto-optimal")
        bar.ax.tick_params(length=0, labelsize=7.5, colors=MUTED)
        bar.ax.yaxis.label.set(size=8.5, color=MUTED)
        bar.outline.set_visible(False)
    else:
        ax.scatter(designs[first], designs[second], color=MUTED, s=26)
    best = designs[designs["optimal"]]
    ax.scatter(best[first], best[second], facecolors="none", edgecolors=INK, linewidths=0.9, s=60)
    for _, row in best.head(_MOST_NAMES).iterrows():
        ax.annotate(str(row["design"]), (row[first], row[second]), xytext=(5, 4), textcoords="offset points", size=7,
                    color=INK)  # fmt: skip
    ax.set(xlabel=f"{first} ({result.scores[first]} is better)", ylabel=f"{second} ({result.scores[second]} is better)")
    ax.margins(x=0.15, y=0.1)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    plain_axes(ax, "both")
    return figure
