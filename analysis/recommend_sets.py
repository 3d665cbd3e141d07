"""What a recommendation is made from: the designs that were run, their means, and those that may be the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.compare import best
from analysis.compare_tables import BestSet
from analysis.declared import RESIDUAL, Declared
from analysis.means import marginal_means
from analysis.model import name
from analysis.plain import p_is

# Columns of the frame's copies; a space keeps them apart from columns of a store.
_ROW, _WHOLE = "a row", "whole design"


@dataclass(frozen=True)
class Model:
    """What is compared: the frame with its factors, the parts a design is chosen by, and each design's level of them.

    A part is a factor or the pair. Rows of every frame are in the same order.
    """

    columns: list[str]
    parts: list[tuple[str, ...]]
    interactions: list[str]
    frame: pd.DataFrame
    text: dict[tuple[str, ...], np.ndarray]


class Runs:
    """The trials: designs, what failed, and the frame with failures at the worst observed value."""

    def __init__(
        self, frame: pd.DataFrame, response: str, plan: Declared, pair: tuple[str, str] | None, higher: bool
    ) -> None:
        self.frame, self.response, self.plan, self.higher = frame, response, plan, higher
        self.sample = plan.read(frame, response)
        self.every = plan.read(frame.assign(**{_ROW: 0.0}), _ROW)
        self.columns = [column for term in plan.factors for column in term]
        whole = [tuple(pair)] if pair else []
        self.parts = [*whole, *((c,) for c in self.columns if not (pair and c in pair))]
        self.cells = self.every.cells(tuple(self.columns))
        self.text = {part: self._texts(part) for part in self.parts}
        varying = [part for part in self.parts if len(set(self.text[part])) > 1]
        if not [part for part in varying if self.sample.cells(part).count > 1]:
            raise InputFault(
                f"Nothing varies: the rows with a {response} are all of one design, so there is none to choose from. "
                "Run a study with a factor of two levels or more."
            )
        self.names = [", ".join(self.text[part][k] for part in varying) for k in range(self.cells.count)]
        lost = frame[response].isna().to_numpy()
        self.trials = np.bincount(self.cells.codes, minlength=self.cells.count)
        self.failed = np.bincount(self.cells.codes[lost], minlength=self.cells.count)
        self.worst = float(frame[response].min() if higher else frame[response].max())

    def _texts(self, part: Sequence[str]) -> np.ndarray:
        at = [self.columns.index(column) for column in part]
        texts = [":".join(self.every.levels[self.columns[k]][key[k]] for k in at) for key in self.cells.levels]
        return np.array(texts, dtype=object)

    def model(self) -> Model:
        """Factors in the additive model, the pair with its interaction."""
        parts = [part for part in self.parts if self.sample.cells(part).count > 1]
        return Model(self.columns, parts, [name(term) for term in self.plan.interactions], self.frame, self.text)

    def whole(self) -> Model:
        """The whole design as one factor."""
        names = np.array(self.names, dtype=object)
        return Model(
            [_WHOLE], [(_WHOLE,)], [], self.frame.assign(**{_WHOLE: names[self.cells.codes]}), {(_WHOLE,): names}
        )

    def levels_of(self, design: int) -> dict[str, str]:
        """The levels of a design."""
        key = self.cells.levels[design]
        return {column: self.every.levels[column][key[k]] for k, column in enumerate(self.columns)}

    def filled(self, model: Model) -> pd.DataFrame:
        """The model's frame with failures at the worst observed value."""
        return model.frame.fillna({self.response: self.worst})

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks."""
        return [name(block) for block in self.plan.blocks]

    def means(self, model: Model, frame: pd.DataFrame, response: str) -> np.ndarray:
        """Means (designs,) under the model, blocks taken out; NaN where there is none."""
        found = marginal_means(
            frame, response, model.columns, model.columns, self.blocks, model.interactions, error=RESIDUAL
        )
        keys = map(tuple, found[model.columns].astype(str).to_numpy().tolist())
        known = dict(zip(keys, found["mean"].tolist(), strict=True))
        if model.columns == [_WHOLE]:
            return np.array([known.get((each,), np.nan) for each in self.names])
        own = [tuple(self.levels_of(k).values()) for k in range(len(self.names))]
        return np.array([known.get(key, np.nan) for key in own])

    def table(
        self, model: Model, scores: Mapping[str, str], sized: Sequence[str], costs: Sequence[str]
    ) -> pd.DataFrame:
        """A row a design, in the order of the designs."""
        out = pd.DataFrame({"design": self.names})
        for column in self.columns:
            if column != "design":
                out[column] = self._texts([column])
        out["verdict"], out["reason"], out["trials"], out["failed"] = "", "", self.trials, self.failed
        out["mean"] = self.means(model, model.frame, self.response)
        out["counted"] = self._counted(model) if self.failed.any() else out["mean"]
        out["observed"] = self.frame[self.response].astype(float).groupby(self.cells.codes).mean()
        for score in scores:
            out[score] = self.means(model, model.frame, score)
        for column, shown in (*((column, "parameters") for column in sized), *((column, column) for column in costs)):
            out[shown] = self.frame[column].astype(float).groupby(self.cells.codes).mean()
        return out

    def _counted(self, model: Model) -> np.ndarray:
        """Means with failures at the worst value; of a design with failures its own mean, where that is worse.

        In the additive model part of what a failure costs would be laid on other designs of the same levels.
        """
        whole, worse = self.whole(), np.fmin if self.higher else np.fmax
        added = self.means(model, self.filled(model), self.response)
        own = self.means(whole, self.filled(whole), self.response)
        return np.where(self.failed > 0, worse(added, own), added)

    def error(self, wish: str) -> str:
        """The error term that a wish means: a block, or "residual"."""
        block = self.plan.error_block(wish, self.sample)
        return RESIDUAL if block is None else name(block)

    def question(self, error: str) -> str:
        """What the set holds for."""
        block = self.plan.error_block(error, self.sample)
        asked = f"Which design is the best in {self.response} ({'highest' if self.higher else 'lowest'})"
        if block is not None:
            return (
                f"{asked} on new levels of {name(block)}, of which these {self.sample.cells(block).count} are a sample?"
            )
        if (tasks := len(self.sample.levels.get("task", ()))) > 1:
            return f"{asked} on these {tasks} tasks? The error is the residual, so nothing is said of new ones."
        return f"{asked} under the conditions of these runs? The error is the residual."


@dataclass(frozen=True)
class Choice:
    """The sets of a model's parts and the designs (bool) that may be the best; why others are not."""

    model: Model
    sets: tuple[BestSet, ...]
    candidates: np.ndarray
    reasons: np.ndarray
    on_these_tasks: tuple[str, ...]


