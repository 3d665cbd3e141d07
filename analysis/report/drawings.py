"""Figures as PNG files for the page, and the one figure that only the page has."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.figures import COLOURS, INK, new_figure, plain_axes
from analysis.report.blocks import Picture

CSS_PIXELS_AN_INCH = 105
_MOST_LINES, _MOST_PLACES = 8, 12


def drawn(
    name: str,
    draw: Callable[[], Figure],
    alt: str,
    caption: str = "",
    mathematics: bool = False,
    photographs: bool = False,
) -> Picture:
    """Draw a figure and make it a picture of the page.

    Parameters
    ----------
    name : str
        Of its file; what does not belong into the name of a file becomes a hyphen.
    mathematics : bool
        Whether text between dollar signs is a formula, as log axes need it. Else names of levels that hold dollar signs
        are shown as they are.
    photographs : bool
        Whether it is made of pictures, which PNG holds in several times the bytes.
    """
    with rc_context({} if mathematics else {"text.parse_math": False}):
        figure = draw()
        buffer = io.BytesIO()
        if photographs:
            figure.savefig(buffer, format="webp", facecolor="white", pil_kwargs={"quality": 92, "method": 4})
        else:
            figure.savefig(buffer, format="png", facecolor="white")
    width = round(figure.get_size_inches()[0] * CSS_PIXELS_AN_INCH)
    kind = "webp" if photographs else "png"
    return Picture(file_name(name), buffer.getvalue(), width, alt, caption, kind)


def file_name(words: str) -> str:
    """Words as the name of a file: letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", words).lower()[:60].strip("-") or "figure"


def interaction(means: pd.DataFrame, first: str, second: str, axis: str, order: Sequence[str] = ()) -> Figure:
    """Means of the combinations of two factors: levels of one along the axis, a line for each level of the other.

    Lines that run in parallel show no interaction. A combination that does not exist breaks its line.

    Parameters
    ----------
    means : DataFrame
        One row a combination: the two columns, ``mean``, ``lower`` and ``upper``.
    order : sequence of str
        Order of the levels.
    """
    along, lines = (first, second) if means[first].nunique() >= means[second].nunique() else (second, first)
    places, names = _ordered(means[along], order), _ordered(means[lines], order)
    figure = new_figure(max(4.0, min(7.2, 1.6 + 0.7 * len(places))), 3.0)
    ax = figure.subplots()
    for k, name in enumerate(names):
        own = means[means[lines].astype(str) == name]
        own = own.set_index(own[along].astype(str))
        own = own[~own.index.duplicated()].reindex(places)
        at = np.arange(len(places)) + 0.06 * (k - (len(names) - 1) / 2)
        colour, style = COLOURS[k % len(COLOURS)], ("-", "--", ":")[k // len(COLOURS) % 3]
        ax.plot(at, own["mean"], style, marker="o", color=colour, markersize=4.5, linewidth=1.4, label=name)
        ax.vlines(at, own["lower"], own["upper"], color=colour, linewidth=1.2, alpha=0.45)
    long = max(len(place) for place in places) * len(places) > 60
    ax.set_xticks(range(len(places)), places, rotation=30 if long else 0, ha="right" if long else "center")
    ax.set(xlabel=along, ylabel=axis)
    ax.margins(x=0.06)
    plain_axes(ax, "y")
    figure.legend(title=lines, title_fontsize=7.5, frameon=False, fontsize=7.5, loc="outside right upper",
                  labelcolor=INK)  # fmt: skip
    return figure


def _ordered(levels: pd.Series, order: Sequence[str]) -> list[str]:
    there = list(dict.fromkeys(levels.astype(str)))
    wanted = [level for level in dict.fromkeys(order) if level in there]
    return wanted + [level for level in there if level not in wanted]


def lines_fit(means: pd.DataFrame, first: str, second: str) -> bool:
    """Whether two factors have few enough levels for lines that can be told apart."""
    fewer, more = sorted((means[first].nunique(), means[second].nunique()))
    return 2 <= fewer <= _MOST_LINES and more <= _MOST_PLACES


def both_ends(frame: pd.DataFrame, best: int = 45, worst: int = 15) -> tuple[pd.DataFrame, str]:
    """The first and the last rows of a long ranking, and words that say so; a short one as it is."""
    if len(frame) <= best + worst:
        return frame, ""
    kept = pd.concat([frame.head(best), frame.tail(worst)])
    return kept, f" Shown are the best {best} and the last {worst} of {len(frame)}."
