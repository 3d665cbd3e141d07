"""The study file: what it may say, and every fault in it, with its line, in one message.

This module reads and checks; it trains nothing and writes nothing. What a study file of this version cannot
ask for is refused, never ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study import shipped
from study.backbones.names import lacking
from study.keep import Keep
from study.resources import Resources
from study.sections import ConfirmSection, Level, Levels, NestedSection, Seeds, TuneSection
from study.strategies.factorial import Factorial
from study.strategy_sections import RefineSection, SearchSection, SubsetSection, listed
from study.yaml_lines import Lines, read_yaml

if TYPE_CHECKING:
    from study.backbones.names import Source
    from study.confirm_checks import Confirm
    from study.space import Space
    from study.tasks.specs import TaskSpec
    from study.tuning import Tune

SHIPPED = Path(__file__).parent / "studies"


def _none_yet(value: Any) -> Any:
    if value not in ([], ()):
        raise ValueError(f"got {value!r}, expected []: a trial is scored at its end only, or for a search's pruner")
    return ()


class Protocol(BaseModel):
    """How a trial is trained and sampled; all of it belongs to the trial's identity.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    learning_rate : float
    batch, prior_batch : int
        Subject and class pictures a step; `prior_batch` is `batch` unless given.
    prior_weight : float
        Weight of the prior-preservation loss; 0 switches it off.
    prior_pictures : int
        Class pictures that the backbone draws once per task.
    precision : {"float32", "float64", "bf16", "bfloat16", "float16"}
        bf16 computes in bfloat16 with weights in float32; bfloat16 and float16 hold the frozen weights in it too, which
        is what `mixed_precision: bf16` or `fp16` of diffusers' training scripts means and may be written so.
    sampler : {"dpmsolver++", "ddim", "euler"}
    sampling_steps : int
    guidance : float
        Scale of classifier-free guidance.
    pictures : int
        Pictures drawn and scored at the end.
    checkpoints : tuple of int
        Steps at which the trial is scored on its way; none in this version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    batch: int = Field(default=2, ge=1)
    prior_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    prior_batch: int = Field(default=2, ge=1)
    prior_pictures: int = Field(default=32, ge=1)
    precision: Literal["float32", "float64", "bf16", "bfloat16", "float16"] = "float32"
    sampler: Literal["dpmsolver++", "ddim", "euler"] = "dpmsolver++"
    sampling_steps: int = Field(default=25, ge=1)
    guidance: float = Field(default=7.0, ge=0, allow_inf_nan=False)
    pictures: int = Field(default=16, ge=1)
    checkpoints: Annotated[tuple[int, ...], BeforeValidator(_none_yet)] = ()

    @model_validator(mode="before")
    @classmethod
    def _mixed_precision_is_precision(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "mixed_precision" not in data:
            return data
        asked, rest = data["mixed_precision"], {key: data[key] for key in data if key != "mixed_precision"}
        # YAML reads a bare no as false
        known = {"no": "float32", "False": "float32", "bf16": "bfloat16", "fp16": "float16"}
        if str(asked) not in known or "precision" in rest:
            raise ValueError(f"got mixed_precision {asked!r}, expected no, bf16 or fp16, and no precision beside it")
        return {**rest, "precision": known[str(asked)]}

    @model_validator(mode="before")
    @classmethod
    def _prior_batch_is_batch(cls, data: Any) -> Any:
        if isinstance(data, dict) and "prior_batch" not in data:
            return {**data, "prior_batch": data.get("batch", cls.model_fields["batch"].default)}
        return data


_Primary = Literal["clip_i", "clip_t", "dino_i", "dinov2_i", "colour", "fid", "kid", "precision", "recall",
    "mean_iou", "pixel_accuracy", "edge_error", "landmark_error"]  # fmt: skip
_Score = Literal[_Primary, "noise_difference"]
_Scores = Annotated[dict[_Score, Any], Field(min_length=1)]
SECTIONS: dict[str, Any] = {
    "name": Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)],
    "backbone": Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)],
    "factors": Annotated[dict[str, Levels], Field(min_length=1)],
    "fixed": dict[str, Level],
    "nested": list[NestedSection],
    "forbid": list[Annotated[dict[str, Annotated[list[Level], BeforeValidator(listed)]], Field(min_length=1)]],
    "strategy": Literal["factorial"] | SubsetSection | SearchSection | RefineSection,
    "tasks": Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)],
    "tune": TuneSection,
    "confirm": ConfirmSection,
    "seeds": Seeds,
    "protocol": Protocol,
    "protocol_by": dict[str, dict[str, dict[str, Any]]],
    "scores": _Scores,
    "primary": _Primary,
    "keep": Keep,
    "resources": Resources,
    "store": Annotated[str, Field(min_length=1)],
}
REQUIRED = ("name", "backbone", "factors", "tasks")
DEFAULTS: dict[str, Any] = {
    "fixed": {},
    "nested": [],
    "forbid": [],
    "tune": None,
    "confirm": None,
    "strategy": Factorial(),
    "seeds": [0],
    "protocol": Protocol(),
    "protocol_by": {},
    "keep": Keep(),
    "resources": Resources(),
}
"""Of sections that may be left out; `scores` and `primary` are then those of the tasks."""

