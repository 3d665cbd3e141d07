"""The figure of TLoRA's claim: made from the result, nothing is computed here but a layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import COLOURS, INK, MUTED, new_figure, plain_axes

if TYPE_CHECKING:
    import pandas as pd

    from analysis.weights import WeightChanges

RANKS = 16
"""Ranks that are shown at most."""

NAMES = {"krona": ("KronA", "D"), "tlora": ("TLoRA", "^"), "tlora_star": ("TLoRA*", "s")}


def claim(found: WeightChanges) -> Figure:
    """Left: error against the rank of what T leaves. Right: error against parameters, beside LoRA's curve."""
    return claims({"": found})


def claims(several: Mapping[str, WeightChanges]) -> Figure:
    """Rows of `claim`'s figures, by what each is called."""
    figure = new_figure(9.6, 0.3 + 3.9 * len(several))
    grid = figure.subplots(len(several), 2, squeeze=False)
    for (name, found), (left, right) in zip(several.items(), grid, strict=True):
        _tails(left, found.tails)
        _errors(right, found)
        left.set_title(name, size=9.5, color=INK, loc="left")
        for ax in (left, right):
            plain_axes(ax, "both")
            ax.set_ylim(0, None)
            ax.set_ylabel("error / ‖ΔW‖")
            ax.legend(frameon=False, fontsize=7.5, labelcolor=INK)
    return figure


def _tails(ax: Axes, tails: pd.DataFrame) -> None:
    means = tails.groupby(["of", "transform", "rank"], sort=False)["error"].mean()
    for number, transform in enumerate(sorted(set(tails["transform"]))):
        label = f"T of ring rank {transform}" if transform else "no T: ΔW itself"
        for of, style in (("tuned", "-"), ("random", (0, (3, 2)))):
            if of == "random" and not transform:
                continue  # the same line: it has the same spectrum
            line = means[of, transform]
            line = line[line.index <= RANKS]
            told = label if of == "tuned" else f"{label}, random ΔW"
            ax.plot(line.index, line, linestyle=style, color=COLOURS[number % len(COLOURS)], linewidth=1.6, label=told)
    ax.set_xlabel("rank of the approximation of what T leaves (T itself not counted)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _errors(ax: Axes, found: WeightChanges) -> None:
    tuned = found.fits[found.fits["of"] == "tuned"]
    means = tuned.groupby(["method", "structure"], sort=False)[["parameters", "error"]].mean()
    # LoRA of every rank: what no T leaves, a rank costing the same in each structure's mean over the matrices.
    plain = found.tails[(found.tails["of"] == "tuned") & (found.tails["transform"] == 0)]
    lora = plain.groupby("rank")["error"].mean()
    ranks = lora.index.to_numpy()
    ax.plot(ranks * found.parameters_a_rank, lora, "o-", color=MUTED, markersize=3.5, linewidth=1.4, label="LoRA")
    for number, (method, rows) in enumerate(means.groupby(level="method", sort=False)):
        name, marker = NAMES.get(str(method), (str(method), "o"))
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(rows["parameters"], rows["error"], marker, color=colour, markersize=6, label=name)
        for structure, row in rows.droplevel("method").iterrows():
            words = str(structure).partition(" ")[2]
            ax.annotate(words, (row["parameters"], row["error"]), xytext=(5, 3), textcoords="offset points", size=7,
                        color=colour)  # fmt: skip
    top = max(means["parameters"].max(), 1) if len(means) else ranks.max() * found.parameters_a_rank
    ax.set_xlim(0, float(np.ceil(top * 1.12)))
    ax.set_xlabel("parameters a matrix, mean")
