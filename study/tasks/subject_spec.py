"""The subject task as it is declared: a subject of the built-in world, or a folder of photographs with a class word.

Keys: `pictures` (a folder), `class`, `token`, `prompts` (left out: those of the world's subjects), `crop`, `flip`.
Without `pictures` the name is one of the built-in world.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from adapters.faults import InputFault
from study.paths import place
from study.tasks.pictures import (
    CENTRE,
    CROPS,
    EXPECTED,
    array_hash,
    broken,
    file_hash,
    fitted,
    listed,
    picture_files,
    read,
)
from study.tasks.specs import NoFolder, TaskSpec, templates_of, unknown_keys, words_of

if TYPE_CHECKING:
    from study.config import Protocol

TOKEN = "sks"
KEYS = {"pictures", "class", "token", "prompts", "crop", "flip"}


@dataclass(frozen=True)
class SubjectSpec(TaskSpec):
    """A subject task, resolved.

    Attributes
    ----------
    name : "subject/…", as results show it.
    class_word : the word of the class the subject belongs to; prior pictures are made with it.
    token : the rare token that comes to mean the subject.
    prompts : templates; `{}` stands where "sks robot" goes.
    subject : a name in the built-in world, or None.
    folder : a folder of photographs, or None.
    crop : "centre", or "none" for whole photographs on white.
    flip : whether every picture is trained on mirrored as well, left to right.
    """

    kind: ClassVar[str] = "subject"
    primary: ClassVar[str] = "clip_i"
    # The prompt is first, since fidelity to the subject is easily had at its cost.
    ties: ClassVar[tuple[str, ...]] = ("clip_t", "dino_i", "dinov2_i", "clip_i", "colour", "diversity")
    own: ClassVar[str] = "--pictures photos/mine --class WORD"
    scores: ClassVar[Mapping[str, str | None]] = {
        "clip_i": "micro-clip", "clip_t": "micro-clip", "dino_i": "micro-dino",
        "dinov2_i": None, "colour": None, "noise_difference": None,
    }  # fmt: skip

    class_word: str
    token: str
    prompts: tuple[str, ...]
    subject: str | None = None
    folder: str | None = None
    crop: str = CENTRE
    flip: bool = False

    @property
    def instance_prompt(self) -> str:
        """The prompt the subject's pictures are trained with, for instance "a photo of a sks robot"."""
        return f"a photo of a {self.token} {self.class_word}"

    @property
    def class_prompt(self) -> str:
        """The prompt prior pictures are made and trained with, for instance "a photo of a robot"."""
        return f"a photo of a {self.class_word}"

    @property
    def example(self) -> str:
        """The subject somewhere, for instance "a photo of a sks robot on grass"."""
        return f"{self.instance_prompt} on grass"

    @property
    def words(self) -> str:
        """The class word."""
        return self.class_word

    @property
    def metadata(self) -> dict[str, Any]:
        """The token, the class word and the prompt that means the subject; see `TaskSpec.metadata`."""
        words = {"token": self.token, "class": self.class_word, "instance_prompt": self.instance_prompt}
        return {**super().metadata, **words}

    def prompt(self, index: int) -> str:
        """The index-th prompt pictures are generated from, with token and class word in its place."""
        return self.prompts[index].replace("{}", f"{self.token} {self.class_word}")

    def described(self, index: int) -> str:
        """The index-th prompt without the token: what a text encoder that never saw the subject can judge."""
        return self.prompts[index].replace("{}", self.class_word)

    def load_pictures(self, size: int, most: int | None = None) -> np.ndarray:
        """Give the subject's pictures; see `TaskSpec.load_pictures`."""
        if self.subject is not None:
            images = [Image.fromarray(picture) for picture in _world()[self.subject].pictures()[:most]]
        else:
            files = picture_files(Path(self.folder or ""))
            if fault := _folder_fault(Path(self.folder or ""), files, self.name):
                raise InputFault(f"{fault}.")
            images = [read(file) for file in files[:most]]
        return np.stack([fitted(image, size, self.crop) for image in images])

    def content_hash(self) -> str:
        """SHA-256 over pictures, prompts, class word and token; and over crop and flip where they are not the usual."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        if self.subject is not None:
            hashes = [array_hash(picture) for picture in _world()[self.subject].pictures()]
        else:
            hashes = [file_hash(file) for file in picture_files(Path(self.folder or ""))]
        content = [hashes, list(self.prompts), self.class_word, self.token]
        content += [f"crop {self.crop}"] * (self.crop != CENTRE) + ["flip"] * self.flip
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def unfit(self, scores: Mapping[str, Any], protocol: Protocol) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield why the true colours cannot be judged, if they are to be: they are unknown, or no prompt keeps them."""
        from study.world.colour_fidelity import keeps_colours

        if "colour" not in scores:
            return
        if self.subject is None:
            yield (
                ("scores", "colour"),
                "colour needs the true colours, which only subjects of the built-in world have; "
                f"{self.name} is a folder of photographs: leave out the score, or the task",
            )
        elif not any(map(keeps_colours, self.prompts)):
            yield (
                ("scores", "colour"),
                f"every prompt of {self.name} asks for another colour, texture or style than the subject's; "
                "leave out the score, or give a prompt that leaves the looks as they are",
            )

    @classmethod
    def resolve(cls, short: str, declared: dict[str, Any], root: Path) -> SubjectSpec:
        """Resolve what a study file declares; see `TaskSpec.resolve`."""
        faults = unknown_keys(declared, KEYS)
        token = words_of(declared.get("token", TOKEN), "token", faults)
        prompts = templates_of(declared.get("prompts"), faults)
        flip = declared.get("flip", False)
        if not isinstance(flip, bool):
            faults.append(f"flip is {flip!r}, expected true or false")
        resolved: SubjectSpec | None
        if "pictures" in declared:
            resolved = _from_folder(short, declared, token, prompts, root, faults)
        else:
            resolved = _from_world(short, declared, token, prompts, faults)
        if faults:
            raise InputFault("; ".join(faults))
        assert resolved is not None
        return replace(resolved, flip=flip)