def choose(runs: Runs, model: Model, error: str, level: float) -> Choice:
    """The designs that may be the best under a model, on the error term that is asked for and on these tasks."""
    sets, raw, filled, found = _candidates(runs, model, error, level)
    here = found if runs.error(error) == RESIDUAL else _candidates(runs, model, RESIDUAL, level)[3]
    reasons = np.full(len(runs.names), "", dtype=object)
    for k in np.flatnonzero(~found):
        if runs.failed[k] == runs.trials[k]:
            reasons[k] = f"all {runs.trials[k]} trials failed"
        elif raw[k] and not filled[k]:
            reasons[k] = (
                f"{runs.failed[k]} of {runs.trials[k]} trials failed, and not among the best when these count as the "
                "worst value"
            )
        else:
            told = (_not_best(each, model.text[tuple(each.of)][k], len(sets) > 1) for each in sets)
            reasons[k] = "; ".join(filter(None, told)) or "its levels have no mean"
    return Choice(model, sets, found, reasons, tuple(np.array(runs.names, dtype=object)[here]))


def _candidates(
    runs: Runs, model: Model, error: str, level: float
) -> tuple[tuple[BestSet, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Sets without the failures; designs in these, in those with failures at the worst value, and that may be best."""
    sets, raw = _sets(runs, model, model.frame, error, level)
    if not runs.failed.any():
        return sets, raw, raw, raw
    _, filled = _sets(runs, model, runs.filled(model), error, level)
    filled &= runs.failed < runs.trials
    found = np.where(runs.failed == 0, raw | filled, raw & filled)
    return sets, raw, filled, found if found.any() else filled


def _sets(
    runs: Runs, model: Model, frame: pd.DataFrame, error: str, level: float
) -> tuple[tuple[BestSet, ...], np.ndarray]:
    own = 1 - (1 - level) / len(model.parts)
    sets, inside = [], np.ones(len(runs.names), dtype=bool)
    for part in model.parts:
        found = best(
            frame, runs.response, list(part), model.columns, runs.blocks, model.interactions, error, runs.higher, own
        )
        out = {each for each, may in zip(found.rows["level"], found.rows["may_be_best"], strict=True) if may is False}
        inside &= np.isin(model.text[part], [each for each in found.rows["level"] if each not in out])
        sets.append(found)
    return tuple(sets), inside


def _not_best(found: BestSet, level: str, several: bool) -> str:
    rows = found.rows[found.rows["level"] == level]
    if rows.empty or rows.iloc[0]["may_be_best"] is not False:
        return ""
    what = f"{level} is not the best {name(tuple(found.of))}" if several else "not the best"
    return f"{what} (p {p_is(float(rows.iloc[0]['p_adjusted']))})"
