"""The result of an analysis of failures: rates, tests, designs compared in three ways, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.plain import p_is, records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA, LEVEL = 0.05, 0.95
INTERVAL = "Clopper-Pearson"
TEST = "permutation of failures within blocks (Freedman-Lane)"
_MOST_NAMES = 12


@dataclass(frozen=True)
class Failures(Result):
    """Failures of trials and what they do to the comparison of designs.

    Attributes
    ----------
    reasons : dict
        Word of the status column → number of failed trials; empty without such a column.
    rates : DataFrame
        factor, level, n, failed, rate, lower, upper (95 % Clopper-Pearson), one row a level of a factor.
    tests : DataFrame
        factor, df, p, arrangements, exact, reason: does failure depend on the factor?
    designs : DataFrame
        One row a combination of the factors, best by ``worst`` first: n, failed, ``mean`` of what succeeded, ``common``
        mean over the blocks in which all compared designs succeeded, ``worst`` mean with failures at the worst observed
        value; ``shared`` and ``against_leader``: blocks where it and the design with the best ``mean`` both succeeded,
        and its mean difference to it there.
    common_blocks, other_blocks, never : tuple of str
        Blocks where all compared designs succeeded; the others; designs that never succeeded and so were not compared.
    decisions : DataFrame
        term, F and p of the analysis of variance without the failures and with them at the worst value (``F_worst``,
        ``p_worst``), ``changes``: whether the two fall on different sides of .05.
    worst : float or None
        The value that failures were given; None without failures.
    """

    response: str
    factors: tuple[str, ...]
    within: str
    higher_is_better: bool
    error: str
    n: int
    n_failed: int
    reasons: dict[str, int]
    rates: pd.DataFrame = field(compare=False)
    tests: pd.DataFrame = field(compare=False)
    designs: pd.DataFrame = field(compare=False)
    common_blocks: tuple[str, ...]
    other_blocks: tuple[str, ...]
    never: tuple[str, ...]
    decisions: pd.DataFrame = field(compare=False)
    worst: float | None
    notes: tuple[str, ...]

    @property
    def leaders(self) -> dict[str, str]:
        """The best design by each way of counting that can be had: ``mean``, ``common``, ``worst``."""
        sign = 1 if self.higher_is_better else -1
        found = {}
        for column in ("mean", "common", "worst"):
            values = sign * self.designs[column].to_numpy(dtype=float)
            if not np.isnan(values).all():
                found[column] = str(self.designs["design"].iloc[int(np.nanargmax(values))])
        return found

    @property
    def rivals(self) -> tuple[str, ...]:
        """Designs that are better than the one with the best ``mean`` on the blocks where both succeeded."""
        gain = self.designs["against_leader"] * (1 if self.higher_is_better else -1)
        return tuple(self.designs.loc[gain > 0, "design"].tolist())

    @property
    def winner(self) -> str | None:
        """The design with the best ``mean`` if it is also best by ``worst``, has no rivals, and has met all others."""
        leaders = self.leaders
        sure = leaders["mean"] == leaders["worst"] and not self.rivals and not self.strangers
        return leaders["mean"] if sure else None

    @property
    def strangers(self) -> tuple[str, ...]:
        """Designs that succeeded somewhere, but in no block together with the one with the best ``mean``."""
        apart = self.designs["mean"].notna() & (self.designs["shared"] == 0)
        return tuple(self.designs.loc[apart, "design"].tolist()) if self.within else ()

    @property
    def changes(self) -> bool:
        """Whether the best design or a decision at .05 depends on how failures are counted."""
        return self.winner is None or bool(self.decisions["changes"].any())

    def to_frame(self) -> pd.DataFrame:
        """One row a design."""
        return self.designs.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what is not there is None."""
        return {
            "response": self.response, "factors": list(self.factors), "within": self.within, "error": self.error,
            "higher_is_better": self.higher_is_better, "n": self.n, "n_failed": self.n_failed,
            "reasons": dict(self.reasons), "interval": f"{INTERVAL}, {LEVEL}", "test": TEST,
            "rates": records(self.rates), "tests": records(self.tests), "designs": records(self.designs),
            "common_blocks": list(self.common_blocks), "other_blocks": list(self.other_blocks),
            "never": list(self.never), "decisions": records(self.decisions), "worst": self.worst,
            "leaders": self.leaders, "rivals": list(self.rivals), "strangers": list(self.strangers),
            "winner": self.winner, "changes": self.changes, "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """Rates, comparison and sensitivity in sentences."""
        if not self.n_failed:
            return f"None of {self.n} trials failed: every one has a {self.response}."
        words = f" ({', '.join(f'{word} {count}' for word, count in self.reasons.items())})" if self.reasons else ""
        lines = [f"{self.n_failed} of {self.n} trials failed{words}: they have no {self.response}."]
        lines += [self._rate_words(row) for _, row in self.tests.iterrows()]
        return "\n".join([*lines, *self._comparison_words(), *self._sensitivity_words(), *self.notes])

    def plot(self) -> Figure:
        """Failure rates of the levels with their intervals."""
        from analysis.figures import dot_plot

        rates = self.rates.assign(label=self.rates["factor"] + "=" + self.rates["level"])
        return dot_plot(rates, "label", "rate", "factor", f"share of trials that failed, {LEVEL:.0%} {INTERVAL}")

    def _rate_words(self, test: pd.Series) -> str:
        own = self.rates[self.rates["factor"] == test["factor"]]
        low, high = own.iloc[int(own["rate"].argmin())], own.iloc[int(own["rate"].argmax())]
        span = f"from {_share(low)} to {_share(high)}"
        if test["reason"]:
            return f"Failure by {test['factor']}: {span}; no test, since {test['reason']}."
        verdict = "depends on" if test["p"] < ALPHA else "shows no clear dependence on"
        where = f"within cells of {self.within}" if self.within else "among all trials"
        return (
            f"Failure {verdict} {test['factor']}: {span}; p {p_is(test['p'])} by permutation {where} (Freedman-Lane, "
            f"{test['arrangements']} arrangements)."
        )

    def _comparison_words(self) -> list[str]:
        lines, leaders = [], self.leaders
        if self.never:
            lines.append(f"Never succeeded, so not compared on common blocks: {', '.join(self.never)}.")
        if not self.within:
            lines.append("No block is declared, so designs cannot be compared where all succeeded.")
        elif not self.common_blocks:
            lines.append(
                f"In none of the {len(self.other_blocks)} cells of {self.within} did all compared designs succeed; "
                "'against_leader' compares each with the leader where both did."
            )
        else:
            total = len(self.common_blocks) + len(self.other_blocks)
            lines.append(
                f"All compared designs succeeded in {len(self.common_blocks)} of {total} cells of {self.within} "
                f"({', '.join(self.common_blocks)}); the best there is {leaders['common']} "
                f"(mean {self._value(leaders['common'], 'common')})."
            )
        return lines

    def _sensitivity_words(self) -> list[str]:
        leaders = self.leaders
        lines = [
            f"The best mean of what succeeded is that of {leaders['mean']} ({self._value(leaders['mean'], 'mean')}); "
            f"with failures at the worst observed value ({self.worst:.4g}) the best is {leaders['worst']} "
            f"({self._value(leaders['worst'], 'worst')})."
        ]
        moved = self.decisions[self.decisions["changes"].astype(bool)]
        if len(moved):
            shown = "; ".join(f"{r['term']} (p {p_is(r['p'])}, then {p_is(r['p_worst'])})" for _, r in moved.iterrows())
            lines.append(f"Decisions at {ALPHA} that change with failures at the worst value: {shown}.")
        else:
            lines.append(
                f"No decision of the analysis of variance at {ALPHA} changes with failures at the worst value."
            )
        if self.rivals:
            lines.append(
                f"Better than {leaders['mean']} where both succeeded: "
                + "; ".join(map(self._rival_words, self.rivals[:_MOST_NAMES]))
                + (f"; and {len(self.rivals) - _MOST_NAMES} more." if len(self.rivals) > _MOST_NAMES else ".")
            )
        if self.strangers:
            more = len(self.strangers) - _MOST_NAMES
            lines.append(
                f"{leaders['mean']} and these never succeeded together in a cell of {self.within}: "
                f"{', '.join(self.strangers[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}."
            )
        if self.winner is None:
            lines.append(
                "Which design is best depends on how failures count: none may be called so on what succeeded alone."
            )
        else:
            where = " and no design is better where both succeeded" if self.within else ""
            lines.append(f"{self.winner} stays the best design with failures counted{where}.")
        return lines

    def _rival_words(self, design: str) -> str:
        row = self.designs[self.designs["design"] == design].iloc[0]
        return f"{design} (by {abs(row['against_leader']):.3g} on {row['shared']})"

    def _value(self, design: str, column: str) -> str:
        row = self.designs[self.designs["design"] == design].iloc[0]
        return f"{row[column]:.4g}, {row['failed']} of {row['n']} failed"


def _share(row: pd.Series) -> str:
    return (
        f"{row['rate']:.0%} ({row['failed']} of {row['n']}; {row['lower']:.0%} to {row['upper']:.0%}) at {row['level']}"
    )