def _from_world(
    short: str, declared: dict[str, Any], token: str, prompts: tuple[str, ...] | None, faults: list[str]
) -> SubjectSpec | None:
    world = _world()
    if short not in world:
        faults.append(
            f"no subject {short!r} in the built-in world (known: {', '.join(world)}); "
            "your own photographs need `pictures: folder` and `class: word`"
        )
        return None
    if "crop" in declared:
        faults.append("crop: only for photographs; the world's pictures are square; leave it out")
    subject = world[short]
    if "class" in declared and declared["class"] != subject.class_word:
        faults.append(f"class {declared['class']!r} is not that of the subject, {subject.class_word!r}; leave it out")
    return SubjectSpec(f"subject/{short}", subject.class_word, token, prompts or tuple(subject.prompts()), short)


def _from_folder(
    short: str, declared: dict[str, Any], token: str, prompts: tuple[str, ...] | None, root: Path, faults: list[str]
) -> SubjectSpec:
    if "class" not in declared:
        faults.append("class is missing: give the word for what the pictures show, for instance `class: dog`")
    class_word = words_of(declared.get("class", "thing"), "class", faults)
    crop = declared.get("crop", CENTRE)
    if crop not in CROPS:
        faults.append(f"crop is {crop!r}, expected {' or '.join(CROPS)}")
    folder = place(root, str(declared["pictures"])).resolve()
    if not folder.parent.is_dir() and not faults:
        raise NoFolder(f"pictures: there is no folder {folder.parent}, where those of this task are to be")
    if not folder.is_dir():
        faults.append(f"pictures: {folder} is no folder")
    elif fault := _folder_fault(folder, picture_files(folder), short):
        faults.append(fault)
    return SubjectSpec(f"subject/{short}", class_word, token, prompts or _world_prompts(), None, str(folder), crop)


def _folder_fault(folder: Path, files: list[Path], name: str) -> str:
    if not files:
        return f"pictures: {folder} holds no picture ({EXPECTED})"
    if unreadable := broken(files):
        return f"pictures of {name} in {folder} cannot be read: {listed(unreadable)}. Remove or replace them"
    return ""


def _world() -> dict[str, Any]:
    from study.world import SUBJECTS

    return SUBJECTS


def _world_prompts() -> tuple[str, ...]:
    """The prompts of the world's own subjects; they name no class, so they suit any."""
    return tuple(next(iter(_world().values())).prompts())