ProtocolBy = dict[str, dict[str, dict[str, Any]]]
"""Factor, level as text, and the protocol's fields that differ there."""


@dataclass(frozen=True)
class StudyConfig:
    """A study file that is right in every part.

    Attributes
    ----------
    backbones : tuple of Source
    space : Space
    tasks : tuple of TaskSpec
    tune : Tune or None
        What is tuned before the study's trials run.
    confirm : Confirm or None
        What a recipe is confirmed on, and against.
    seeds : tuple of int
    protocol : Protocol
    protocol_by : ProtocolBy
    scores : dict of str to Source
        Score and the model that computes it.
    store : str
        The store's folder, from the current one.
    resources : Resources
    keep, keep_pictures : {"all", "best", "none"}, of weights and of pictures
    """

    name: str
    backbones: tuple[Source, ...]
    space: Space
    tasks: tuple[TaskSpec, ...]
    seeds: tuple[int, ...]
    protocol: Protocol
    protocol_by: ProtocolBy
    scores: dict[str, Source]
    primary: str
    keep: str
    store: str
    tune: Tune | None = None
    confirm: Confirm | None = None
    resources: Resources = Resources()
    keep_pictures: str = "all"

    def designs_on(self, source: Source) -> list[dict[str, Any]]:
        """Return the designs that are run on a backbone: those of the space whose positions it has."""
        from study.space import lacked

        lacks = lacking(source)
        return [design for design in self.space.designs if lacked(design, lacks) is None]

    @property
    def left_out(self) -> dict[str, int]:
        """How many cells were left out, by reason; where only some backbones lack a position, each of them counts."""
        from study.space import lacked

        found = Counter(self.space.left_out)
        for source in self.backbones:
            lacks = lacking(source)
            found.update(reason for design in self.space.designs if (reason := lacked(design, lacks)))
        return dict(found)

    def protocol_of(self, design: Mapping[str, Any], tuned: Mapping[str, Any] | None = None) -> Protocol:
        """Return the protocol of a design: the study's, changed by hand for its levels, then by what was tuned."""
        changes = {**by_hand(self.protocol_by, design), **(tuned or {})}
        return Protocol(**{**self.protocol.model_dump(), **changes}) if changes else self.protocol


def by_hand(protocol_by: ProtocolBy, design: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the protocol that `protocol_by` sets for the levels of a design."""
    from study.space import text

    changes: dict[str, Any] = {}
    for factor, levels in protocol_by.items():
        if factor in design:
            changes.update(levels.get(text(design[factor]), {}))
    return changes


def find(study: str | Path) -> Path:
    """Return the file of a study: a path, or the name of a shipped study.

    Raises
    ------
    InputFault
        If it is neither; lists the shipped names.
    """
    return shipped.find(study, SHIPPED, "study")


def read(path: Path) -> StudyConfig:
    """Read and check a study file; relative folders in it start from the file's own, in a shipped one from the current.

    Raises
    ------
    InputFault
        One message with every fault and its line.
    """
    data, lines = read_yaml(path)
    root = Path.cwd() if path.resolve().parent == SHIPPED.resolve() else path.parent
    return check(data, root, str(path), lines)


def check(data: Any, root: Path, source: str = "the study", lines: Lines | None = None) -> StudyConfig:
    """Check the sections of a study, all of them, before anything is run.

    Parameters
    ----------
    data : dict
        The sections, as the study file has them.
    root : Path
        The folder that relative folders start from.
    source : str
        What the message calls the study.
    lines : Lines, optional
        Where each part stands.

    Raises
    ------
    InputFault
        One message with every fault, and its line if `lines` are given.
    """
    from study.checks import Check

    return Check(root, source, lines or Lines()).run(data)
