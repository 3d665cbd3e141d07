"""Numbers beside attention maps: agreement with where the object is, and change against the untuned model.

Chance has two values. An even map of the same size hits the object as often as its area says. But objects tend to stand
in the middle of pictures, so a map that always points to the middle beats that without looking; so every map is held
against the objects of the other pictures too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.attention import AttentionMap
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = ("pointing", "iou", "inside")
"""As `against_mask` has them."""


def against_mask(attention: AttentionMap, mask: np.ndarray) -> dict[str, float]:
    """Hold a map against the mask of an object.

    Parameters
    ----------
    mask : bool array (height, width)
        Where the object is; the map is interpolated to its size.

    Returns
    -------
    dict
        `pointing`: 1 if the map's largest value is on the object, else 0 (the pointing game of Zhang et al. 2018,
        doi 10.1007/s11263-017-1059-x). `iou`: intersection over union of the object and as many pixels with the map's
        largest values as the object has; there is no threshold to choose. `inside`: share of the map's sum on the
        object (Wang et al. 2020, Score-CAM, arXiv 1910.01279).

    Raises
    ------
    InputFault
        For a mask that is empty, full or not of two dimensions.
    """
    _check_mask(mask)
    return _scores(*_ranked(attention, mask.shape), mask)


def _check_mask(mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != bool or mask.all() or not mask.any():
        raise InputFault(
            f"mask: got {mask.dtype} of shape {mask.shape} with {int(np.count_nonzero(mask))} places of the object; "
            "expected bool (height, width) with places on the object and off it"
        )


def _ranked(attention: AttentionMap, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The map's values on a grid, flat, and their places from the largest on."""
    values = attention.on(shape[0], shape[1]).ravel()
    return values, np.argsort(-values, kind="stable")


