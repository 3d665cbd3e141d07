"""The section `strategy` of a study file."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.pruning import DEFAULTS, WHOLE, Kind, Rule
from study.strategies.ask_tell import Sampler


def listed(value: Any) -> Any:
    """Return a list, of one thing if it is none."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _interactions(value: Any) -> Any:
    if value in ("none", "all"):
        return value
    found = listed(value)
    if not found or not all(isinstance(item, str) for item in found):
        raise ValueError(f"got {value!r}, expected none, all, or a list such as [input:output]")
    return tuple(found)


class PrunerSection(BaseModel):
    """Which of Optuna's pruners, and after which shares of the steps it is asked; see `study.pruning.Rule`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    at: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], BeforeValidator(listed), Field(min_length=1)]
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


class SubsetSection(BaseModel):
    """The section `strategy`, where it asks for a subset of the valid designs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["subset"]
    size: int = Field(ge=1, strict=True)
    interactions: Annotated[Any, BeforeValidator(_interactions)] = "none"
    seed: int = Field(default=0, ge=0, strict=True)


class OptunaSection(BaseModel):
    """The section `strategy`, where it asks for a search by Optuna."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["optuna"]
    trials: int = Field(ge=1, strict=True)
    sampler: Sampler = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True)
    batch: int = Field(default=8, ge=1, strict=True)


class SearchSection(OptunaSection):
    """The same over designs."""

    scores: Annotated[list[str], BeforeValidator(listed), Field(max_length=4)] = []
    pruner: PrunerSection | None = None


class RefineSection(BaseModel):
    """The section `strategy`, where it asks for more replicates of what may be the best."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["refine"]
    start: int = Field(ge=1, strict=True)
    trials: int = Field(ge=1, strict=True)
    error: Literal["residual", "task"] = "residual"
    level: float = Field(default=0.95, gt=0.5, lt=1)
