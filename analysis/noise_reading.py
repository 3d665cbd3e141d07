"""Whether the noise difference is larger for designs that read the text or what cross-attention makes of it; no torch.

The paper says that adapters which read CA_c or CA_out differ much and others little ("A Closer Look at
Parameter-Efficient Tuning in Diffusion Models", arXiv 2303.18181, visual analysis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.anova_table import df_text, p_text
from analysis.compare import contrasts
from analysis.compare_tables import ContrastTable, percent, records
from analysis.compared import check_level
from analysis.declared import AUTO, declared, names
from analysis.means import LEVEL, marginal_means
from analysis.model import name
from analysis.result import Result
from analysis.sample import check_columns, text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE = "noise_difference"
"""The column that holds the size of a trial's maps."""

READS = ("CA_c", "CA_out")
"""The positions whose readers differ much, as the paper says: the text, and what cross-attention makes of it."""

PAIR = "pair"
_INPUT, _OUTPUT = "input", "output"


def reading_contrast(
    frame: pd.DataFrame,
    response: str = SCORE,
    factors: str | Sequence[str] = (),
    blocks: str | Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    error: str = AUTO,
    reads: Sequence[str] = READS,
    level: float = LEVEL,
    ratio: bool = False,
) -> ReadingContrast:
    """Ask whether a response is larger for the pairs whose input is among some positions than for the others.

    The mean over the pairs that read them less the mean over the others, every pair counted once, as a contrast of the
    levels of one factor, ``pair`` (input→output).

    Parameters
    ----------
    frame : DataFrame
        One row a trial, with the columns ``input`` and ``output``; a row without one of them (another method) is left
        out and counted.
    factors, blocks, interactions, error
        The rest of the model, as in :func:`analysis.anova`; ``pair`` is added to the factors, and stands for input and
        output.
    reads : sequence of str
        The positions asked about.
    level : float
        Of the intervals.
    ratio : bool
        Compare logarithms, so that the answer is a ratio of geometric means; it needs values above 0.

    Returns
    -------
    ReadingContrast

    Raises
    ------
    InputFault
        As :func:`analysis.contrasts`; no pair, or every pair, reads one of the positions; a value that has no
        logarithm where a ratio is asked for.
    """
    check_level(level)
    check_columns(frame, [response, _INPUT, _OUTPUT])
    there = frame[_INPUT].notna() & frame[_OUTPUT].notna()
    own = frame[there]
    own = own.assign(**{PAIR: own[_INPUT].map(text_of) + "→" + own[_OUTPUT].map(text_of)})
    if ratio:
        own = own.assign(**{response: _logarithms(own, response)})
    others = [factor for factor in names(factors) if factor not in (_INPUT, _OUTPUT, PAIR)]
    model: dict[str, Any] = {
        "factors": [PAIR, *others], "blocks": blocks, "interactions": interactions, "error": error, "level": level,
    }  # fmt: skip
    plan = declared(model["factors"], blocks, interactions)
    sample = plan.read(own, response)
    inputs = {pair: pair.partition("→")[0] for pair in sample.levels[PAIR]}
    asked = [position for position in dict.fromkeys(reads) if position in inputs.values()]
    inside = [pair for pair, position in inputs.items() if position in asked]
    outside = [pair for pair in inputs if pair not in inside]
    if not inside or not outside:
        raise InputFault(
            f"{'Every' if inside else 'No'} design with a {response} reads {_either(reads)} (inputs there: "
            f"{', '.join(dict.fromkeys(inputs.values()))}); designs that do are compared with designs that do not."
        )

    def compared(readers: Sequence[str]) -> dict[str | tuple[str, ...], float]:
        chosen = [pair for pair in inside if inputs[pair] in readers]
        weights: dict[str | tuple[str, ...], float] = dict.fromkeys(chosen, 1 / len(chosen))
        return {**weights, **dict.fromkeys(outside, -1 / len(outside))}

    table = contrasts(own, response, PAIR, {f"{_either(asked)} − others": compared(asked)}, adjust="none", **model)
    parts = None
    if len(asked) > 1:
        each = {f"{position} − others": compared([position]) for position in asked}
        parts = contrasts(own, response, PAIR, each, adjust="holm", **model)
    means = marginal_means(own, response, PAIR, over="levels", **model)
    means.insert(1, "reads", means[PAIR].isin(inside))
    block = plan.error_block(error, sample)
    return ReadingContrast(
        response=response, reads=tuple(asked), level=level, ratio=ratio, table=table, parts=parts,
        means=_exponentials(means) if ratio else means, error_block=None if block is None else name(block),
        n_other=int((~there).sum()),
    )  # fmt: skip


