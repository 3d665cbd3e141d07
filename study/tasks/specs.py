"""A task as it is declared: which pictures, which words, which scores. Checked whole before anything is trained.

Never imports torch. A kind of task is two modules: `study.tasks.KIND_spec` declares it (a subclass of `TaskSpec`), and
`study.tasks.KIND` makes it ready for a backbone (`prepare`, which gives a `study.tasks.task.Task`). `KINDS` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapters.faults import InputFault
from study.backbones.names import Source, unknown_words
from study.tasks.prompt_sets import PROMPT_SETS

if TYPE_CHECKING:
    from study.config import Protocol

KINDS = {"subject": "SubjectSpec", "domain": "DomainSpec", "control": "ControlSpec"}
"""Kinds of tasks, and the class in `study.tasks.KIND_spec` that declares them."""


@dataclass(frozen=True)
class TaskSpec(ABC):
    """A task, resolved.

    Attributes
    ----------
    kind : as in `KINDS`.
    scores : the scores it can be judged by, and the scorer of those that a study takes unless it says otherwise.
    primary : the score that decides unless the study says otherwise.
    ties : the scores that decide, in this order, between designs that the primary one does not tell apart.
    own : the options by which `train` learns one from folders of the user's own; WORD stands for `words`.
    name : "kind/…", as results show it.
    """

    kind: ClassVar[str]
    scores: ClassVar[Mapping[str, str | None]]
    primary: ClassVar[str]
    ties: ClassVar[tuple[str, ...]]
    own: ClassVar[str]

    name: str

    @property
    def size(self) -> int | None:
        """Edge of the pictures in pixels; None for the backbone's."""
        return None

    @classmethod
    @abstractmethod
    def resolve(cls, short: str, declared: dict[str, Any], root: Path) -> TaskSpec:
        """Resolve what a study file declares; `short` is the name without its kind.

        Raises
        ------
        InputFault : everything that is wrong; without the task's name, which the caller adds.
        """

    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 over what decides the task's numbers: pictures and words; not name or folder."""

    @abstractmethod
    def load_pictures(self, size: int, most: int | None = None) -> np.ndarray:
        """Give the task's real pictures, uint8 (N, size, size, 3): rotated as the camera said, cropped to the centre.

        Parameters
        ----------
        most : only so many, from the first on.

        Raises
        ------
        InputFault : a picture cannot be read (all that cannot be are named).
        """

    @property
    @abstractmethod
    def example(self) -> str:
        """A prompt that what was learned can be tried with."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The words that say what the pictures show; a text encoder should know them."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What an adapter folder says of what was learned; JSON values."""
        return {"task": self.name}

    def cautions(self, scores: Mapping[str, Source], protocol: Protocol) -> Iterator[str]:
        """Yield what scores of this task cannot say under a protocol, a sentence each."""
        yield from ()

    def unfit(self, scores: Mapping[str, Any], protocol: Protocol) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what of a study does not go with this task: where it stands in the study file, and a sentence."""
        yield from ()

    def to_json(self) -> dict[str, Any]:
        """Give the spec as JSON values."""
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> TaskSpec:
        """Build the spec that `to_json` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return spec_class(values.pop("kind"))(**values)


class NoFolder(InputFault):
    """A folder is missing that pictures of several tasks may be in; the message names it and no task."""


def spec_class(kind: str) -> type[TaskSpec]:
    """Return the class that declares a kind of task.

    Raises
    ------
    ValueError
        For a kind that is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"got the kind {kind!r} of a task, expected one of {', '.join(KINDS)}")
    return getattr(import_module(f"study.tasks.{kind}_spec"), KINDS[kind])


def resolve_task(spec: str | dict[str, Any], root: Path) -> TaskSpec:
    """Resolve a task of a study file and check all of it, every picture included.

    Parameters
    ----------
    spec : "subject/robot", "domain/neon", or a mapping with `kind` (left out: what the name begins with, else
        subject), `name` and the keys of its kind; see `study.tasks.KIND_spec`.
    root : folder that relative folders start from.

    Raises
    ------
    InputFault : one message with everything that is wrong with this task.
    """
    declared: dict[str, Any] = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = declared.pop("name", None)
    if not isinstance(name, str) or not name.strip():
        raise InputFault(
            f"task {spec!r}: expected subject/robot, domain/neon or the like, or {{name: …, pictures: …, …}}."
        )
    before, slash, after = name.strip().partition("/")
    short = after if slash and before in KINDS else name.strip()
    kind = declared.pop("kind", before if slash and before in KINDS else "subject")
    unknown = not isinstance(kind, str) or kind not in KINDS
    if unknown or (slash and before in KINDS and before != kind):
        told = f"kind {kind!r} is unknown (known: {', '.join(KINDS)})" if unknown else f"it is no {kind} task"
        raise InputFault(f"task {name}: {told}.")
    try:
        return spec_class(kind).resolve(short, declared, root)
    except NoFolder:
        raise
    except InputFault as fault:
        raise InputFault(f"task {name}: {str(fault).removesuffix('.')}.") from fault


def unknown_class(source: Source, spec: TaskSpec) -> list[str]:
    """Return a warning if the text encoder of a backbone was not trained with the task's words, else nothing.

    Raises
    ------
    InputFault : a backbone of the hub that has not been downloaded.
    """
    unknown = unknown_words(source, spec.words)
    if not unknown:
        return []
    return [
        f"the text encoder of {source.name} spells {', '.join(unknown)!r} letter by letter: the words of {spec.name} "
        "mean little to it; prefer words that it was trained with"
    ]


def unknown_keys(declared: Mapping[str, Any], known: set[str]) -> list[str]:
    """Return the fault that a declaration has keys which its kind does not know, if it does."""
    unknown = sorted(map(repr, set(declared) - known))
    return [f"unknown keys {', '.join(unknown)} (known: {', '.join(sorted(known))})"] if unknown else []


def words_of(value: Any, key: str, faults: list[str]) -> str:
    """Return a value that is to be text, its spaces tidied; else add a fault."""
    if isinstance(value, str) and value.strip():
        return " ".join(value.split())
    faults.append(f"{key} is {value!r}, expected a word")
    return ""


def templates_of(value: Any, faults: list[str], key: str = "prompts") -> tuple[str, ...] | None:
    """Return templates with one `{}` each, listed or of a named set; None where there are none; else add a fault."""
    if value is None:
        return None
    if isinstance(value, str) and value in PROMPT_SETS:
        return PROMPT_SETS[value]
    if not isinstance(value, list) or not value:
        sets = " or ".join(PROMPT_SETS)
        faults.append(f"{key} is {value!r}, expected {sets}, or a list of texts with {{}} where the subject goes")
        return None
    wrong = [prompt for prompt in value if not isinstance(prompt, str) or prompt.count("{}") != 1]
    if wrong:
        faults.append(f"{key} without exactly one {{}} where the subject goes: {wrong}")
        return None
    return tuple(value)