def _scores(values: np.ndarray, order: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    flat = mask.ravel()
    area = int(flat.sum())
    both = int(flat[order[:area]].sum())
    total = float(values.sum())
    return {
        "pointing": float(flat[order[0]]),
        "iou": both / (2 * area - both),
        "inside": float(values[flat].sum()) / total if total > 0 else float("nan"),
    }


@dataclass(frozen=True)
class Agreement(Result):
    """How well maps point at objects.

    Attributes
    ----------
    word : str
        The words of the maps, as shown.
    each : DataFrame
        A row a picture: `entropy`, `pointing`, `iou`, `inside` and `area`, the object's share of the picture.
    numbers : DataFrame
        A row each of `pointing`, `iou`, `inside`: `mean`, `lower`, `upper`; `even`, what an even map or a random
        place has; `others`, the mean of the maps against the objects of the other pictures; `gain`, the mean of what is
        above `others`, with `gain_lower`, `gain_upper`.
    level : float
        Of the intervals, over pictures.
    """

    word: str
    each: pd.DataFrame
    numbers: pd.DataFrame
    level: float

    def to_frame(self) -> pd.DataFrame:
        """The numbers, a row each."""
        return self.numbers

    def explain(self) -> str:
        """Pointing accuracy and overlap beside both kinds of chance."""
        rows = self.numbers.set_index("number")
        pointing, iou, inside = rows.loc["pointing"], rows.loc["iou"], rows.loc["inside"]
        count = len(self.each)
        return (
            f"Over {count} pictures the map of {self.word} is largest on the object in {pointing['mean']:.0%}"
            f"{_between(pointing, 'lower', 'upper', '.0%', self.level)}; a random place is on it in "
            f"{pointing['even']:.0%}, and the same maps hit the object of another picture in {pointing['others']:.0%}. "
            f"The overlap (IoU) is {iou['mean']:.3f}{_between(iou, 'lower', 'upper', '.3f', self.level)}, against "
            f"{iou['even']:.3f} for random places and {iou['others']:.3f} with the objects of other pictures: a gain "
            f"over these of {iou['gain']:.3f}{_between(iou, 'gain_lower', 'gain_upper', '.3f', self.level)}. "
            f"Both go by the order of the map's values, not by how much they differ: {inside['mean']:.0%} of the map's "
            f"sum lies on the object and {inside['even']:.0%} of an even map's, and the map's entropy is "
            f"{self.each['entropy'].mean():.3f} of an even map's. "
            "Intervals are over pictures."
        )


def agreement(maps: Sequence[AttentionMap], masks: Sequence[np.ndarray], level: float = 0.95) -> Agreement:
    """Hold maps against the masks of what is in their pictures.

    Parameters
    ----------
    maps : sequence of AttentionMap
        Of the word for the object, one a picture.
    masks : sequence of bool arrays
        As many, all of one size.
    level : float
        Of the intervals over pictures: t, and Wilson for pointing.

    Raises
    ------
    InputFault
        For fewer than two pictures, or masks that do not fit.
    """
    if len(maps) != len(masks) or len(maps) < 2:
        raise InputFault(f"got {len(maps)} maps and {len(masks)} masks; expected a mask for each of at least 2 maps")
    if len({np.shape(mask) for mask in masks}) > 1:
        raise InputFault("the masks have several sizes; expected one")
    _check_level(level)
    for mask in masks:
        _check_mask(mask)
    ranked = [_ranked(attention, masks[0].shape) for attention in maps]
    scores = [[_scores(*one, mask) for mask in masks] for one in ranked]
    count = len(maps)
    areas = np.array([np.mean(mask) for mask in masks])
    # A set of share a meets another at random in a² of all places, and together they have 2a − a².
    even = {"pointing": areas.mean(), "iou": (areas / (2 - areas)).mean(), "inside": areas.mean()}
    rows, each = [], {"entropy": [attention.entropy for attention in maps]}
    for number in NUMBERS:
        table = np.array([[score[number] for score in row] for row in scores])
        own = np.diagonal(table).copy()
        others = (table.sum(1) - own) / (count - 1)
        each[number] = own.tolist()
        mean, lower, upper = _share_interval(own, level) if number == "pointing" else _t_interval(own, level)
        gain, gain_lower, gain_upper = _t_interval(own - others, level)
        rows.append({"number": number, "pictures": count, "mean": mean, "lower": lower, "upper": upper,
                     "even": float(even[number]), "others": float(others.mean()), "gain": gain,
                     "gain_lower": gain_lower, "gain_upper": gain_upper})  # fmt: skip
    shown = ", ".join(repr(word) for word in dict.fromkeys(attention.word for attention in maps))
    return Agreement(shown, pd.DataFrame({**each, "area": areas}), pd.DataFrame(rows), level)


@dataclass(frozen=True)
class AttentionChange(Result):
    """How tuning changed the maps of a word, over the same pictures, noise and prompts.

    Attributes
    ----------
    word : str
    numbers : DataFrame
        A row each of `mean` (what a place pays the word), `entropy` and, with masks, `pointing`, `iou`, `inside`:
        `before`, `after`, `change` with `lower`, `upper`. And `distance`: half the sum of absolute differences between
        the two maps as distributions over places, 0 the same and 1 apart; it has no `before` and `after`.
    pictures : int
    level : float
        Of the paired t-intervals over pictures.
    """

    word: str
    numbers: pd.DataFrame
    pictures: int
    level: float

    def to_frame(self) -> pd.DataFrame:
        """The numbers, a row each."""
        return self.numbers

    def explain(self) -> str:
        """Each change with its interval, and whether it can be told from none."""
        sentences = []
        for row in self.numbers.to_dict("records"):
            interval = _between(row, "lower", "upper", ".2g", self.level)
            if row["number"] == "distance":
                sentences.append(f"The maps before and after lie {row['change']:.2g}{interval} apart (0 to 1).")
                continue
            told = not row["lower"] <= 0 <= row["upper"]
            doubt = "" if told or np.isnan(row["lower"]) else ", which cannot be told from no change"
            sentences.append(
                f"{_WORDS[row['number']]} goes from {row['before']:.3f} to {row['after']:.3f}: by "
                f"{row['change']:+.2g}{interval}{doubt}."
            )
        return (
            f"Maps of {self.word} over {self.pictures} pictures, before and after tuning. {' '.join(sentences)} "
            "Intervals are over pictures of this one trained adapter; they do not say what another training would give."
        )

    def plot(self) -> Figure:
        """The changes with their intervals."""
        from analysis.attention_figures import changes

        return changes({"": self})


_WORDS = {
    "mean": "What a place pays the word",
    "entropy": "Entropy (1 is even)",
    "pointing": "Pointing accuracy",
    "iou": "Overlap with the object (IoU)",
    "inside": "The share of the map on the object",
}


def attention_change(
    before: Sequence[AttentionMap],
    after: Sequence[AttentionMap],
    masks: Sequence[np.ndarray] | None = None,
    level: float = 0.95,
) -> AttentionChange:
    """Compare the maps of a word before and after tuning, or of two designs, picture by picture.

    Parameters
    ----------
    before, after : sequence of AttentionMap
        Of the same pictures in the same order.
    masks : sequence of bool arrays, optional
        Where each picture's object is.

    Raises
    ------
    InputFault
        For fewer than two pictures, or maps or masks that do not fit one another.
    """
    if len(before) != len(after) or len(before) < 2 or (masks is not None and len(masks) != len(before)):
        counts = f"{len(before)} maps before, {len(after)} after" + (f", {len(masks)} masks" if masks else "")
        raise InputFault(f"got {counts}; expected as many of each, at least 2")
    if any(one.values.shape != other.values.shape for one, other in zip(before, after, strict=True)):
        raise InputFault("maps before and after differ in size; expected the same pictures")
    _check_level(level)
    rows: list[dict[str, Any]] = []

    def add(number: str, old: np.ndarray, new: np.ndarray) -> None:
        change, lower, upper = _t_interval(new - old, level)
        rows.append({"number": number, "before": float(old.mean()), "after": float(new.mean()), "change": change,
                     "lower": lower, "upper": upper})  # fmt: skip

    add("mean", *(np.array([each.mean for each in maps]) for maps in (before, after)))
    add("entropy", *(np.array([each.entropy for each in maps]) for maps in (before, after)))
    if masks is not None:
        scored = [[against_mask(each, mask) for each, mask in zip(maps, masks, strict=True)]
                  for maps in (before, after)]  # fmt: skip
        for number in NUMBERS:
            add(number, *(np.array([score[number] for score in scores]) for scores in scored))
    apart = np.array([_distance(one.values, other.values) for one, other in zip(before, after, strict=True)])
    distance, lower, upper = _t_interval(apart, level)
    lower, upper = float(np.maximum(0, lower)), float(np.minimum(1, upper))
    rows.append({"number": "distance", "before": None, "after": None, "change": distance, "lower": lower,
                 "upper": upper})  # fmt: skip
    shown = ", ".join(repr(word) for word in dict.fromkeys(attention.word for attention in after))
    return AttentionChange(shown, pd.DataFrame(rows), len(before), level)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def _t_interval(values: np.ndarray, level: float) -> tuple[float, float, float]:
    """Mean and t-interval; without one where all values are equal, which says nothing about how they vary."""
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    if not error > 0:
        return mean, float("nan"), float("nan")
    reach = float(t_distribution.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def _share_interval(hits: np.ndarray, level: float) -> tuple[float, float, float]:
    """Share of hits and its Wilson interval, which stays within 0 and 1."""
    from statsmodels.stats.proportion import proportion_confint

    lower, upper = proportion_confint(int(hits.sum()), len(hits), alpha=1 - level, method="wilson")
    return float(hits.mean()), float(lower), float(upper)


def _between(row: Any, lower: str, upper: str, form: str, level: float) -> str:
    if np.isnan(row[lower]):
        return " (no interval: all pictures have the same)"
    return f" ({level:.0%} interval {row[lower]:{form}} to {row[upper]:{form}})"


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputFault(f"level={level}: expected a share between 0 and 1, such as 0.95")
