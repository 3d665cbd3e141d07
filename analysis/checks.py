"""What an F test assumes of its residual, and what of it these data show: equal spread, normality, no single odd row.

A check is a test too: with few rows it finds little, with many it finds what does not matter. So each finding comes
with its size and with what it means for the F test. Checked is the residual of the declared model; how effects vary
from task to task, which a test against factor × task rests on, cannot be checked with few tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.basis import FULL_LEVERAGE, leverages
from analysis.declared import Declared, declared
from analysis.model import Design
from analysis.plain import cell_name, p_is
from analysis.result import Result
from analysis.sample import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.05
# Fewer rows of a cell have no spread to speak of: two lie equally far from their median, whatever they are.
SMALLEST_CELL = 3
# Below this Brown and Forsythe's test rejects far less often than its level says.
_SMALL_CELL = 6
SHAPIRO_LIMIT = 5000
_SKEWED, _HEAVY = 1.0, 2.0


@dataclass(frozen=True)
class Spread:
    """Brown and Forsythe's test of equal spread over the cells of some columns; None where there is none.

    Attributes
    ----------
    over : str
        The columns.
    F, p : float or None
        On `df` and `df_error` degrees of freedom.
    smallest, largest : (str, float) or None
        The cells with the smallest and largest SD of the residual, with it.
    cells, too_small : int
        How many cells there are, and how many of them have fewer than three rows and were left out.
    typical_rows : float
        Median number of rows of the cells compared.
    sizes_differ : bool
        Whether the largest cell compared has more than 1.5 times the rows of the smallest.
    """

    over: str
    F: float | None
    df: int
    df_error: int
    p: float | None
    smallest: tuple[str, float] | None
    largest: tuple[str, float] | None
    cells: int
    too_small: int
    typical_rows: float
    sizes_differ: bool


@dataclass(frozen=True)
class Normality:
    """A test of the residual's normality: its name, statistic and p; None where it cannot be made."""

    test: str
    statistic: float | None
    p: float | None
    skewness: float | None
    excess_kurtosis: float | None


@dataclass(frozen=True)
class Outlier:
    """The row whose externally studentised residual is the largest.

    Attributes
    ----------
    row : str
        Its label in the frame's index.
    levels : str
        Its factors and blocks.
    residual : float
        In the response's units.
    studentised : float
        The residual over its standard error, both without the row itself.
    p : float
        Two-sided t, times the number of rows (Bonferroni), at most 1.
    position : int
        Its place among the rows with a response.
    """

    row: str
    levels: str
    residual: float
    studentised: float
    p: float
    position: int


