"""The control task as it is declared: pictures that follow a map besides their caption.

Keys: `pictures` and `maps` (two folders, the maps called as the pictures; left out, the name is a kind of map of the
built-in world: edges, segmentation or landmarks), `captions` (as domains have it), `held_out` (the share of the
pictures that is kept to be drawn from), `size` (edge of the pictures in pixels; left out, the backbone's).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from adapters.faults import InputFault
from study.backbones.names import SEGMENTER
from study.tasks.captioned import read_folder
from study.tasks.captioned_spec import CaptionedSpec, checked, folder_of, sized
from study.tasks.mapped import DrawnScenes, Mapped, read_maps
from study.tasks.specs import unknown_keys, words_of

MAPS = ("edges", "segmentation", "landmarks")
CONTROL = ("edge_error", "mean_iou", "pixel_accuracy", "landmark_error")
"""Scores of how well a picture keeps to its map, which only the built-in world's pictures can have."""

ENCODER = "encoder-1: conv 3-16-32-…, SiLU, AdamW at 3e-3, added to the first features"
"""What is trained beside every design; part of the task's hash, since numbers depend on it."""

SHARE = 0.2
LEAST = 4
"""Pictures on each side at least: to train on, and to draw from."""

WORLD_PICTURES, WORLD_HELD_OUT = 384, 96
WORLD_SEED = 20261126
KEYS = {"pictures", "maps", "captions", "held_out", "size"}


@dataclass(frozen=True)
class ControlSpec(CaptionedSpec[Mapped]):
    """A control task, resolved.

    Attributes
    ----------
    name : "control/…", as results show it.
    control : a kind of map of the built-in world, or None.
    folder, maps : folders of pictures and of their maps, or None.
    captions : the template or text that `captions` gives, or None.
    held_out : the share of the folder's pictures that is held out.
    size : edge of the pictures in pixels; None for the backbone's.
    """

    kind: ClassVar[str] = "control"
    # The prompt is first, since a map is easily followed at its cost.
    ties: ClassVar[tuple[str, ...]] = ("clip_t", *CONTROL)
    own: ClassVar[str] = "--task '{kind: control, pictures: photos/mine, maps: maps/mine}'"

    control: str | None = None
    folder: str | None = None
    maps: str | None = None
    captions: str | None = None
    held_out: float = SHARE
    size: int | None = None

    @property
    def scores(self) -> Mapping[str, str | None]:  # type: ignore[override]
        """The scores it can be judged by; what a map of one's own asked for, nothing here can read off a picture."""
        own = {"clip_t": "micro-clip"}
        return own if self.control is None else {**dict.fromkeys(CONTROL, SEGMENTER), **own}

    @property
    def primary(self) -> str:  # type: ignore[override]
        """Edges, in which any kind of map shows most (docs/builtin.md); of one's own pictures, prompt fidelity."""
        return "clip_t" if self.control is None else CONTROL[0]

    @cached_property
    def _parts(self) -> tuple[Mapped, Mapped]:
        if self.control is not None:
            return (
                DrawnScenes(self.control, WORLD_PICTURES, WORLD_SEED, "train"),
                DrawnScenes(self.control, WORLD_HELD_OUT, WORLD_SEED, "real"),
            )
        folder = Path(self.folder or "")
        pictures = read_folder(folder, self.captions)
        if len(pictures.files) < 2 * LEAST:
            plural = "s" * (len(pictures.files) != 1)
            raise InputFault(
                f"{folder} holds {len(pictures.files)} picture{plural}, expected at least {2 * LEAST}: {LEAST} or more "
                "to train on, and as many that are held out to draw from their maps"
            )
        return read_maps(pictures, folder, Path(self.maps or "")).parted(self.held_out, LEAST)

    def content_hash(self) -> str:
        """SHA-256 over pictures, maps and captions of both parts, the encoder, and the size if it is declared."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        size = [] if self.size is None else [self.size]
        content = ["control", ENCODER, self.train.hashes(), self.real.hashes(), *size]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @classmethod
    def resolve(cls, short: str, declared: dict[str, Any], root: Path) -> ControlSpec:
        """Resolve what a study file declares; see `TaskSpec.resolve`."""
        faults = unknown_keys(declared, KEYS)
        name, short, size = sized(cls.kind, short, declared, faults)
        if "pictures" not in declared and "maps" not in declared:
            if extra := sorted({"captions", "held_out"} & set(declared)):
                faults.append(f"{', '.join(extra)}: only for folders, which `pictures` and `maps` name")
            if short not in MAPS:
                faults.append(
                    f"no map {short!r} in the built-in world (known: {', '.join(MAPS)}); "
                    "pictures of your own need `pictures: folder` and `maps: folder`"
                )
            spec = cls(name, control=short, size=size)
        else:
            pictures, maps = (folder_of(declared, key, root, faults) for key in ("pictures", "maps"))
            captions = words_of(declared["captions"], "captions", faults) if "captions" in declared else None
            share = declared.get("held_out", SHARE)
            if not isinstance(share, float) or not 0 < share < 1:
                faults.append(f"held_out is {share!r}, expected a share of the pictures such as 0.2")
            spec = cls(name, None, pictures, maps, captions, share, size)
        return checked(spec, faults)
