"""What is compared: the levels of a factor, or the combinations of several, under a declared model; their contrasts.

A contrast is taken of means over all levels of the other factors, counted equally, in which everything that the levels
compared have in common cancels. So it may be estimable where the means themselves are not, as within a component of two
factors. Combinations of several factors get their interaction into the model: each then has a mean of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.compare_tables import BEST_COLUMNS, ContrastTable
from analysis.declared import AUTO, declared, names
from analysis.linear import Fit
from analysis.means import crossed
from analysis.model import name
from analysis.multiplicity import holm
from analysis.sample import Sample, text_of
from analysis.strata import RESIDUAL

ON_THEIR_OWN = "each on its own, not simultaneous"


@dataclass(frozen=True)
class Estimated:
    """Contrasts (k,) with standard errors and degrees of freedom; NaN where there are none."""

    value: np.ndarray
    se: np.ndarray
    df: np.ndarray
    estimable: np.ndarray
    error: str
    approximate: bool

    @property
    def t(self) -> np.ndarray:
        """Estimate over standard error."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.value / self.se)


class Compared:
    """The levels of `of` in a sample, and contrasts of them.

    Attributes
    ----------
    labels : list of tuple of str
        A level of each column of `of`, for every combination that occurs.
    counts : int array (levels,)
        Rows of each.
    added : bool
        Whether the interaction of the columns of `of` was put into the model for this comparison.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        response: str,
        of: str | Sequence[str],
        factors: str | Sequence[str],
        blocks: str | Sequence[str] = (),
        interactions: str | Sequence[str] = "none",
        error: str = AUTO,
    ) -> None:
        self.of, factors = names(of), names(factors)
        strange = [c for c in self.of if c not in factors]
        if strange or not self.of or len(set(self.of)) < len(self.of):
            wrong = f"{', '.join(strange)} is not among" if strange else "Name one or several different ones of"
            raise InputFault(f"{wrong} the factors {', '.join(factors)}: their levels are what is compared.")
        plan = declared(factors, blocks, interactions)
        self.added = len(self.of) > 1 and not any(set(t) == set(self.of) for t in plan.interactions)
        if self.added:
            plan = declared(factors, blocks, [*map(name, plan.interactions), *crossed(self.of)])
        self.plan, self.sample = plan, plan.read(frame, response)
        self.fit = Fit(self.sample, plan, error, self.of)
        cells = self.sample.cells(tuple(self.of))
        self.keys: list[tuple[int, ...]] = [tuple(key) for key in cells.levels.tolist()]
        self.labels = [tuple(self.sample.levels[c][k] for c, k in zip(self.of, key, strict=True)) for key in self.keys]
        if len(self.labels) < 2:
            raise InputFault(
                f"{name(tuple(self.of))} has one level in the rows with a {response} ({':'.join(self.labels[0])}); "
                "there is nothing to compare it with."
            )
        self.counts = np.bincount(cells.codes, minlength=cells.count)
        self.asked_error = error
        self._rows, self._known = level_rows(self.fit, self.of, self.keys)
        # A standard error below what rounding of the response can make is none at all.
        self._noise = 8 * float(np.finfo(float).eps * np.abs(self.sample.y).max())

    @property
    def texts(self) -> list[str]:
        """Levels as they are written: ``CA_out:FFN_in``."""
        return [":".join(label) for label in self.labels]

    @property
    def block(self) -> str | None:
        """The block that answers hold for new levels of; None against the residual."""
        return None if self.fit.block is None else name(self.fit.block)

    def means(self) -> pd.DataFrame:
        """Levels with their rows and marginal means over all levels of the other factors; NaN where not estimable."""
        out = pd.DataFrame({"level": self.texts})
        for place, column in enumerate(self.of):
            if len(self.of) > 1 and column not in BEST_COLUMNS:
                out[column] = [label[place] for label in self.labels]
        out["n"], out["mean"] = self.counts, np.nan
        weights = [
            self.fit.weights(self.of, key, [c for t in self.plan.factors for c in t], "levels") for key in self.keys
        ]
        known = [k for k, row in enumerate(weights) if row is not None]
        if known:
            found = self.fit.estimate(np.stack([weights[k] for k in known]))  # type: ignore[misc]
            out.loc[known, "mean"] = found.value + self.fit.centre
        return out

    def joint(self, matrix: np.ndarray) -> tuple[float, float] | None:
        """Wald's F that contrasts (k, levels) are all 0, and its second df; None where it cannot be given."""
        if not usable(matrix, self._known).all():
            return None
        found = self.fit.estimate(matrix @ self._rows)
        if found.covariance is None or not found.estimable.all() or not (found.se > self._noise).all():
            return None
        f = float(found.value @ np.linalg.solve(found.covariance, found.value)) / len(matrix)
        return f, float(found.df[0])

    def number(self, level: object) -> int:
        """Return the place of a level, given as a name, or a sequence of names for several columns.

        Raises
        ------
        InputFault
            If it does not occur.
        """
        wanted = level if isinstance(level, tuple | list) else (level,)
        text = ":".join(map(text_of, wanted))
        if text not in self.texts:
            raise InputFault(
                f"{text!r} is no level of {name(tuple(self.of))} in these rows; there are {', '.join(self.texts)}."
            )
        return self.texts.index(text)

    def estimate(self, matrix: np.ndarray) -> Estimated:
        """Contrasts (k, levels) on the chosen error term, pooled over what is compared."""
        value, se, df = (np.full(len(matrix), np.nan) for _ in range(3))
        good, error, approximate = usable(matrix, self._known), RESIDUAL, False
        if good.any():
            found = self.fit.estimate(matrix[good] @ self._rows)
            value[good], se[good], df[good] = found.value, found.se, found.df
            good[good] = found.estimable
            error, approximate = found.error, found.approximate
        return self._without_noise(value, se, df, good, error, approximate)

    def estimate_by_block(self, matrix: np.ndarray) -> Estimated:
        """Contrasts (k, levels), each by its own variation over the levels of the error's block.

        A contrast is estimated within every level of the block in which it can be, and these values are one sample:
        exact for normal values of equal variance, whatever other contrasts vary by.
        """
        block = self.fit.block
        assert block is not None
        cells = self.sample.cells(block)
        values = np.full((cells.count, len(matrix)), np.nan)
        for number in range(cells.count):
            fit = Fit(_part(self.sample, cells.codes == number), self.plan, RESIDUAL, self.of)
            rows, known = level_rows(fit, self.of, self.keys)
            good = usable(matrix, known)
            if good.any():
                values[number, good] = fit.estimate(matrix[good] @ rows).value
        count = (~np.isnan(values)).sum(axis=0)
        total = np.where(np.isnan(values), 0.0, values).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = total / count
            square = np.where(np.isnan(values), 0.0, values - value) ** 2
            se = np.sqrt(square.sum(axis=0) / (count - 1) / count)
        tested = count > 1
        label = f"the contrast's own interaction with {name(block)}"
        # Means of blocks with rows missing do not vary equally.
        sizes = np.bincount(self.sample.cells((*self.of, *block)).codes)
        uneven = len(sizes) < cells.count * len(self.keys) or len(set(sizes.tolist())) > 1
        return self._without_noise(
            value, np.where(tested, se, np.nan), np.where(tested, count - 1.0, np.nan), count > 0, label, uneven
        )

    def _without_noise(
        self, value: np.ndarray, se: np.ndarray, df: np.ndarray, estimable: np.ndarray, error: str, approximate: bool
    ) -> Estimated:
        with np.errstate(invalid="ignore"):
            nothing = ~(se > self._noise) | ~(df > 0)
        return Estimated(
            value, np.where(nothing, np.nan, se), np.where(nothing, np.nan, df), estimable, error, approximate
        )

    def question(self) -> str:
        """What the answers hold for."""
        what = f"Which levels of {name(tuple(self.of))} differ in {self.sample.response}"
        if self.fit.block is not None:
            count = self.sample.cells(self.fit.block).count
            return f"{what} on new levels of {self.block}, of which these {count} are a sample?"
        if len(self.sample.levels.get("task", ())) > 1:
            tasks = len(self.sample.levels["task"])
            return f"{what} on these {tasks} tasks? The error is the residual, so nothing is said of new ones."
        return f"{what} under the conditions of these runs? The error is the residual."

    def notes(self, pooled: bool = True) -> list[str]:
        """What is to be known of any comparison under this model."""
        said = []
        if self.asked_error == AUTO:
            said.append(f"Error 'auto' was taken as '{self.block or RESIDUAL}'.")
        if self.block is not None and pooled and len(self.labels) > 2:
            said.append(
                "The error is pooled over what is compared, which holds if all differences vary equally from "
                f"{self.block} to {self.block}."
            )
        if self.added:
            said.append(f"Combinations of {', '.join(self.of)} are compared: their interaction is in the model.")
        without = [text for text, known in zip(self.texts, self._known, strict=True) if not known]
        if without:
            said.append(
                f"{', '.join(without)}: no mean over all levels of what {'they' if len(without) > 1 else 'it'} "
                f"interact{'' if len(without) > 1 else 's'} with, because cells are empty. Compare combinations, "
                "or leave the interaction out."
            )
        return said

    def table(self, found: Estimated, contrast: Mapping[str, Sequence[str]], adjust: str, level: float,
              p_adjusted: np.ndarray, multiple: np.ndarray, intervals: str, method: str, notes: Sequence[str],
              departure: dict[str, float] | None = None) -> ContrastTable:  # fmt: skip
        """Put contrasts together with their adjusted p values and multiples of the standard error."""
        with np.errstate(invalid="ignore"):
            p = 2 * t_distribution.sf(np.abs(found.t), found.df)
        rows = pd.DataFrame(
            {
                **contrast, "estimate": found.value, "se": found.se, "df": found.df, "t": found.t, "p": p,
                "p_adjusted": p_adjusted, "lower": found.value - multiple * found.se,
                "upper": found.value + multiple * found.se, "estimable": found.estimable, "error": found.error,
            }
        )  # fmt: skip
        said = list(notes)
        if found.approximate:
            said.append(
                "The rows are not balanced: standard errors or their degrees of freedom are approximate, and so is the "
                "adjustment."
            )
        return ContrastTable(
            response=self.sample.response, of=tuple(self.of), method=method, adjust=adjust, level=level,
            intervals=intervals, error=found.error, approximate=found.approximate, n=self.sample.n,
            n_missing=self.sample.n_missing, question=self.question(), notes=tuple(said), rows=rows,
            departure=departure,
        )  # fmt: skip


