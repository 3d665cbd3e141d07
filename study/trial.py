"""What is run: a trial and its identity, a pack of trials for one worker, and the result a trial leaves.

Nothing here trains or stores; torch is not imported, so that planning and status stay cheap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapters.faults import InputFault
from study.canonical import canonical_json
from study.config import Protocol
from study.pruning import Evidence, Pruning
from study.strategies.search import FIXED

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from study.tasks.specs import TaskSpec

TRIAL_VERSION = 1
"""Raised when equal inputs give other numbers, so that old rows are not taken for new ones."""

FINAL = ("done", "diverged")
"""Statuses that are results; a trial that has one is never run again."""

PRUNED = "pruned"
"""Status of a trial that a search ended on its way: a result to that search, and to all others an unfinished trial."""

STATUSES = (*FINAL, PRUNED, "failed", "out_of_memory")
ROLES = ("study", "reference", "tune")


@dataclass(frozen=True)
class Trial:
    """One design, trained and scored on one task with one seed under one protocol.

    Attributes
    ----------
    backbone, task : str
        Names, for people; the identity holds the content hashes instead.
    design : dict
        As `adapters.normalise` returns it.
    role : {"study", "reference", "tune", "confirm"}
        `reference` is the untuned backbone that a study is compared with, `tune` a trial that decides a protocol. Not
        part of the identity.
    tunes : tuple of str
        The keys of the protocol that a `tune` trial tries. Not part of the identity.
    plan : {"fixed", "adaptive"}
        Whether it was planned before any score was known, or because of scores. Not part of the identity.
    pruning : Pruning or None
        How it may be ended on its way. Not part of the identity: a trial that is not ended is the same trial.
    backbone_hash, task_hash : str
        Content hashes: of the weights and configurations; of the pictures, prompts and class word.
    """

    backbone: str
    design: dict[str, Any]
    task: str
    seed: int
    protocol: Protocol
    role: str = "study"
    tunes: tuple[str, ...] = field(default=(), kw_only=True)
    plan: str = field(default=FIXED, kw_only=True)
    pruning: Pruning | None = field(default=None, kw_only=True)
    backbone_hash: str = field(default="", kw_only=True)
    task_hash: str = field(default="", kw_only=True)

    @cached_property
    def id(self) -> str:
        """SHA-256 of everything that decides the numbers, and of nothing else.

        Not in it: names, paths, the study, order, scores wanted, pack, device, versions.
        """
        if not (self.backbone_hash and self.task_hash):
            raise InputFault(
                f"the trial on backbone {self.backbone!r} and task {self.task!r} has no id: "
                "expected the content hashes of both; give backbone_hash and task_hash"
            )
        return _id(self._begun, self.task_hash, self.seed)

    @cached_property
    def _begun(self) -> hashlib._Hash:
        """The hash of what the trials of a design under one protocol have in common, a part of canonical JSON."""
        protocol = self.protocol.model_dump(mode="json")
        text = canonical_json({"backbone": self.backbone_hash, "design": self.design, "protocol": protocol})
        return hashlib.sha256(f"{text[:-1]},".encode())

    def on(self, task: str, task_hash: str, seed: int) -> Trial:
        """Return the same on another task or seed, its id included: what both have in common is computed once."""
        # Not by the constructor: a plan has hundreds of thousands of trials, and their fields are known to be sound.
        other = object.__new__(Trial)
        id = _id(self._begun, task_hash, seed)
        own = self.__dict__.copy()
        own["task"], own["task_hash"], own["seed"], own["pruning"], own["id"] = task, task_hash, seed, None, id
        object.__setattr__(other, "__dict__", own)
        return other

    def planned(self, how: str, pruning: Pruning | None = None) -> Trial:
        """Return the trial with another `plan`, and as it may be pruned."""
        return replace(self, plan=how, pruning=pruning)

    def label(self) -> str:
        """Return one short line for people: what is trained, what is tried, on which task, with which seed."""
        design = self.design
        if "input" in design and "output" in design:
            words = [f"{design['input']}→{design['output']}"]
            words += [str(design[key]) for key in ("activation", "scale") if key in design]
        else:
            words = [design_words(design)]
        words += [_words("lr" if key == "learning_rate" else key, getattr(self.protocol, key)) for key in self.tunes]
        return f"{' '.join(words)} · {self.task} · seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return the trial as JSON values; of the evidence that may prune it, which many share, the digest."""
        pruning = self.pruning
        return {
            "backbone": self.backbone,
            "backbone_hash": self.backbone_hash,
            "design": self.design,
            "task": self.task,
            "task_hash": self.task_hash,
            "seed": self.seed,
            "protocol": self.protocol.model_dump(mode="json"),
            "role": self.role,
            "tunes": list(self.tunes),
            "plan": self.plan,
            "pruning": pruning and {"evidence": pruning.evidence.digest, "place": pruning.place},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], evidence: Mapping[str, Evidence] = MappingProxyType({})) -> Trial:
        """Return the trial that `to_json` wrote, given evidence by its digest."""
        told = data["pruning"]
        own = {
            "protocol": Protocol(**data["protocol"]),
            "tunes": tuple(data["tunes"]),
            "pruning": told and Pruning(evidence[told["evidence"]], told["place"]),
        }
        return cls(**{**data, **own})


