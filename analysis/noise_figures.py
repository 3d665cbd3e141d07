"""Figures of noise-difference maps: made from results, nothing is computed here but a layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from adapters.faults import InputFault
from analysis.figures import INK, MUTED, dot_plot, new_figure

if TYPE_CHECKING:
    from analysis.noise_difference import NoiseMaps
    from analysis.noise_reading import ReadingContrast


def noise_grid(rows: Sequence[tuple[str, NoiseMaps]]) -> Figure:
    """Maps of several designs, a row a design and a column a timestep, all on one colour scale.

    A map is in units of its timestep's prediction (its root mean square), so that timesteps can be compared too. The
    number beside a row is the design's size, that over a map the timestep. Colours go with the square root, or maps ten
    times smaller than the largest would be black.

    Parameters
    ----------
    rows : sequence of (label, NoiseMaps)
        From the top down, all with the same timesteps.

    Raises
    ------
    InputFault
        No row, or rows whose timesteps differ.
    """
    if not rows or any(not np.array_equal(maps.timesteps, rows[0][1].timesteps) for _, maps in rows):
        raise InputFault("Maps are shown side by side where there are some, all of the same timesteps.")
    timesteps = rows[0][1].timesteps
    every = [maps.relative_maps for _, maps in rows]
    finite = np.concatenate([values[np.isfinite(values)] for values in every])
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    label_width = 0.6 + 0.065 * max(len(line) for label, _ in rows for line in label.split("\n"))
    figure = new_figure(label_width + 0.72 * len(timesteps) + 0.9, 0.75 + 0.74 * len(rows))
    grid = figure.subplots(len(rows), len(timesteps), squeeze=False)
    for axes, (label, maps), values in zip(grid, rows, every, strict=True):
        for ax, value in zip(axes, values, strict=True):
            shown = ax.imshow(value, cmap="magma", norm=PowerNorm(0.5, 0, top), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        size = f"{maps.size:.3g}" if np.isfinite(maps.size) else "no size"
        axes[0].set_ylabel(f"{label}\n{size}".strip(), rotation=0, ha="right", va="center", size=7.5, color=INK)
    for ax, timestep in zip(grid[0], timesteps, strict=True):
        ax.set_title(str(timestep), size=8, color=MUTED)
    figure.suptitle("timestep", size=8.5, color=MUTED)
    bar = figure.colorbar(shown, ax=grid, shrink=min(1.0, 1.6 / len(rows) + 0.35), aspect=24, pad=0.015)
    bar.set_label("difference / RMS of\nthe prediction, square-root scale", size=8, color=MUTED)
    bar.ax.tick_params(length=0, labelsize=7.5, colors=MUTED)
    bar.outline.set_visible(False)
    return figure


def pair_means(found: ReadingContrast) -> Figure:
    """The mean of every pair with its interval, largest first, coloured by whether it reads the positions."""
    means = found.means.sort_values("mean", ascending=False, kind="stable")
    words = {True: f"reads {' or '.join(found.reads)}", False: "reads another position"}
    kind = "geometric mean" if found.ratio else "mean"
    axis = f"{found.response}: {kind}, {found.level:.0%} intervals, each on its own"
    return dot_plot(means.assign(group=means["reads"].map(words)), "pair", "mean", "group", axis)