def by_holm_or_alone(found: Estimated, adjust: str, level: float) -> tuple[np.ndarray, np.ndarray, str]:
    """Adjusted p values, multiples of the standard error, and what the intervals are; for "holm" and "none".

    Holm's procedure has no intervals of its own; Bonferroni's are simultaneous too, and wider.
    """
    with np.errstate(invalid="ignore"):
        p = 2 * t_distribution.sf(np.abs(found.t), found.df)
    if adjust == "none":
        return p, t_distribution.isf((1 - level) / 2, found.df), ON_THEIR_OWN
    family = max(1, int((~np.isnan(p)).sum()))
    return holm(p), t_distribution.isf((1 - level) / 2 / family, found.df), f"simultaneous, Bonferroni for {family}"


def check_adjust(adjust: str, offered: Sequence[str]) -> None:
    """Raise InputFault unless an adjustment is among those offered."""
    if adjust not in offered:
        raise InputFault(f"p values are adjusted by {', '.join(map(repr, offered))}, not {adjust!r}.")


def check_level(level: float) -> None:
    """Raise InputFault unless a level is a probability."""
    if not 0 < level < 1:
        raise InputFault(f"The level of intervals is a probability such as 0.95, not {level!r}.")


def level_rows(fit: Fit, of: Sequence[str], keys: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (levels, width) of the means of levels, without what all of them share, and whether each exists.

    A level does not exist where a term of the model lacks a cell of its mean.
    """
    rows, known = np.zeros((len(keys), fit.width)), np.ones(len(keys), dtype=bool)
    for term in fit.terms:
        own = [(place, of.index(c)) for place, c in enumerate(term) if c in of]
        if not own:
            continue
        cells, start = fit.sample.cells(term), fit.start[term]
        full = int(np.prod([len(fit.sample.levels[c]) for c in term if c not in of], dtype=int))
        for k, key in enumerate(keys):
            at = np.ones(cells.count, dtype=bool)
            for place, column in own:
                at &= cells.levels[:, place] == key[column]
            if at.sum() < full:
                known[k] = False
            else:
                rows[k, start : start + cells.count] = at / at.sum()
    return rows, known


def usable(matrix: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which contrasts (k, levels) take levels that exist only."""
    return np.asarray(~(matrix[:, ~known] != 0).any(axis=1))


def _part(sample: Sample, at: np.ndarray) -> Sample:
    """Some rows of a sample, with all its levels."""
    return Sample(sample.response, sample.y[at], {c: codes[at] for c, codes in sample.codes.items()}, sample.levels, 0)
