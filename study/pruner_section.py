"""The key `pruner` of a search by Optuna, as a study file has it."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.pruning import DEFAULTS, WHOLE, Kind, Rule


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else [value]


class PrunerSection(BaseModel):
    """Which of Optuna's pruners, and after which shares of the steps it is asked; see `study.pruning.Rule`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    at: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], BeforeValidator(_listed), Field(min_length=1)]
    pictures: int | None = Field(default=None, ge=1, strict=True)
    startup_trials: int | None = Field(default=None, ge=0, strict=True)
    percentile: float | None = Field(default=None, gt=0, lt=100)
    reduction_factor: int | None = Field(default=None, ge=2, strict=True)

    @model_validator(mode="after")
    def _own_keys(self) -> PrunerSection:
        own = [*DEFAULTS[self.kind], *["percentile"] * (self.kind == "percentile")]
        for key in ("startup_trials", "percentile", "reduction_factor"):
            if getattr(self, key) is not None and key not in own:
                raise ValueError(f"got {key}, which {self.kind} does not take; it takes {' and '.join(own)}")
        if self.kind == "percentile" and self.percentile is None:
            raise ValueError("expected percentile: how many percent of the trials are good enough to go on")
        return self

    @model_validator(mode="after")
    def _shares(self) -> PrunerSection:
        percents, rule = [WHOLE * share for share in self.at], self.rule
        if any(abs(percent - round(percent)) > 1e-6 for percent in percents):
            raise ValueError(f"got at: {self.at}, expected shares of the steps in whole percent, such as [0.25, 0.5]")
        if any(later <= earlier for earlier, later in itertools.pairwise(rule.at)):
            raise ValueError(f"got at: {self.at}, expected shares that ascend")
        if "reduction_factor" not in DEFAULTS[self.kind]:
            return self
        factor = rule.reduction_factor
        if any(later != factor * earlier for earlier, later in itertools.pairwise(rule.at)):
            raise ValueError(
                f"got at: {self.at}, expected each share to be reduction_factor, {factor}, times the one before: "
                f"{self.kind} decides nowhere else"
            )
        if self.kind == "hyperband" and factor * rule.at[0] > WHOLE:
            raise ValueError(
                f"got at: {self.at}, but from there hyperband with reduction_factor {factor} has one bracket, which is "
                "successive_halving; expected an earlier share, or that kind"
            )
        return self

    @property
    def rule(self) -> Rule:
        """The same, Optuna's own values where none are given."""
        asked = {key: getattr(self, key) for key in ("startup_trials", "percentile", "reduction_factor")}
        given = {key: value for key, value in asked.items() if value is not None}
        percents = tuple(round(WHOLE * share) for share in self.at)
        return Rule(self.kind, percents, self.pictures, **{**DEFAULTS[self.kind], **given})
