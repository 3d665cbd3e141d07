"""The result of a recommendation over several conditions: one design for all of them, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.compare_tables import percent
from analysis.plain import or_none, p_is, records
from analysis.recommended import EXCLUDED, Recommendation
from analysis.result import Result

_TOLD = 12


@dataclass(frozen=True)
class RecommendedAcross(Result):
    """A design for all conditions or one for each, and why.

    Attributes
    ----------
    across : str
        What the conditions are, such as "backbone".
    level : float
        The confidence of all conditions' sets together.
    error : str
        What standard errors come from, and what the tests are against.
    terms : tuple of dict
        The tested interactions with the condition: term, F, df, df_nominal, error_df, p, and whether p is a bound.
    on_these_tasks : tuple of str
        Interactions that are shown against the residual, whatever new tasks say; empty where that is ``error``.
    untested : dict of str to str
        Interactions that cannot be tested, and why.
    each : dict of str to Recommendation
        Condition → what its own trials recommend.
    faults : dict of str to str
        Condition → why it has no recommendation of its own.
    average : Recommendation or None
        What is recommended by the means over the conditions; ``average_fault`` says why there is none.
    """

    response: str
    across: str
    factors: tuple[str, ...]
    level: float
    error: str
    terms: tuple[dict[str, Any], ...]
    on_these_tasks: tuple[str, ...]
    untested: dict[str, str]
    each: dict[str, Recommendation] = field(repr=False)
    faults: dict[str, str]
    average: Recommendation | None = field(repr=False)
    average_fault: str = ""

    @property
    def interacting(self) -> tuple[str, ...]:
        """The interactions that are shown."""
        return tuple(term["term"] for term in self.terms if term["p"] < 1 - self.level)

    @property
    def apart(self) -> bool:
        """Whether each condition has a recommendation of its own, since one for all is not right or not there."""
        return bool(self.interacting) or self.average is None

    @property
    def own_level(self) -> float:
        """The confidence of one condition's set."""
        return next(iter(self.each.values())).level

    def on(self, condition: str) -> Recommendation | None:
        """What is recommended on a condition: by its own trials, or by the average; None where nothing is."""
        return self.each.get(condition) if self.apart else self.average

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions, those without a recommendation of their own last."""
        return (*self.each, *self.faults)

    @property
    def may_be_best_on_all(self) -> list[dict[str, str]]:
        """The designs, as factor → level, that may be the best on every condition with a set of its own."""
        sets = [[_levels(found, row) for row in _inside(found)] for found in self.each.values()]
        return [levels for levels in sets[0] if all(levels in other for other in sets[1:])]

    @property
    def best_differs(self) -> bool:
        """Whether it is shown that the best design is not the same on all conditions: no design is in every set."""
        return len(self.each) > 1 and not self.faults and not self.may_be_best_on_all

    def average_on(self, condition: str) -> dict[str, Any] | None:
        """The design of the average by a condition's own trials: mean, verdict, reason, and its leads with intervals.

        None where there is no average or no set on that condition.
        """
        found = self.each.get(condition)
        if self.average is None or found is None:
            return None
        for row in found.designs.to_dict("records"):
            if _levels(found, row) == self.average.levels:
                leads = []
                for part in found.sets:
                    text = ":".join(self.average.levels[column] for column in part.of if column in self.factors)
                    own = part.rows[part.rows["level"] == (text or row["design"])]
                    if len(own):
                        first = own.iloc[0]
                        numbers = {key: or_none(float(first[key])) for key in ("estimate", "lower", "upper")}
                        leads.append({"of": list(part.of), "level": first["level"], **numbers})
                told = {key: row[key] for key in ("design", "verdict", "reason", "trials", "failed")}
                means = {key: or_none(float(row[key])) for key in ("counted", "observed")}
                return {**told, **means, "leads": leads}
        return None

    def to_frame(self) -> pd.DataFrame:
        """One row a condition and design, by the condition's own trials."""
        parts = [found.to_frame().assign(**{self.across: name}) for name, found in self.each.items()]
        whole = pd.concat(parts, ignore_index=True)
        return whole[[self.across, *(column for column in whole if column != self.across)]]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what is not known is None."""
        return {
            "response": self.response, "across": self.across, "level": self.level, "error": self.error,
            "interactions": [dict(term) for term in self.terms], "untested": dict(self.untested),
            "shown": list(self.interacting), "shown_on_these_tasks": list(self.on_these_tasks),
            "one_for_each": self.apart, "best_differs": self.best_differs,
            "may_be_best_on_all": self.may_be_best_on_all,
            "average": self.average.to_dict() if self.average else None, "average_fault": self.average_fault,
            "average_on": {name: self.average_on(name) for name in self.conditions},
            "each": {name: found.to_dict() for name, found in self.each.items()}, "faults": dict(self.faults),
            "designs": records(self.to_frame()),
        }  # fmt: skip

    def explain(self) -> str:
        """The verdict, then every recommendation in sentences."""
        lines = [*self.verdict(), ""]
        if not self.apart and self.average is not None:
            lines += [f"On average over the {self.across}s:", self.average.explain(), ""]
            lines += [self.said_of_average(name) for name in self.each]
        for name, found in self.each.items() if self.apart else ():
            lines += [f"On {name}, by its own trials:", found.explain(), ""]
        return "\n".join(lines).rstrip()

    def verdict(self, named: Callable[[Mapping[str, str]], str] | None = None) -> list[str]:
        """Whether effects, and the best design, are shown to depend on the condition; a sentence each.

        ``named`` writes a design, given as factor → level; by default its name in :attr:`each`.
        """
        lines = []
        new = f"new levels of {self.error}" if self.error != "residual" else "these tasks"
        shown = [term for term in self.terms if term["term"] in self.interacting]
        rest = [term for term in self.terms if term["term"] not in self.interacting]
        if shown:
            lines.append(f"Effects depend on the {self.across}, on {new}: {'; '.join(map(_tested, shown))}.")
        if rest:
            head = "Not shown to" if shown else f"No effect is shown to depend on the {self.across}, on {new}"
            told = "; ".join(map(_tested, rest))
            lines.append(f"{head} do so: {told}." if shown else f"{head}: {told}. That does not show that none does.")
        here = [term for term in self.on_these_tasks if term not in self.interacting]
        if here:
            told = ", ".join(map(_crossed, here))
            lines.append(f"On the tasks that were run (error: residual) it is shown of {told}.")
        for term, why in self.untested.items():
            lines.append(f"{_crossed(term)} cannot be tested: {why}.")
        if shown:
            lines.append(f"So each {self.across} has a recommendation of its own, from its own trials.")
        elif self.average is None:
            lines.append(
                f"There is no recommendation for all {self.across}s ({self.average_fault}), so each has its own."
            )
        else:
            lines.append(
                f"So one design is recommended for all, by means over the {self.across}s; what each one's own trials "
                "say of it is told beside."
            )
        lines.append(self._sets(named or self._name))
        lines += [f"{name} has no recommendation of its own: {why}" for name, why in self.faults.items()]
        return [line for line in lines if line]

    def said_of_average(self, condition: str) -> str:
        """What a condition's own trials say of the design that is recommended on average."""
        found, own = self.each[condition], self.average_on(condition)
        assert self.average is not None and own is not None  # a design of the average is on every condition
        mean = "no mean" if own["counted"] is None else f"mean {self.response} {own['counted']:.4g}"
        if own["verdict"] == EXCLUDED:
            told = f"is not the best there: {own['reason']}"
        elif len(found.may_be_best) == 1:
            told = "is the best there"
        else:
            told = f"is one of {len(found.may_be_best)} of {len(found.designs)} designs that may be the best there"
        leads = "; ".join(self._lead(part, len(own["leads"]) > 1) for part in own["leads"])
        instead = "" if own["verdict"] == "recommended" else f" By its own trials {found.chosen} would be recommended."
        return f"On {condition}, {self.average.chosen} ({mean}) {told} ({leads}).{instead}"

    def _lead(self, part: dict[str, Any], several: bool) -> str:
        what = f"{part['level']} " if several else ""
        if part["estimate"] is None:
            return f"{what}cannot be compared"
        side = "ahead of" if part["estimate"] >= 0 else "behind"
        if part["lower"] is None:
            return f"{what}{side} the best other by {abs(part['estimate']):.4g}; nothing measures how surely"
        own = percent(round(next(iter(self.each.values())).sets[0].level, 6))
        return (
            f"{what}{side} the best other by {abs(part['estimate']):.4g}, {own} interval of the lead "
            f"{part['lower']:.4g} to {part['upper']:.4g}"
        )

    def _name(self, levels: Mapping[str, str]) -> str:
        found = next(iter(self.each.values()))
        return next(row["design"] for row in found.designs.to_dict("records") if _levels(found, row) == levels)

    def _sets(self, named: Callable[[Mapping[str, str]], str]) -> str:
        """What the sets say of the best design being the same."""
        if len(self.each) < 2 or self.faults:
            return ""
        sure = f"{percent(self.level)} confidence on all together"
        if self.best_differs:
            return f"The best design is not the same on every {self.across}: none may be the best on all ({sure})."
        common = self.may_be_best_on_all
        names = list(map(named, common[:_TOLD]))
        more = f" and {len(common) - _TOLD} more" if len(common) > _TOLD else ""
        return (
            f"It is not shown that the best design differs by {self.across}: {len(common)} may be the best on every "
            f"one ({sure}): {'; '.join(names)}{more}."
        )


def _inside(found: Recommendation) -> list[dict[Any, Any]]:
    return found.designs[found.designs["verdict"] != EXCLUDED].to_dict("records")


def _levels(found: Recommendation, row: dict[Any, Any]) -> dict[str, str]:
    return {factor: str(row[factor]) for factor in found.factors}


def _tested(term: dict[str, Any]) -> str:
    bound = ", a bound" if term["p_is_a_bound"] else ""
    part = "" if term["df"] == term["df_nominal"] else f", {term['df']} of {term['df_nominal']} degrees of freedom"
    return (
        f"{_crossed(term['term'])} (F({term['df']:g}, {term['error_df']:.4g}) = {term['F']:.3g}, p {p_is(term['p'])}"
        f"{bound}{part})"
    )


def _crossed(term: str) -> str:
    return " × ".join(term.split(":"))
