"""Figures of attention maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import COLOURS, EMPTY, INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    from analysis.attention import AttentionMap
    from analysis.attention_scores import AttentionChange

COLOUR_MAP = "magma"


def over_picture(attention: AttentionMap, picture: np.ndarray | None = None) -> Figure:
    """One map with its scale; over a picture (H, W, 3) uint8 where one is given."""
    figure = new_figure(3.4, 2.9)
    ax = figure.subplots()
    image = _draw(ax, attention, picture, float(attention.values.max()))
    bar = figure.colorbar(image, ax=ax, shrink=0.85)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5, colors=INK)
    ax.set_title(attention.word, size=8.5, color=INK, loc="left")
    return figure


def sheet(rows: Mapping[str, tuple[np.ndarray | None, Sequence[AttentionMap]]]) -> Figure:
    """A row for each picture with the maps of its words beside it.

    Parameters
    ----------
    rows : mapping of str to (picture, maps)
        By what the row is called. A word has one scale in all rows, so that rows can be compared.
    """
    columns = max(len(maps) for _, maps in rows.values())
    figure = new_figure(0.5 + 1.15 * (columns + 1), 0.35 + 1.3 * len(rows))
    axes = figure.subplots(len(rows), columns + 1, squeeze=False)
    largest: dict[str, float] = {}
    for _, maps in rows.values():
        for each in maps:
            largest[each.word] = max(largest.get(each.word, 0.0), float(each.values.max()))
    for line, (name, (picture, maps)) in zip(axes, rows.items(), strict=True):
        for ax in line:
            _bare(ax)
        if picture is not None:
            line[0].imshow(picture)
        line[0].set_ylabel(name, size=8, color=INK)
        for ax, attention in zip(line[1:], maps, strict=False):
            _draw(ax, attention, picture, largest[attention.word])
            ax.set_title(f"{attention.word}  {attention.entropy:.2f}", size=8.5, color=INK)
    figure.supxlabel("numbers: entropy of the map, 1 is even; a word has one scale in all rows", size=8.5, color=MUTED)
    return figure


def changes(found: Mapping[str, AttentionChange]) -> Figure:
    """Changes against the untuned model with their intervals: a panel a number, a line a design."""
    numbers = list(dict.fromkeys(name for each in found.values() for name in each.numbers["number"]))
    figure = new_figure(1.2 + 1.75 * len(numbers), 0.9 + 0.32 * len(found))
    axes = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    for ax, number in zip(axes, numbers, strict=True):
        for y, each in enumerate(found.values()):
            rows = each.numbers[each.numbers["number"] == number]
            for row in rows.to_dict("records"):
                colour = COLOURS[y % len(COLOURS)]
                if row["lower"] == row["lower"]:
                    ax.plot([row["lower"], row["upper"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="round")
                ax.plot(row["change"], y, "o", color=colour, markersize=5)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_yticks(range(len(found)), list(found))
        ax.set_ylim(len(found) - 0.5, -0.5)
        if max(map(abs, ax.dataLim.intervalx)) < 1e-12:
            ax.set_xlim(-1, 1)  # nothing changed; an automatic scale would show rounding
        ax.locator_params(axis="x", nbins=4)
        ax.set_title(number, size=8.5, color=INK, loc="left")
        plain_axes(ax, "x")
    figure.supxlabel("change against the untuned model (distance: how far apart the maps lie)", size=8, color=MUTED)
    return figure


def _draw(ax: Axes, attention: AttentionMap, picture: np.ndarray | None, high: float) -> Any:
    """Lay a map over its picture, which shows through in grey."""
    _bare(ax)
    scale: dict[str, Any] = {"cmap": COLOUR_MAP, "vmin": 0.0, "vmax": high or 1.0, "interpolation": "nearest"}
    if picture is None:
        return ax.imshow(attention.values, **scale)
    height, width = picture.shape[:2]
    grey = picture.mean(-1)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    return ax.imshow(attention.on(height, width), alpha=0.72, **scale)


def _bare(ax: Axes) -> None:
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set(xticks=[], yticks=[], facecolor=EMPTY)