def _id(begun: hashlib._Hash, task_hash: str, seed: int) -> str:
    """Hash one canonical JSON text, whose beginning is hashed already: what follows has the later of its keys."""
    whole = begun.copy()
    whole.update(_rest(task_hash, seed))
    return whole.hexdigest()


@lru_cache(maxsize=65536)
def _rest(task_hash: str, seed: int) -> bytes:
    """Return what the trials of one task and seed have in common, the rest of that canonical JSON."""
    return canonical_json({"seed": seed, "task": task_hash, "version": TRIAL_VERSION})[1:].encode()


def design_words(design: Mapping[str, Any], keys: Collection[str] | None = None) -> str:
    """Return a design as people read it: its method and keys, or those of its keys that are named."""
    shown = [key for key in design if key != "method" and (keys is None or key in keys)]
    return " ".join(filter(None, [str(design["method"]), *(_words(key, design[key]) for key in shown)]))


def _words(key: str, value: Any) -> str:
    """Return a setting as people read it: "rank 4", "budget 5%", "rslora"; nothing for what is switched off."""
    if isinstance(value, bool):
        return key if value else ""
    if key == "budget" and isinstance(value, float):
        return f"budget {100 * value:.4g}%"
    return f"{key} {value}"


@dataclass(frozen=True)
class Pack:
    """Trials for one worker, of one backbone; it trains those of one protocol together, each a slot.

    Attributes
    ----------
    backbone : str or dict
        As `study.backbones.resolve` takes it; a folder is an absolute path.
    tasks : dict of str to TaskSpec
        Every task its trials name.
    scores : dict of str to (str or dict)
        Score name to scorer, as `study.backbones.resolve_scorer` takes it.
    keep : {"all", "best", "none"}
        Whether trained weights are handed to the store.
    keep_pictures : {"all", "best", "none"}
        Whether it keeps pictures.
    tensorboard : bool
        Whether logs for TensorBoard are written.
    store : str
        The store's folder; its `cache/` may hold what trials share.
    attempts : dict of str to int
        The attempt number of each trial id; 1 where none is given.
    together : int, optional
        How many to train together, memory permitting; by default as many as fit into memory and still gain.
    asked : int, optional
        How many a worker that died was to train together at most, these trials among them.
    take_over : bool
        Whether to run what another holds of whom it cannot be told whether he still runs.
    checkpoint : float, optional
        Seconds between two checkpoints of a trial in training; without it none is written or read.
    """

    trials: tuple[Trial, ...]
    backbone: str | dict[str, str]
    tasks: dict[str, TaskSpec]
    scores: dict[str, str | dict[str, str]]
    keep: str
    store: str
    study: str = ""
    attempts: dict[str, int] = field(default_factory=dict)
    together: int | None = None
    asked: int | None = None
    take_over: bool = False
    checkpoint: float | None = None
    keep_pictures: str = "all"
    tensorboard: bool = False

    def to_json(self) -> str:
        """Return the pack as one JSON document."""
        evidence = {trial.pruning.evidence.digest: trial.pruning.evidence for trial in self.trials if trial.pruning}
        return json.dumps(
            {
                "evidence": {name: each.to_json() for name, each in evidence.items()},
                "trials": [trial.to_json() for trial in self.trials],
                "backbone": self.backbone,
                "tasks": {name: spec.to_json() for name, spec in self.tasks.items()},
                "scores": self.scores,
                "keep": self.keep,
                "store": self.store,
                "study": self.study,
                "attempts": self.attempts,
                "together": self.together,
                "asked": self.asked,
                "take_over": self.take_over,
                "checkpoint": self.checkpoint,
                "keep_pictures": self.keep_pictures,
                "tensorboard": self.tensorboard,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Pack:
        """Return the pack that `to_json` wrote.

        Raises
        ------
        ValueError
            If it is none: a pack lies in a store, which may be a stranger's.
        """
        from study.tasks.specs import TaskSpec

        form = _PackForm.model_validate_json(text)
        if any(each.digest != name for name, each in form.evidence.items()):
            raise ValueError("it is no pack: its evidence is not that of the digest it stands under")
        values = {name: getattr(form, name) for name in _PackForm.model_fields if name != "evidence"}
        try:
            values["trials"] = tuple(Trial.from_json(each.model_dump(), form.evidence) for each in form.trials)
            values["tasks"] = {name: TaskSpec.from_json(spec) for name, spec in form.tasks.items()}
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no pack: its parts are not of the form that is expected ({error})") from error
        return cls(**values)


class _Form(BaseModel):
    """A part of a pack's JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _PruningForm(_Form):
    """How one trial may be pruned: the digest of the evidence, and its place."""

    evidence: str
    place: int = Field(ge=0, lt=10**6)


class _TrialForm(_Form):
    """What `Trial.to_json` writes."""

    backbone: str
    backbone_hash: str
    design: dict[str, Any]
    task: str
    task_hash: str
    seed: int = Field(ge=0, lt=2**63)
    protocol: Protocol
    role: str
    tunes: list[Literal[*Protocol.model_fields]]  # type: ignore[valid-type]
    plan: str
    pruning: _PruningForm | None


class _PackForm(_Form):
    """What `Pack.to_json` writes."""

    evidence: dict[str, Evidence]
    trials: list[_TrialForm]
    backbone: str | dict[str, str]
    tasks: dict[str, dict[str, Any]]
    scores: dict[str, str | dict[str, str]]
    keep: Literal["all", "best", "none"]
    store: str
    study: str
    attempts: dict[str, Annotated[int, Field(ge=1, lt=10**9)]]
    together: Annotated[int, Field(ge=1)] | None
    asked: Annotated[int, Field(ge=1)] | None
    take_over: bool
    checkpoint: Annotated[float, Field(gt=0)] | None
    keep_pictures: Literal["all", "best", "none"]
    tensorboard: bool


@dataclass
class TrialResult:
    """What one trial leaves, as `run_pack` hands it to its sink.

    Attributes
    ----------
    status : {"done", "diverged", "pruned", "failed", "out_of_memory"}
    error : str
        The reason, for people; empty when done.
    scores : dict of str to float
        Of the whole trial, so none of one that was pruned; a score that is missing or cannot be computed is left out or
        NaN.
    columns : dict
        Other columns of the row (`study.store.MEASURED` names them).
    images : list of dict
        One a picture: prompt, prompt_index, picture_seed and its scores.
    pictures : list of ndarray of uint8, shape (height, width, 3)
        In the order of `images`.
    curves : list of dict
        One a recorded step, for instance `{"step": 10, "loss": 0.2}`.
    adapter : dict of str to Tensor, optional
        The trained weights.
    encoder : mapping of str to Tensor, optional
        Those of the encoder of control maps that was trained beside them.
    """

    trial: Trial
    status: str
    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    adapter: dict[str, Tensor] | None = None
    encoder: Mapping[str, Tensor] | None = None


Sink = Callable[[TrialResult], None]
"""Commits a result to the store; `run_pack` calls it as each trial ends."""

Claim = Callable[[Trial], bool]
"""Says whether a trial is still to be run, and that nobody else runs it; asked when its turn has come, maybe twice."""

Progress = Callable[[Trial, int, int], None]
"""Called with (trial, step, steps) while a trial trains."""
