"""Figures: every function takes a result and returns a matplotlib Figure; nothing is computed here but a layout.

Figures are made without pyplot, so nothing global is changed and none has to be closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from scipy.stats import norm

from analysis.anova_table import AnovaTable, p_text

INK, MUTED, GRID, ACCENT, EMPTY = "#1c2430", "#66707c", "#e4e7eb", "#20639b", "#f3f4f6"
COLOURS = ("#20639b", "#c8553d", "#3a8c6e", "#8a5fa8", "#b58900", "#5b6770")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(ax: Axes, grid: str | None = None) -> None:
    """Take the frame and the ticks off, and lay a grid along "x", "y" or "both"."""
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(side == "bottom" and grid != "y")
        ax.spines[side].set_color("#b8bec6")
    ax.tick_params(length=0, labelsize=8, colors=INK)
    if grid:
        ax.grid(axis="both" if grid == "both" else grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
        ax.set_axisbelow(True)
    ax.xaxis.label.set(size=8.5, color=MUTED)
    ax.yaxis.label.set(size=8.5, color=MUTED)


def _ordered(found: Sequence[str], order: Sequence[str] | None) -> list[str]:
    """Levels in the wanted order, those it does not name at the end as they came."""
    unique = list(dict.fromkeys(found))
    wanted = [level for level in dict.fromkeys(order or []) if level in unique]
    return wanted + [level for level in unique if level not in wanted]


def heat_map(
    means: pd.DataFrame,
    rows: str,
    columns: str,
    value: str = "mean",
    label: str = "",
    order: Sequence[str] | None = None,
) -> Figure:
    """Values of the valid combinations of two factors; a combination that does not exist stays blank.

    Parameters
    ----------
    means : DataFrame
        One row a valid combination, as :func:`analysis.cell_means` returns.
    rows, columns, value : str
        Columns of ``means``.
    label : str
        What the value is, beside the colour bar.
    order : sequence of str, optional
        Order of the levels of both factors.
    """
    import seaborn as sns

    table = means.pivot(index=rows, columns=columns, values=value)
    table = table.loc[_ordered(list(means[rows]), order), _ordered(list(means[columns]), order)]
    figure = new_figure(1.9 + 0.78 * table.shape[1], 1.1 + 0.42 * table.shape[0])
    ax = figure.subplots()
    ax.set_facecolor(EMPTY)
    spread = float(np.nanmax(table.to_numpy()) - np.nanmin(table.to_numpy()))
    sns.heatmap(
        table, ax=ax, cmap="crest", annot=True, fmt=".3f" if spread < 10 else ".3g", linewidths=2.5, linecolor="white",
        annot_kws={"size": 8}, cbar_kws={"label": label, "shrink": 0.8, "aspect": 26},
    )  # fmt: skip
    ax.tick_params(length=0, labelsize=8.5, colors=INK, rotation=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel(f"{columns}  (blank: no valid combination)", size=8.5, color=MUTED, labelpad=8)
    ax.set_ylabel(rows, size=8.5, color=MUTED)
    bar = ax.collections[0].colorbar
    if bar is not None:
        bar.ax.tick_params(length=0, labelsize=7.5, colors=MUTED)
        bar.ax.yaxis.label.set(size=8.5, color=MUTED)
        bar.outline.set_visible(False)
    return figure


def effects(table: AnovaTable) -> Figure:
    """Partial η² of every tested term that is not a block, with its interval; p and degrees of freedom beside it."""
    rows = [(r, r.partial_eta_sq) for r in table.terms if r.role != "block" and r.partial_eta_sq is not None]
    figure = new_figure(7.2, 0.75 + 0.34 * max(1, len(rows)))
    ax = figure.subplots()
    if not rows:
        ax.text(0.5, 0.5, "nothing could be tested", ha="center", va="center", color=MUTED, size=9)
        ax.set_axis_off()
        return figure
    for y, (row, size) in enumerate(rows):
        colour = ACCENT if row.p is not None and row.p < 0.05 else MUTED
        if row.partial_eta_sq_ci is not None:
            ax.plot(row.partial_eta_sq_ci, [y, y], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.55)
        ax.plot([size], [y], "o", color=colour, markersize=6)
        ax.text(1.02, y, f"df {row.df}   p {p_text(row.p)}", va="center", size=8, color=INK,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(rows)), [r.term for r, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.01, 1)
    ax.set_xlabel(f"partial η², {table.ci['level']:.0%} interval")
    plain_axes(ax, "x")
    return figure


def dot_plot(
    means: pd.DataFrame,
    label: str,
    value: str = "mean",
    group: str | None = None,
    axis: str = "",
    lines: Mapping[str, float] | None = None,
    width: float = 7.2,
) -> Figure:
    """Values with their intervals (columns lower, upper), in the order of the rows from the top down.

    Parameters
    ----------
    group : str, optional
        Column that colours the rows.
    lines : mapping, optional
        Named reference values, drawn as dashed lines.
    width : float
        Inches.
    """
    count = len(means)
    figure = new_figure(width, 0.7 + 0.25 * count)
    ax = figure.subplots()
    groups = list(dict.fromkeys(means[group])) if group else [""]
    for number, name in enumerate(groups):
        at = np.flatnonzero((means[group] == name).to_numpy()) if group else np.arange(count)
        part, colour = means.iloc[at], COLOURS[number % len(COLOURS)]
        ax.hlines(at, part["lower"], part["upper"], color=colour, linewidth=2, alpha=0.5)
        ax.plot(part[value], at, "o", color=colour, markersize=5, label=str(name))
    for name, where in (lines or {}).items():
        ax.axvline(where, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.annotate(name, (where, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                    ha="center", va="bottom", size=7.5, color=MUTED)  # fmt: skip
    ax.set_yticks(range(count), means[label].astype(str).tolist())
    ax.set_ylim(count - 0.4, -0.6)
    ax.set_xlabel(axis)
    if group and len(groups) > 1:
        # Above the plot: inside it would cover intervals.
        figure.legend(frameon=False, fontsize=7.5, loc="outside upper left", ncols=len(groups), labelcolor=INK)
    plain_axes(ax, "x")
    return figure


def diagnostics(table: AnovaTable) -> Figure:
    """Residuals against fitted values, and their quantiles against the normal's."""
    figure = new_figure(6.4, 2.5)
    left, right = figure.subplots(1, 2)
    left.plot(table.fitted, table.residuals, ".", color=ACCENT, markersize=4, alpha=0.6)
    left.axhline(0, color=MUTED, linewidth=0.8)
    left.set(xlabel="fitted", ylabel="residual")
    ordered = np.sort(table.residuals)
    scale = float(ordered.std()) or 1.0
    quantiles = norm.ppf((np.arange(1, len(ordered) + 1) - 0.5) / len(ordered))
    right.plot(quantiles, ordered / scale, ".", color=ACCENT, markersize=4, alpha=0.6)
    right.axline((0, 0), slope=1, color=MUTED, linewidth=0.8)
    right.set(xlabel="normal quantile", ylabel="residual / SD")
    for ax in (left, right):
        plain_axes(ax, "both")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one design: a label, its score, and (H, W, 3) uint8 pictures."""

    label: str
    score: float | None
    pictures: Sequence[np.ndarray] = field(repr=False)


def picture_grid(rows: Sequence[PictureRow], real: Sequence[np.ndarray], columns: int = 8, side: int = 96) -> Figure:
    """Generated pictures, one design a row in the order given (best first), beside the real ones.

    Parameters
    ----------
    rows : sequence of PictureRow
    real : sequence of (H, W, 3) uint8 arrays
        The pictures that were learned from; stacked in the column on the left.
    columns : int
        Pictures shown of each design, the first ones.
    side : int
        Side of a picture in pixels of the figure; pictures are resized to it.
    """
    columns = min(columns, max((len(r.pictures) for r in rows), default=1))
    gap, label_width, title = side // 16, int(side * 2.3), side // 2
    height = max(len(rows), len(real), 1)
    canvas = np.full(
        (title + height * (side + gap), side + 2 * gap + label_width + columns * (side + gap), 3), 255, np.uint8
    )
    for k, picture in enumerate(real):
        _place(canvas, picture, title + k * (side + gap), 0, side)
    start = side + 2 * gap + label_width
    for k, row in enumerate(rows):
        for j, picture in enumerate(row.pictures[:columns]):
            _place(canvas, picture, title + k * (side + gap), start + j * (side + gap), side)
    dpi = 160
    figure = Figure(figsize=(canvas.shape[1] / dpi, canvas.shape[0] / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    small = side / 13.5
    ax.text(0, title * 0.55, "real", size=small, color=MUTED, va="center")
    ax.text(start, title * 0.55, "generated, best to worst", size=small, color=MUTED, va="center")
    for k, row in enumerate(rows):
        middle = title + k * (side + gap) + side / 2
        ax.text(start - 2 * gap, middle - side * 0.13, row.label, size=small, color=INK, va="center", ha="right")
        if row.score is not None:
            ax.text(start - 2 * gap, middle + side * 0.17, f"{row.score:.3f}", size=small, color=MUTED, va="center",
                    ha="right")  # fmt: skip
    return figure


def _place(canvas: np.ndarray, picture: np.ndarray, top: int, left: int, side: int) -> None:
    from PIL import Image

    image = Image.fromarray(np.asarray(picture, dtype=np.uint8)).convert("RGB")
    canvas[top : top + side, left : left + side] = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def cost(
    designs: pd.DataFrame,
    response: str,
    label: str,
    measures: Mapping[str, str],
    group: str | None = None,
    higher_is_better: bool = True,
    axis: str = "",
) -> Figure:
    """Score of each design against what it costs.

    Parameters
    ----------
    designs : DataFrame
        One row a design: its name in ``label``, ``response``, the columns of ``measures`` and ``group``.
    measures : mapping
        Column → what to write under the axis; a column that spans more than a factor of 20 gets a log axis.
    higher_is_better : bool
        Which end the named designs are taken from: three, or one of more than twenty.
    axis : str
        What the score is.

    Designs with a true value in a column ``front`` are joined by a line over ``parameters``; its ends are named.
    """
    figure = new_figure(3.7 * len(measures), 3.4)
    groups = list(dict.fromkeys(designs[group])) if group else [""]
    best = designs[response].rank(ascending=not higher_is_better)
    for ax, (column, words) in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures.items(), strict=True):
        for number, name in enumerate(groups):
            part = designs[designs[group] == name] if group else designs
            ax.plot(part[column], part[response], "o", color=COLOURS[number % len(COLOURS)], markersize=5, alpha=0.8,
                    label=str(name))  # fmt: skip
        named = designs[best <= (3 if len(designs) <= 20 else 1)]  # more would cover each other
        if column == "parameters" and "front" in designs and designs["front"].sum() > 1:
            front = designs[designs["front"]].sort_values(column)
            ax.plot(front[column], front[response], color=MUTED, linewidth=1, drawstyle="steps-post", zorder=0)
            named = front.iloc[[0, -1]]
        for _, row in named.iterrows():
            at = (row[column], row[response])
            ax.annotate(str(row[label]), at, xytext=(5, 4), textcoords="offset points", size=7, color=INK)
        if designs[column].min() > 0 and designs[column].max() > 20 * designs[column].min():
            ax.set_xscale("log")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.margins(x=0.15)
        ax.set(xlabel=words, ylabel=axis)
        plain_axes(ax, "both")
    if group and len(groups) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=len(groups), frameon=False, fontsize=7.5,
                      labelcolor=INK)  # fmt: skip
    return figure
