"""The two variances that power rests on, as they are given or as a pilot shows them.

Against its interaction with tasks a term is measured by σ²(residual) + r·σ²(term:task), with r rows for each of its
levels and task. A pilot gives both by equating mean squares to their expectations (`analysis.strata`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.declared import declared
from analysis.model import Design, contains, name
from analysis.power_terms import TestedTerm, tested_terms
from analysis.sample import check_columns
from analysis.strata import Strata, with_block

TASK, SEED = "task", "seed"


@dataclass(frozen=True)
class MeanSquare:
    """A mean square of a pilot: its value, degrees of freedom, and rows for each level of the term and task."""

    value: float
    df: float
    load: float


@dataclass(frozen=True)
class Variances:
    """Variances of one term; None where they are not known.

    Attributes
    ----------
    residual : float or None
        σ² of the residual.
    residual_df : float
        Of its estimate; infinite for one that is given.
    task : float or None
        σ² of the term's interaction with tasks, not below 0.
    square : MeanSquare or None
        Of that interaction in the pilot, when `task` is from there.
    raw : float or None
        The estimate of `task` where it was below 0.
    """

    residual: float | None
    residual_df: float = math.inf
    task: float | None = None
    square: MeanSquare | None = None
    raw: float | None = None

    def expected(self, load: float) -> tuple[float, float] | None:
        """The expected mean square of an error with so many rows for each level and task; 0 means the residual.

        Returns
        -------
        (value, df) or None
            `df` is Satterthwaite's of the value as an estimate, infinite where nothing was estimated. None when the
            variances do not tell: without replicates only their sum is found, which holds for as many rows.
        """
        if self.residual is None:
            if not load or self.square is None or not math.isclose(load, self.square.load, rel_tol=1e-6):
                return None
            return self.square.value, self.square.df
        if load and self.task is None:
            return None
        value = self.residual + load * (self.task or 0.0)
        parts = [(self.residual, self.residual_df)]
        most = self.residual_df
        if load and self.square is not None:
            share = load / self.square.load
            parts = [((1 - share) * self.residual, self.residual_df), (share * self.square.value, self.square.df)]
            most += self.square.df
        rough = sum(part**2 / df for part, df in parts)
        return value, min(most, value**2 / rough) if rough else math.inf


class Pilot:
    """Results from which variances are estimated.

    Parameters
    ----------
    frame : DataFrame
        One row a trial, with the columns of the factors and, where there are several, ``task`` and ``seed``.
    response : str
    factors, interactions, pair, nested
        The model, as in :func:`analysis.anova`; tasks, and seeds within tasks, are blocks where there are several.

    Attributes
    ----------
    tasks, runs : int
        Number of tasks, and of tasks × seeds.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        response: str,
        factors: Sequence[str],
        interactions: str | Sequence[str] = "none",
        pair: tuple[str, str] | None = None,
        nested: Mapping[str, str] | None = None,
    ) -> None:
        check_columns(frame, [response])
        there = frame[frame[response].notna()]
        own = [column for column in (TASK, SEED) if column in there]
        self.tasks = int(there[TASK].nunique()) if TASK in own else 1
        self.runs = len(there[own].drop_duplicates()) if own else 1
        blocks = [TASK] * (self.tasks > 1) + [":".join(own)] * (SEED in own and self.runs > self.tasks)
        self.plan = declared(factors, blocks, interactions, pair, nested)
        sample = self.plan.read(frame, response)
        self.y = sample.y - sample.y.mean()
        # A sum of squares below what rounding of the response itself can make is none at all.
        self._noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
        self.sample, tested = tested_terms(sample, self.plan, pair)
        self.design = Design(self.sample)
        self._tested = {each.label: each for each in tested}

    def residual(self, of: TestedTerm) -> Variances:
        """The residual of the model that a test is made in; what differs from task to task is in it, too."""
        own = self._tested.get(of.label, of)
        strata = Strata(self.design, self.y, [*self.plan.blocks, *own.model])
        return Variances(self._mean(strata.sum_sq, strata.df), strata.df) if strata.df else Variances(None)

    def against_task(self, of: TestedTerm, residual: float | None = None) -> Variances:
        """Both variances of a term; `residual` is σ² of the residual where it is known already."""
        own = self._tested.get(of.label)
        if own is None:  # cells that are connected in the pilot, and are not in the plan
            return Variances(residual)
        random = with_block([own.term], (TASK,))[0]
        other = with_block([t for t in own.fixed if set(t) != set(own.term)], (TASK,))
        whole = [*self.plan.blocks, *own.model, *with_block(own.model, (TASK,))]
        strata = Strata(self.design, self.y, [*self.plan.blocks, *own.fixed, *other], [random], whole)
        found, found_df = residual, math.inf
        if residual is None and strata.df:
            found, found_df = self._mean(strata.sum_sq, strata.df), float(strata.df)
        df, value = strata.mean_square(random)
        if not df:
            return Variances(found, found_df)
        small = [t for t in strata.terms if not contains(t, random)]
        load = strata.loads_between(self.design.space(small), self.design.space([*small, random]), df)[random]
        square = MeanSquare(self._mean(value * df, df), float(df), load)
        if found is None:
            return Variances(None, square=square)
        raw = (square.value - found) / load
        return Variances(found, found_df, max(0.0, raw), square, raw if raw < 0 else None)

    def _mean(self, sum_sq: float, df: int) -> float:
        return sum_sq / df if sum_sq > self._noise else 0.0

    def described(self) -> str:
        """The pilot in words."""
        blocks = ", ".join(f"{self.sample.cells(b).count} levels of {name(b)}" for b in self.plan.blocks)
        return f"a pilot of {self.sample.n} rows" + (f" ({blocks})" if blocks else "")
