"""Sections of a study file that are no more than their keys, and what a level or a list of seeds may be."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from study.strategy_sections import OptunaSection, listed

MOST_SEEDS = 100_000


def _level(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError(f"got {value!r}, expected a level: a word, a number, true or false")
    return value


def _levels(value: Any) -> Any:
    if value != "all" and not (isinstance(value, list | tuple) and value):
        raise ValueError(f"got {value!r}, expected a list of levels, or `all`")
    return value if value == "all" else [_level(item) for item in value]


def _seeds(value: Any) -> Any:
    seeds = range(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(seeds, range) and value > MOST_SEEDS:
        raise ValueError(f"got {value}, expected {MOST_SEEDS} at most")
    counts = Counter(map(str, seeds)) if isinstance(seeds, list | tuple | range) else Counter()
    if not counts or max(counts.values()) > 1:
        raise ValueError(f"got {value!r}, expected a count of at least 1, or a list of seeds, each once")
    return list(seeds)


Level = Annotated[Any, BeforeValidator(_level)]
Levels = Annotated[Any, BeforeValidator(_levels)]
SomeLevels = Annotated[list[Level], BeforeValidator(listed), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63, strict=True)]], BeforeValidator(_seeds)]


class NestedSection(BaseModel):
    """An entry of the section `nested`: factors that exist under some levels of another only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: dict[str, SomeLevels] = Field(min_length=1, max_length=1)
    factors: dict[str, Levels] = Field(min_length=1)


class RangeSection(BaseModel):
    """Numbers to search between, both ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(allow_inf_nan=False, gt=-1e15)
    high: float = Field(allow_inf_nan=False, lt=1e15)
    log: bool = False
    step: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class TuneSection(BaseModel):
    """The section `tune`: which values of the protocol are tried, on which tasks, for which groups of designs.

    Either those of a grid, or those that a search asks for within ranges.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)]
    grid: dict[str, SomeLevels] = {}
    ranges: dict[str, Any] = {}
    strategy: OptunaSection | None = None
    seeds: Seeds = [0]
    by: Annotated[list[str], BeforeValidator(listed), Field(min_length=1)] = ["method"]


_Against = Literal["lora", "dora", "krona", "tlora", "difffit", "bitfit", "full"]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConfirmSection(BaseModel):
    """The section `confirm`: what a recipe is compared with, on tasks that nothing else uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)]
    seeds: Seeds = [0, 1]
    margin: _Positive | None = None
    against: Annotated[list[_Against], BeforeValidator(listed), Field(min_length=1)] = list(get_args(_Against))
    learning_rates: dict[_Against, _Positive] = {}
