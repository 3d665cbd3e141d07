"""The domain task as it is declared: a whole set of captioned pictures, of the built-in world or of a folder.

Keys: `pictures` (a folder; left out, the name is a domain of the built-in world), `captions` (a text for all pictures,
or a template with `{}` for the class, as "a photo of a {}"), `held_out` (a folder with pictures to compare with, or the
share of the pictures that is kept for that), `size` (edge of the pictures in pixels; left out, the backbone's).

Layouts of a folder, see docs/tasks.md: `metadata.jsonl` with `file_name` and `text` beside the pictures; a subfolder
for each class; or pictures alone, with one caption for all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.faults import InputFault
from study.backbones.names import Source, feature_width
from study.tasks.captioned import Captioned, DrawnDomain, Files, read_folder
from study.tasks.captioned_spec import CaptionedSpec, checked, folder_of, sized
from study.tasks.pictures import file_hash, listed
from study.tasks.specs import unknown_keys, words_of

if TYPE_CHECKING:
    from study.config import Protocol

SHARE = 0.2
"""Of a folder's pictures, what is kept to compare with unless the study says otherwise."""

LEAST = 8
"""Pictures that a distribution is estimated from at least, generated or real; far from enough, see docs/tasks.md."""

DISTRIBUTION = ("fid", "kid", "precision", "recall")
"""Scores of a set of pictures against another, not of single ones."""

WORLD_PICTURES, WORLD_HELD_OUT = 256, 256
WORLD_SEED = 20261122
KEYS = {"pictures", "captions", "held_out", "size"}


@dataclass(frozen=True)
class DomainSpec(CaptionedSpec[Captioned]):
    """A domain task, resolved.

    Attributes
    ----------
    name : "domain/…", as results show it.
    domain : a name in the built-in world, or None.
    folder : a folder of pictures, or None.
    captions : the template or text that `captions` gives, or None.
    held_out : the share of the folder's pictures that is held out, or a folder of them.
    size : edge of the pictures in pixels; None for the backbone's.
    """

    kind: ClassVar[str] = "domain"
    primary: ClassVar[str] = "kid"
    # Not clip_t: captions need not name the style, so it may fall as the style is learned.
    ties: ClassVar[tuple[str, ...]] = ("kid", "fid", "precision", "recall")
    own: ClassVar[str] = "--task '{kind: domain, pictures: photos/mine}'"
    scores: ClassVar[Mapping[str, str | None]] = {
        **dict.fromkeys(DISTRIBUTION, "micro-clip"), "clip_t": "micro-clip"
    }  # fmt: skip

    domain: str | None = None
    folder: str | None = None
    captions: str | None = None
    held_out: float | str = SHARE
    size: int | None = None

    @cached_property
    def _parts(self) -> tuple[Captioned, Captioned]:
        if self.domain is not None:
            return (
                DrawnDomain(self.domain, WORLD_PICTURES, WORLD_SEED, "train"),
                DrawnDomain(self.domain, WORLD_HELD_OUT, WORLD_SEED, "real"),
            )
        whole = read_folder(Path(self.folder or ""), self.captions)
        if isinstance(self.held_out, float):
            if len(whole.files) < 2 * LEAST:
                raise InputFault(
                    f"{self.folder} holds {_counted(whole)}, expected at least {2 * LEAST}: some to train on, and "
                    f"{LEAST} or more that are held out to compare with"
                )
            return whole.parted(self.held_out, LEAST)
        other = read_folder(Path(self.held_out), self.captions)
        for folder, part in ((self.folder, whole), (self.held_out, other)):
            if len(part.files) < LEAST:
                raise InputFault(f"{folder} holds {_counted(part)}, expected at least {LEAST}")
        there = {file_hash(file) for file in whole.files}
        if both := [file.name for file in other.files if file_hash(file) in there]:
            raise InputFault(f"{self.held_out} is to be held out, but {self.folder} has {listed(both)} of it too")
        return whole.ordered(), other.ordered()

    def content_hash(self) -> str:
        """SHA-256 over the pictures and captions of both parts, and the size if it is declared."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        content = ["domain", self.train.hashes(), self.real.hashes(), *([] if self.size is None else [self.size])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def cautions(self, scores: Mapping[str, Source], protocol: Protocol) -> Iterator[str]:
        """Yield that the covariances of the Fréchet distance are singular, if they are."""
        width = feature_width(scores["fid"]) if "fid" in scores else None
        count = min(protocol.pictures, len(self.real.captions))
        if width is not None and count <= width:
            yield (
                f"fid is of {count} pictures, no more than the {width} features of {scores['fid'].name}, so it is "
                "mostly bias: it ranks designs at this number of pictures, and compares with no other; kid has no bias"
            )

    def unfit(self, scores: Mapping[str, Any], protocol: Protocol) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield that too few pictures are to be drawn, if they are."""
        asked = [name for name in DISTRIBUTION if name in scores]
        if asked and protocol.pictures < LEAST:
            yield (
                ("protocol", "pictures"),
                f"{protocol.pictures} pictures are too few for {', '.join(asked)} of {self.name}: expected at least "
                f"{LEAST}; with 64 or more they begin to tell designs apart",
            )

    @classmethod
    def resolve(cls, short: str, declared: dict[str, Any], root: Path) -> DomainSpec:
        """Resolve what a study file declares; see `TaskSpec.resolve`."""
        faults = unknown_keys(declared, KEYS)
        name, short, size = sized(cls.kind, short, declared, faults)
        if "pictures" not in declared:
            if extra := sorted({"captions", "held_out"} & set(declared)):
                faults.append(f"{', '.join(extra)}: only for a folder, which `pictures` names")
            if short not in (known := _domains()):
                faults.append(
                    f"no domain {short!r} in the built-in world (known: {', '.join(known)}); "
                    "pictures of your own need `pictures: folder`"
                )
            spec = cls(name, domain=short, size=size)
        else:
            captions = words_of(declared["captions"], "captions", faults) if "captions" in declared else None
            held_out = _held_out(declared, root, faults)
            folder = folder_of(declared, "pictures", root, faults)
            spec = cls(name, None, folder, captions, held_out, size)
        return checked(spec, faults)


def _held_out(declared: dict[str, Any], root: Path, faults: list[str]) -> float | str:
    value = declared.get("held_out", SHARE)
    if isinstance(value, str):
        return folder_of(declared, "held_out", root, faults)
    if isinstance(value, float) and 0 < value < 1:
        return value
    faults.append(f"held_out is {value!r}, expected a folder, or a share of the pictures such as 0.2")
    return SHARE


def _counted(part: Files) -> str:
    return f"{len(part.files)} picture{'s' * (len(part.files) != 1)}"


def _domains() -> tuple[str, ...]:
    from study.world.domains import ALL

    return tuple(ALL)
