"""Several scores at once: the analysis of variance of each, with p values corrected over the scores.

A term tested on many scores is found on one of them by chance, so p values are Holm-adjusted over the scores, term by
term. Designs that no other beats on all scores are in :mod:`analysis.pareto_optimal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.anova_table import AnovaTable
from analysis.declared import AUTO, names
from analysis.multiplicity import holm
from analysis.plain import p_is, records
from analysis.result import Result

ALPHA = 0.05


@dataclass(frozen=True)
class Several(Result):
    """The analysis of variance of several scores.

    Attributes
    ----------
    tables : dict of str to AnovaTable
        The table of each score.
    terms : DataFrame
        response, term, role, df, F, p, p_holm: one row a score and term that is not a block. ``p`` is the one a claim
        rests on (``TermRow.p_decisive``), ``p_holm`` is adjusted over the scores, term by term.
    """

    responses: tuple[str, ...]
    tables: dict[str, AnovaTable] = field(repr=False, compare=False)
    terms: pd.DataFrame = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a score and term."""
        return self.terms.copy()

    def to_dict(self) -> dict[str, Any]:
        """The table of every score and the adjusted p values; what cannot be tested is None."""
        return {
            "responses": list(self.responses), "adjustment": "Holm over responses, term by term",
            "terms": records(self.terms), "tables": {name: table.to_dict() for name, table in self.tables.items()},
        }  # fmt: skip

    def explain(self) -> str:
        """On which scores each term makes a difference."""
        first = self.tables[self.responses[0]]
        lines = [
            f"{len(self.responses)} scores ({', '.join(self.responses)}), each tested against {first.error}; p values "
            "are Holm-adjusted over the scores, term by term."
        ]
        for term in dict.fromkeys(self.terms["term"]):
            own = self.terms[self.terms["term"] == term]
            tested = own[own["p_holm"].notna()]
            if tested.empty:
                lines.append(f"{term}: could not be tested on any score.")
                continue
            shown = ", ".join(f"{r['response']} (adjusted p {p_is(r['p_holm'])})" for _, r in tested.iterrows())
            hits = int((tested["p_holm"] < ALPHA).sum())
            lines.append(f"{term} makes a difference to {hits} of {len(tested)} scores at {ALPHA}: {shown}.")
            missing = [r["response"] for _, r in own[own["p_holm"].isna()].iterrows()]
            if missing:
                lines.append(f"{term} could not be tested on {', '.join(missing)}.")
        counts = {name: table.n for name, table in self.tables.items()}
        if len(set(counts.values())) > 1:
            lines.append(
                f"Scores are missing in different rows: {', '.join(f'{n} rows of {s}' for s, n in counts.items())}."
            )
        return "\n".join(lines)


def several(
    frame: pd.DataFrame,
    responses: Sequence[str],
    factors: Sequence[str],
    blocks: Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    type: int = 2,
    error: str = AUTO,
    nested: Mapping[str, str] | None = None,
) -> Several:
    """Analysis of variance of several scores, with p values Holm-adjusted over the scores for each term.

    Parameters
    ----------
    responses : sequence of str
        Numeric columns; each is analysed on the rows where it is not missing.
    factors, blocks, interactions, type, error, nested
        As in :func:`analysis.anova`.

    Raises
    ------
    InputFault
        As :func:`analysis.anova`; no score, or one twice.
    """
    responses = names(responses)
    if not responses or len(set(responses)) < len(responses):
        raise InputFault(f"Name scores, each once; got {', '.join(responses) or 'none'}.")
    tables = {name: anova(frame, name, factors, blocks, interactions, type, error, nested=nested) for name in responses}
    rows = [
        (name, row.term, row.role, row.df, row.F, row.p_decisive)
        for name, table in tables.items()
        for row in table.terms
        if row.role != "block"
    ]
    terms = pd.DataFrame(rows, columns=["response", "term", "role", "df", "F", "p"]).astype({"F": float, "p": float})
    terms["p_holm"] = terms.groupby("term")["p"].transform(lambda p: holm(p.to_numpy()))
    return Several(tuple(responses), tables, terms)