@dataclass(frozen=True)
class Checks(Result):
    """Findings about the residual of a declared model.

    ``residuals``, ``studentised`` (NaN where a row alone decides a parameter) and ``fitted``, each (n,), are there for
    the figure and are not part of the dictionary.
    """

    response: str
    n: int
    n_missing: int
    df: int
    spread: tuple[Spread, ...]
    normality: Normality
    outlier: Outlier | None
    notes: tuple[str, ...]
    residuals: np.ndarray = field(repr=False, compare=False)
    studentised: np.ndarray = field(repr=False, compare=False)
    fitted: np.ndarray = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a check: what, of what, the test, its statistic and p, and the finding in words."""
        rows: list[dict[str, Any]] = []
        for each in self.spread:
            rows.append(
                {"check": "equal spread", "of": each.over, "test": "Brown-Forsythe", "statistic": each.F, "df": each.df,
                 "df_error": each.df_error, "p": each.p, "finding": _spread_words(each)}
            )  # fmt: skip
        normal = self.normality
        rows.append(
            {"check": "normality", "of": "residual", "test": normal.test, "statistic": normal.statistic, "df": None,
             "df_error": None, "p": normal.p, "finding": _normal_words(normal, self.n)}
        )  # fmt: skip
        if self.outlier is not None:
            odd = self.outlier
            rows.append(
                {"check": "outlier", "of": f"row {odd.row}", "test": "studentised residual, Bonferroni",
                 "statistic": odd.studentised, "df": None, "df_error": self.df - 1, "p": odd.p,
                 "finding": _outlier_words(odd, self.response)}
            )  # fmt: skip
        return pd.DataFrame(rows).astype({"statistic": float, "p": float, "df": float, "df_error": float})

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what cannot be tested is None."""
        return {
            "response": self.response, "n": self.n, "n_missing": self.n_missing, "df": self.df,
            "spread": [asdict(each) for each in self.spread], "normality": asdict(self.normality),
            "outlier": None if self.outlier is None else asdict(self.outlier), "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """The findings and what they mean for the F test."""
        lines = [_spread_words(each) for each in self.spread]
        lines.append(_normal_words(self.normality, self.n))
        if self.outlier is not None:
            lines.append(_outlier_words(self.outlier, self.response))
        if self.n_missing:
            lines.append(f"{self.n_missing} rows without a {self.response} were left out; {self.n} were used.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """Residuals against fitted values, and their quantiles against the normal's."""
        from analysis.check_figures import residual_plots

        return residual_plots(self)


def check(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    nested: Mapping[str, str] | None = None,
) -> Checks:
    """Check the residual of a model for equal spread, normality and outliers.

    Parameters
    ----------
    factors, blocks, interactions, nested
        As in :func:`analysis.anova`.

    Returns
    -------
    Checks
        Spread is compared over the cells of all factors together and over the levels of each factor, on what blocks
        and cells of the factors leave of the response, so that neither an effect nor an interaction passes for spread.
        Normality and outliers are those of the declared model's residual.

    References
    ----------
    Brown & Forsythe 1974, Journal of the American Statistical Association 69, 364–367; Shapiro & Wilk 1965, Biometrika
    52, 591–611; D'Agostino & Pearson 1973, Biometrika 60, 613–622; Cook & Weisberg 1982, Residuals and Influence in
    Regression, §2.2.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`.
    """
    plan = declared(factors, blocks, interactions, nested=nested)
    sample = plan.read(frame, response)
    design = Design(sample)
    full = design.space(plan.terms)
    y = sample.y - sample.y.mean()
    residuals, df = full.residuals(y), sample.n - full.rank
    # Below what rounding of the response can make, residuals are none.
    noise = sample.n * (np.finfo(float).eps * float(np.abs(sample.y).max())) ** 2
    notes = []
    if df == 0 or float(residuals @ residuals) <= noise:
        notes.append("The model leaves no residual, so nothing about it can be checked.")
        residuals, studentised = np.zeros(sample.n), np.full(sample.n, np.nan)
        normality, outlier = Normality("Shapiro-Wilk", None, None, None, None), None
    else:
        studentised = _studentised(residuals, leverages(design, full), df)
        normality = _normality(residuals)
        outlier = _outlier(frame, sample, residuals, studentised, df)
        alone = int(np.isnan(studentised).sum()) if df > 1 else 0
        if alone:
            notes.append(
                f"{alone} of {sample.n} rows each decide a parameter alone (leverage 1): they fit whatever they are, "
                "so whether they are outliers cannot be seen."
            )
    spread = _spreads(design, y, plan, noise)
    return Checks(
        response, sample.n, sample.n_missing, df, tuple(spread), normality, outlier, tuple(notes), residuals,
        studentised, sample.y - residuals,
    )  # fmt: skip


def _spreads(design: Design, y: np.ndarray, plan: Declared, noise: float) -> list[Spread]:
    crossed = tuple(dict.fromkeys(column for term in plan.factors for column in term))
    space = design.space([*plan.blocks, crossed])
    left = space.residuals(y)
    nothing = design.sample.n == space.rank or float(left @ left) <= noise
    over = [crossed, *((column,) for column in crossed if len(crossed) > 1)]
    return [_spread(design.sample, left, columns, nothing) for columns in over]


def _spread(sample: Sample, left: np.ndarray, columns: tuple[str, ...], nothing: bool) -> Spread:
    cells = sample.cells(columns)
    sizes = np.bincount(cells.codes, minlength=cells.count)
    kept = [k for k in range(cells.count) if sizes[k] >= SMALLEST_CELL]
    over, small = ":".join(columns), cells.count - len(kept)
    rows = sizes[kept]
    typical = float(np.median(rows)) if kept else float(np.median(sizes))
    if len(kept) < 2 or nothing:
        return Spread(over, None, 0, 0, None, None, None, cells.count, small, typical, False)
    groups = [left[cells.codes == k] for k in kept]
    deviations = np.array([group.std(ddof=1) for group in groups])
    labels = [cell_name(sample, columns, cells.levels[k]) for k in kept]
    low, high = int(deviations.argmin()), int(deviations.argmax())
    f, p = stats.levene(*groups, center="median")
    known = bool(np.isfinite(f))
    return Spread(
        over, float(f) if known else None, len(kept) - 1, int(rows.sum()) - len(kept), float(p) if known else None,
        (labels[low], float(deviations[low])), (labels[high], float(deviations[high])), cells.count, small, typical,
        bool(rows.max() > 1.5 * rows.min()),
    )  # fmt: skip


def _normality(residuals: np.ndarray) -> Normality:
    n = len(residuals)
    test = "Shapiro-Wilk" if n <= SHAPIRO_LIMIT else "D'Agostino-Pearson"
    if n < 4:
        return Normality(test, None, None, None, None)
    found = stats.shapiro(residuals) if n <= SHAPIRO_LIMIT else stats.normaltest(residuals)
    return Normality(
        test, float(found.statistic), float(found.pvalue), float(stats.skew(residuals, bias=False)),
        float(stats.kurtosis(residuals, bias=False)),
    )  # fmt: skip


def _studentised(residuals: np.ndarray, leverage: np.ndarray, df: int) -> np.ndarray:
    """Residuals over their standard errors without the row itself (externally studentised)."""
    found = np.full(len(residuals), np.nan)
    if df < 2:
        return found
    free = leverage < FULL_LEVERAGE
    squares = np.square(residuals[free]) / (1 - leverage[free])
    without = np.maximum(float(residuals @ residuals) - squares, 0.0) / (df - 1)
    with np.errstate(divide="ignore"):
        found[free] = np.sign(residuals[free]) * np.sqrt(squares / without)
    return found


def _outlier(
    frame: pd.DataFrame, sample: Sample, residuals: np.ndarray, studentised: np.ndarray, df: int
) -> Outlier | None:
    if np.isnan(studentised).all():
        return None
    at = int(np.nanargmax(np.abs(studentised)))
    label = frame.index[frame[sample.response].notna()][at]
    columns = tuple(sample.levels)
    levels = ", ".join(f"{column}={sample.levels[column][sample.codes[column][at]]}" for column in columns)
    p = 2 * float(stats.t.sf(abs(studentised[at]), df - 1)) * sample.n
    return Outlier(str(label), levels, float(residuals[at]), float(studentised[at]), min(1.0, p), at)


def _spread_words(found: Spread) -> str:
    small = (
        f" {found.too_small} of {found.cells} cells of {found.over} have fewer than {SMALLEST_CELL} rows and were left "
        "out."
        if found.too_small
        else ""
    )
    if found.F is None or found.p is None or found.smallest is None or found.largest is None:
        if found.cells - found.too_small < 2:
            return (
                f"Whether the spread differs over {found.over} cannot be tested: {found.too_small} of {found.cells} "
                f"cells have fewer than {SMALLEST_CELL} rows."
            )
        return f"Whether the spread differs over {found.over} cannot be tested: nothing is left within cells."
    (low, least), (high, most) = found.smallest, found.largest
    numbers = (
        f"(Brown-Forsythe F({found.df}, {found.df_error}) = {found.F:.3g}, p {p_is(found.p)}; SD of the residual from "
        f"{least:.3g} at {low} to {most:.3g} at {high})"
    )
    if found.p >= ALPHA:
        weak = (
            f" With {found.typical_rows:g} rows a cell this test finds only large differences."
            if found.typical_rows < _SMALL_CELL
            else ""
        )
        return f"No clear difference of spread over {found.over} {numbers}: nothing here speaks against F.{weak}{small}"
    if found.sizes_differ:
        meaning = (
            "cells are of unequal size, so F finds too much where the smaller cells vary more and too little where the "
            "larger ones do; read HC3 beside it"
        )
    else:
        meaning = (
            "cells are of like size, so the level of F moves little, but its pooled error is too small for comparisons "
            f"with {high} and too large for those with {low}; read HC3 beside it"
        )
    return f"The spread differs over {found.over} {numbers}: {meaning}.{small}"


def _normal_words(found: Normality, n: int) -> str:
    if found.p is None or found.statistic is None or found.skewness is None or found.excess_kurtosis is None:
        return f"Whether the residual is normal cannot be tested with what the model leaves of {n} rows."
    shape = f"skewness {found.skewness:.2f}, excess kurtosis {found.excess_kurtosis:.2f}"
    letter = "W" if found.test == "Shapiro-Wilk" else "K²"
    numbers = f"({found.test} {letter} = {found.statistic:.4f}, p {p_is(found.p)}; {shape})"
    if found.p >= ALPHA:
        return f"No clear departure of the residual from normal {numbers}: nothing here speaks against F."
    if abs(found.skewness) < _SKEWED and found.excess_kurtosis < _HEAVY:
        return f"The residual is not normal {numbers}, but by little: F over {n} rows is affected hardly."
    return (
        f"The residual is not normal {numbers}: F keeps its level roughly with {n} rows in cells of like size, but "
        "loses power to a few large residuals; read the permutation test and aligned ranks beside it."
    )


def _outlier_words(found: Outlier, response: str) -> str:
    where = f"row {found.row} ({found.levels})"
    size = f"{abs(found.residual):.3g} {'above' if found.residual > 0 else 'below'} its fit"
    numbers = f"externally studentised {found.studentised:.2f}, Bonferroni p {p_is(found.p)}"
    if found.p >= ALPHA:
        return f"No outlier: the largest residual of {response}, in {where}, is {size} ({numbers})."
    return (
        f"An outlier of {response} in {where}: {size} ({numbers}). Look at that trial; it enlarges F's error and "
        "shifts the means of its levels. Do not leave it out for this alone."
    )