@dataclass(frozen=True)
class ReadingContrast(Result):
    """Whether a response is larger for the pairs that read some positions.

    Attributes
    ----------
    reads : tuple of str
        The positions asked about that some design reads.
    ratio : bool
        Whether ``estimate`` is a ratio of geometric means; else it is a difference of means.
    table : ContrastTable
        The contrast; of logarithms if ``ratio``.
    parts : ContrastTable or None
        Where there are several positions: each of them against the others, with simultaneous intervals.
    means : DataFrame
        A row a pair: pair, reads (whether it reads one of the positions), n, mean, se, df, lower, upper, estimable;
        intervals each on its own. Geometric means if ``ratio``; se is of logarithms then.
    error_block : str or None
        The block that the answer holds for new levels of; None where the error is the residual.
    n_other : int
        Rows without an input and an output, which were left out.
    """

    response: str
    reads: tuple[str, ...]
    level: float
    ratio: bool
    table: ContrastTable
    parts: ContrastTable | None
    means: pd.DataFrame = field(repr=False, compare=False)
    error_block: str | None
    n_other: int

    @property
    def estimate(self) -> float:
        """Mean over the pairs that read the positions less the mean over the others, or their ratio."""
        return self._told(self.table.rows["estimate"][0])

    @property
    def interval(self) -> tuple[float, float]:
        """Of the estimate; NaN where nothing measures the error."""
        row = self.table.rows.iloc[0]
        return self._told(row["lower"]), self._told(row["upper"])

    @property
    def answer(self) -> str | None:
        """``larger``, ``smaller``, ``not shown`` where the interval holds no difference, None where there is none."""
        (low, high), none = self.interval, 1.0 if self.ratio else 0.0
        if not low <= high:
            return None
        return "larger" if low > none else "smaller" if high < none else "not shown"

    def to_frame(self) -> pd.DataFrame:
        """A row for the answer, and one for each position: contrast, estimate, lower, upper, df, t, p."""
        rows = pd.concat([table.rows for table in (self.table, self.parts) if table is not None], ignore_index=True)
        told = rows[["contrast", "estimate", "lower", "upper", "df", "t", "p_adjusted"]]
        told = told.rename(columns={"p_adjusted": "p"})
        if self.ratio:
            told[["estimate", "lower", "upper"]] = np.exp(told[["estimate", "lower", "upper"]])
        return told

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; a number that is not there is None."""
        return {
            "response": self.response, "reads": list(self.reads), "answer": self.answer, "ratio": self.ratio,
            "level": self.level, "error": self.table.error, "n": self.table.n, "n_missing": self.table.n_missing,
            "n_other": self.n_other, "contrasts": records(self.to_frame()), "means": records(self.means),
            "notes": list(self.table.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """The answer in sentences, with what it holds for."""
        of = "geometric mean" if self.ratio else "mean"
        inside, outside = (self.means[self.means["reads"] == flag] for flag in (True, False))
        verdict = {"larger": "Yes", "smaller": "No, it is smaller", "not shown": "The data do not show it"}
        start = verdict.get(self.answer or "", "It cannot be said: nothing measures the error of this")
        row, (low, high) = self.table.rows.iloc[0], self.interval
        how = f"a ratio of {self.estimate:.3g}" if self.ratio else f"a difference of {self.estimate:.3g}"
        if not row["estimable"]:
            return f"The results do not determine the {of}s of all pairs, so that they cannot be compared." + "".join(
                f"\n{note}" for note in self.table.notes
            )
        if self.answer is not None:
            how += (
                f" ({percent(self.level)} interval {low:.3g} to {high:.3g}; t({df_text(round(row['df'], 1))}) = "
                f"{row['t']:.3g}, p {'' if row['p'] < 1e-4 else '= '}{p_text(row['p'])})"
            )
        where = f"on new levels of {self.error_block}" if self.error_block else "under the conditions of these runs"
        lines = [
            f"Is {self.response} larger for designs that read {_either(self.reads)}, {where}? {start}: the {of} of "
            f"the {len(inside)} {_pairs(inside)} that read it is {self._mean(inside):.3g}, that of the {len(outside)} "
            f"other {_pairs(outside)} {self._mean(outside):.3g}, {how}."
        ]
        if inside["estimable"].all() and outside["estimable"].all():
            least = inside.iloc[int(np.argmin(inside["mean"]))]
            most = outside.iloc[int(np.argmax(outside["mean"]))]
            lines.append(
                f"The smallest {of} of a pair that reads it is {least['mean']:.3g} ({least[PAIR]}), the largest of "
                f"another {most['mean']:.3g} ({most[PAIR]})."
            )
        if self.parts is not None:
            lines += [self._part(part) for part in self.to_frame().iloc[1:].to_dict("records")]
        if self.table.n_missing:
            lines.append(f"{self.table.n_missing} rows without a {self.response} were left out.")
        if self.n_other:
            lines.append(f"{self.n_other} rows of designs without an input and an output were left out.")
        lines.append(f"{self.table.n} rows were used; standard errors from {self.table.error}.")
        return "\n".join([*lines, *self.table.notes])

    def plot(self) -> Figure:
        """The mean of every pair, largest first, coloured by whether it reads the positions."""
        from analysis.noise_figures import pair_means

        return pair_means(self)

    def _told(self, value: float) -> float:
        return float(np.exp(value)) if self.ratio else float(value)

    def _mean(self, means: pd.DataFrame) -> float:
        """Mean over pairs, every pair counted once; NaN where one of them has none."""
        values = means["mean"].to_numpy(dtype=float)
        return float(np.exp(np.log(values).mean())) if self.ratio else float(values.mean())

    def _part(self, part: dict[Any, Any]) -> str:
        if np.isnan(part["lower"]):
            return f"{part['contrast']}: {part['estimate']:.3g}, without an interval."
        p = part["p"]
        return (
            f"{part['contrast']}: {part['estimate']:.3g} ({part['lower']:.3g} to {part['upper']:.3g}, Bonferroni for "
            f"{len(self.reads)}; p adjusted by Holm {'' if p < 1e-4 else '= '}{p_text(p)})."
        )


def _logarithms(frame: pd.DataFrame, response: str) -> pd.Series:
    values = frame[response]
    if not pd.api.types.is_numeric_dtype(values):
        return values  # refused where the sample is read
    if (values <= 0).any():
        raise InputFault(
            f"{int((values <= 0).sum())} values of {response} are 0 or less and have no logarithm; compare means "
            "(ratio=False), or leave these rows out."
        )
    return pd.Series(np.log(values.to_numpy(dtype=float, na_value=np.nan)), index=values.index)


def _exponentials(means: pd.DataFrame) -> pd.DataFrame:
    return means.assign(**{column: np.exp(means[column]) for column in ("mean", "lower", "upper")})


def _either(positions: Sequence[str]) -> str:
    return " or ".join(positions)


def _pairs(rows: pd.DataFrame) -> str:
    return "pair" if len(rows) == 1 else "pairs"
