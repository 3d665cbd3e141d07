"""The result of a recommendation: the design that a stated rule names, what may be as good, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.compare_tables import BestSet, percent
from analysis.plain import or_none, p_is, records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOSEN, MAY_BE_BEST, EXCLUDED = "recommended", "may be the best", "excluded"
_TOLD = 12


@dataclass(frozen=True)
class Recommendation(Result):
    """A design, the set it was chosen from, and why.

    Attributes
    ----------
    chosen : str
        Name of the recommended design: its levels, those of a pair joined by a colon.
    levels : dict of str to str
        Factor → level of the recommended design.
    question : str
        What the set holds for.
    error : str
        "residual", or the block whose interaction with what is compared standard errors come from.
    level : float
        The confidence with which the truly best design is in the set.
    trial_sd : float or None
        SD of a trial, the tolerance of the rule; None where the rows do not show it.
    trial_sd_of : str
        What that SD is.
    rule : tuple of str
        The rule, a sentence a step.
    steps : tuple of (str, int)
        Each step of the rule, and how many designs it left.
    ahead : tuple of dict
        For each part (the pair, or a factor) of the design: of, level, estimate (how much better than the best other
        level; positive is better), lower, upper (Hsu's simultaneous interval; None where nothing measures it).
    terms : tuple of dict
        term, F, df, error_df, p of the analysis of variance that stands behind, and whether p is a bound (the
        lower-bound p of few tasks, as in `AnovaTable`).
    designs : DataFrame
        A row a design that was run, the recommended one first, then by ``counted``: design, its factors, verdict,
        reason, trials, failed, mean (by the model, adjusted for blocks, failures left out), counted (the same with
        failures at the worst observed value), observed (of its own trials alone), the other scores' means, parameters
        and costs.
    on_these_tasks : tuple of str
        Designs that may be the best on the tasks that were run, whatever new tasks say.
    not_tested : tuple of str
        What nothing is said of.
    sets : tuple of BestSet
        Hsu's comparisons with the best, a part each.
    """

    response: str
    higher_is_better: bool
    factors: tuple[str, ...]
    blocks: tuple[str, ...]
    error: str
    question: str
    level: float
    n: int
    n_failed: int
    chosen: str
    levels: dict[str, str]
    trial_sd: float | None
    trial_sd_of: str
    rule: tuple[str, ...]
    steps: tuple[tuple[str, int], ...]
    ahead: tuple[dict[str, Any], ...]
    terms: tuple[dict[str, Any], ...]
    on_these_tasks: tuple[str, ...]
    not_tested: tuple[str, ...]
    notes: tuple[str, ...]
    designs: pd.DataFrame = field(repr=False, compare=False)
    sets: tuple[BestSet, ...] = field(repr=False, compare=False)

    @property
    def may_be_best(self) -> tuple[str, ...]:
        """The designs that may be the best, the recommended one first."""
        return tuple(self.designs.loc[self.designs["verdict"] != EXCLUDED, "design"])

    @property
    def excluded(self) -> dict[str, str]:
        """Each design that is not the best, and why."""
        rows = self.designs[self.designs["verdict"] == EXCLUDED]
        return dict(zip(rows["design"], rows["reason"], strict=True))

    def to_frame(self) -> pd.DataFrame:
        """One row a design."""
        return self.designs.copy()

    def shown(self) -> pd.DataFrame:
        """The designs by name without what says nothing here: empty columns, and failures where none failed."""
        shown = self.designs.drop(columns=[*self.factors, "reason"], errors="ignore").dropna(axis=1, how="all")
        if not self.n_failed:
            shown = shown.drop(columns=["failed", "counted"], errors="ignore")
        if "parameters" in shown:
            shown["parameters"] = ["–" if count != count else f"{count:,.0f}" for count in shown["parameters"]]
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; what is not known is None."""
        return {
            "response": self.response, "higher_is_better": self.higher_is_better, "factors": list(self.factors),
            "blocks": list(self.blocks), "error": self.error, "question": self.question, "level": self.level,
            "n": self.n, "n_failed": self.n_failed, "chosen": self.chosen, "levels": dict(self.levels),
            "ahead": [dict(part) for part in self.ahead], "may_be_best": list(self.may_be_best),
            "on_these_tasks": list(self.on_these_tasks), "trial_sd": self.trial_sd, "trial_sd_of": self.trial_sd_of,
            "rule": list(self.rule), "steps": [list(step) for step in self.steps],
            "terms": [dict(term) for term in self.terms], "designs": records(self.designs),
            "not_tested": list(self.not_tested), "notes": list(self.notes),
        }  # fmt: skip

    def explain(self) -> str:
        """The design, the set and its reasons in sentences; and what cannot be said."""
        lines = [self.question, self._chosen(), *map(self._ahead, self.ahead), self._set()]
        if self.error != "residual":
            few = "the same designs" if set(self.on_these_tasks) == set(self.may_be_best) else _listed(
                self.on_these_tasks
            )  # fmt: skip
            lines.append(
                f"On the tasks that were run (error: residual; nothing is said of new ones) {len(self.on_these_tasks)} "
                f"may be the best: {few}."
            )
        lines.append("Left after each step of the rule: " + ", ".join(f"{n} ({what})" for what, n in self.steps) + ".")
        out = self.excluded
        if out:
            shown = "; ".join(f"{name}: {why}" for name, why in list(out.items())[:_TOLD])
            more = f"; and {len(out) - _TOLD} more" if len(out) > _TOLD else ""
            lines.append(f"Excluded, {len(out)} of {len(self.designs)}: {shown}{more}.")
        for term in self.terms:
            bound = " (a bound: the tasks are too few to see whether all differences vary equally over them)"
            lines.append(
                f"{term['term']}: F({term['df']:g}, {term['error_df']:.4g}) = {term['F']:.3g}, p {p_is(term['p'])}"
                f"{bound if term['p_is_a_bound'] else ''}."
            )
        lines += ["The rule:", *self.rule, *(f"Not tested: {each}" for each in self.not_tested)]
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """How much better each level is than the best of the others, with simultaneous intervals."""
        from analysis.figures import dot_plot

        own = {tuple(part["of"]): part["level"] for part in self.ahead}
        shown = pd.concat([chosen.rows.assign(own=own[chosen.of]) for chosen in self.sets], ignore_index=True)
        shown = shown[shown["lower"].notna()]
        verdict = [
            CHOSEN if level == mine else MAY_BE_BEST if may else EXCLUDED
            for level, mine, may in zip(shown["level"], shown["own"], shown["may_be_best"], strict=True)
        ]
        axis = f"{self.response}: better than the best other level by, {percent(self.sets[0].level)} intervals (Hsu)"
        lines = {"as good as the best other": 0.0}
        return dot_plot(shown.assign(verdict=verdict), "level", "estimate", "verdict", axis, lines)

    def _row(self) -> dict[str, Any]:
        return {str(key): or_none(value) for key, value in self.designs.iloc[0].items()}

    def _chosen(self) -> str:
        row = self._row()
        size = f", {row['parameters']:,.0f} parameters" if row.get("parameters") is not None else ""
        mean = "not known" if row["counted"] is None else f"{row['counted']:.4g}"
        failed = f", {row['failed']} of them failed" if row["failed"] else ""
        trials = f"{row['trials']} trial{'' if row['trials'] == 1 else 's'}{failed}"
        if self.adds_up:
            told = f"by the model of added effects; {self.own_mean()} over its own {trials}"
        else:
            told = f"over {trials}"
        return f"Recommended: {self.chosen}, mean {self.response} {mean} {told}{size}."

    @property
    def adds_up(self) -> bool:
        """Whether means are sums of the effects of several parts, not those of each design's own trials."""
        return len(self.sets) > 1

    def own_mean(self) -> str:
        """The mean of the recommended design's own trials, in words."""
        own = self._row()["observed"]
        return "not known" if own is None else f"{own:.4g}"

    def _ahead(self, part: dict[str, Any]) -> str:
        where = f"Of the levels of {':'.join(part['of'])}, {part['level']}" if len(self.ahead) > 1 else part["level"]
        if part["estimate"] is None:
            return f"{where} cannot be compared with another."
        side = "ahead of" if part["estimate"] >= 0 else "behind"
        interval = (
            "nothing measures how surely"
            if part["lower"] is None
            else f"{percent(self.sets[0].level)} simultaneous interval of the lead {part['lower']:.4g} to "
            f"{part['upper']:.4g}"
        )
        return f"{where} is {side} the best other by {abs(part['estimate']):.4g} ({interval})."

    def _set(self) -> str:
        inside, count = self.may_be_best, len(self.designs)
        if len(inside) == count and count > 1:
            return (
                f"No design could be excluded: with {percent(self.level)} confidence any of the {count} may be the "
                f"best (error: {self.error}). More tasks, or seeds, would tell them apart."
            )
        verb = "is" if len(inside) == 1 else "may be"
        return (
            f"{len(inside)} of {count} designs {verb} the best with {percent(self.level)} confidence (Hsu; error: "
            f"{self.error}): {_listed(inside)}."
        )


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - _TOLD
    return "; ".join(names[:_TOLD]) + (f"; and {more} more" if more > 0 else "")
