"""Optuna's importances of hyper-parameters, from the rows of results instead of a search.

Two evaluators: fANOVA (Hutter, Hoos & Leyton-Brown 2014), the part of a random forest's variance over the grid that is
each hyper-parameter's own, and PED-ANOVA (Watanabe, Bansal & Hutter 2023), how differently the best tenth of the trials
are spread over its values than all are. Rows become trials whose value has the blocks taken out. fANOVA needs
scikit-learn and is left out where that is not installed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.sample import Sample

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator

PED_ANOVA, FANOVA = "ped_anova", "fanova"
TREES = 64
_LOG_SPAN = 10  # a number whose values span more than this factor is taken on a log scale
_TOP, _LEAST_TOP = 0.1, 5  # PED-ANOVA looks at the best tenth, and at five trials at least, as its authors advise


def evaluators(rows: int, seed: int) -> dict[str, BaseImportanceEvaluator]:
    """The evaluators that this installation has, for a number of rows."""
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    top = min(0.5, max(_TOP, _LEAST_TOP / rows))
    found: dict[str, BaseImportanceEvaluator] = {PED_ANOVA: PedAnovaImportanceEvaluator(target_quantile=top)}
    with suppress(ImportError):  # what optuna raises where scikit-learn is missing
        found[FANOVA] = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return found


def encoded(levels: Sequence[str]) -> tuple[BaseDistribution, list]:
    """A hyper-parameter's space, and the value in it of each level.

    Numbers are values of an interval, in log10 where they are positive and span more than a factor of ten; it reaches
    half a step beyond the outer ones, so that each level of an even grid stands for as much of it. fANOVA leaves a log
    scale out of account, so the logarithms themselves are given. Anything else is a choice.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    try:
        numbers = [float(level) for level in levels]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        return CategoricalDistribution(list(levels)), list(levels)
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low > _LOG_SPAN:
        numbers = [math.log10(value) for value in numbers]
    ordered = sorted(numbers)
    first, last = (ordered[1] - ordered[0]) / 2, (ordered[-1] - ordered[-2]) / 2
    return FloatDistribution(ordered[0] - first, ordered[-1] + last), numbers


class Trials:
    """The rows of a sample as trials.

    Parameters
    ----------
    sample
        The rows.
    settings
        The hyper-parameters, each with two levels or more.
    values
        Each row's value (n,), blocks taken out.
    higher_is_better
        What PED-ANOVA takes for best.
    """

    def __init__(self, sample: Sample, settings: Sequence[str], values: np.ndarray, higher_is_better: bool) -> None:
        from optuna.trial import create_trial

        self.settings = list(settings)
        self.direction: Literal["maximize", "minimize"] = "maximize" if higher_is_better else "minimize"
        spaces = {s: encoded(sample.levels[s]) for s in settings}
        self._trials = [
            create_trial(
                value=float(value), params={s: spaces[s][1][sample.codes[s][row]] for s in settings},
                distributions={s: spaces[s][0] for s in settings},
            )
            for row, value in enumerate(values)
        ]  # fmt: skip

    def importances(self, rows: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Importances (settings,), summing to 1, by each evaluator; rows may be named more than once.

        NaN where all values are equal.
        """
        import optuna

        with quiet():
            study = optuna.create_study(direction=self.direction)
            study.add_trials([self._trials[row] for row in rows])
            found = {}
            for label, evaluator in evaluators(len(rows), seed).items():
                try:
                    own = optuna.importance.get_param_importances(study, evaluator=evaluator, params=self.settings)
                except RuntimeError:  # fANOVA's word for a forest without variance
                    own = dict.fromkeys(self.settings, float("nan"))
                found[label] = np.array([own[s] for s in self.settings])
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep optuna's log and warnings off the screen, and put its verbosity back."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
