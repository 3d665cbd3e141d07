"""Sets of captioned pictures: a folder in one of three layouts, or drawings of the built-in world. No torch.

Layouts: `metadata.jsonl` as Hugging Face datasets reads it (a line a picture, `file_name` relative to the folder, and
`text`); a subfolder for each class (ImageFolder), captioned by a template; pictures alone, with one caption for all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from adapters.faults import InputFault
from adapters.reading import parse_json, read_bytes
from study.tasks.pictures import (
    EXPECTED,
    array_hash,
    broken,
    file_hash,
    fitted,
    is_picture,
    listed,
    picture_files,
    read,
)

METADATA = "metadata.jsonl"
_MOST = 200_000_000
"""Bytes of it at most."""
SPLITS = {"train", "test", "validation", "valid", "val"}

HELD_OUT_PICTURES = 16
"""Held-out pictures that the held-out loss is taken over."""

KEPT = 64
"""Generated pictures of a trial that are kept, the first; all of them are scored."""

AT_ONCE = 256
"""Real pictures that are in memory at once."""


class Captioned(ABC):
    """Pictures with a caption each."""

    captions: tuple[str, ...]

    @abstractmethod
    def load(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give some of the pictures, uint8 (N, size, size, 3): scaled, and cropped to the centre."""

    @abstractmethod
    def hashes(self) -> list[Any]:
        """Give, as JSON values, what changes when a picture or a caption does."""


@dataclass(frozen=True)
class Files(Captioned):
    """Picture files."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]

    def load(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give some of the pictures; see `Captioned.load`."""
        return np.stack([fitted(read(file), size) for file in self.files[begin:end]])

    def hashes(self) -> list[Any]:
        """Each picture's hash and caption, in an order that their names have no part in."""
        return sorted([file_hash(file), caption] for file, caption in zip(self.files, self.captions, strict=True))

    def ordered(self) -> Files:
        """Put the pictures in an order at random that only their content decides."""
        pairs = zip(self.files, self.captions, strict=True)
        order = sorted(pairs, key=lambda pair: (file_hash(pair[0]), pair[1]))
        return Files(tuple(file for file, _ in order), tuple(caption for _, caption in order))

    def parted(self, share: float, least: int) -> tuple[Files, Files]:
        """Part the pictures into two, the second with a share of them but at least so many.

        Raises
        ------
        InputFault : the first then has fewer.
        """
        held = max(least, round(share * len(self.files)))
        if (left := len(self.files) - held) < least:
            raise InputFault(
                f"held_out {share:g} of {len(self.files)} pictures leaves {left} to train on, expected at least {least}"
            )
        own = self.ordered()
        return Files(own.files[held:], own.captions[held:]), Files(own.files[:held], own.captions[:held])


@dataclass(frozen=True)
class Drawn(Captioned):
    """Drawings of the built-in world.

    Attributes
    ----------
    name : of a domain, or of a kind of control map.
    split : "train" or "real"; no scene is in both.
    """

    name: str
    count: int
    seed: int
    split: Literal["train", "real"]


class DrawnDomain(Drawn):
    """Drawings of a domain."""

    @cached_property
    def captions(self) -> tuple[str, ...]:  # type: ignore[override]
        """One a drawing."""
        from study.world.domains import ALL, domain_scenes

        scenes = domain_scenes(self.name, self.count, self.seed, self.split)
        return tuple(ALL[self.name].caption(scene) for scene in scenes)

    def load(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give some of the drawings, drawn at that size; see `Captioned.load`."""
        from study.world.domains import domain_pictures

        last = self.count if end is None else min(end, self.count)
        drawn = domain_pictures(self.name, last, self.seed, size, self.split)
        return np.stack([picture.pixels for picture in drawn[begin:]])

    def hashes(self) -> list[Any]:
        """What was asked for, and the first drawings: were the world drawn differently, they would differ."""
        from study.world.domains import domain_pictures

        first = domain_pictures(self.name, 2, self.seed, split=self.split)
        drawn = [[array_hash(picture.pixels), picture.caption] for picture in first]
        return [self.name, self.count, self.seed, self.split, drawn]


def in_parts(load: Callable[[int, int, int], np.ndarray], count: int, size: int) -> Iterator[np.ndarray]:
    """Load pictures as `Captioned.load` does, a few hundred at a time."""
    for begin in range(0, count, AT_ONCE):
        yield load(size, begin, begin + AT_ONCE)


def read_folder(folder: Path, captions: str | None) -> Files:
    """Find the pictures of a folder and their captions; every picture is looked at.

    Parameters
    ----------
    captions : a template with one `{}` for the class, for subfolders of classes; a text, for pictures alone; None for
        the layout's default, where it has one.

    Raises
    ------
    InputFault : one message that names every file or folder at fault.
    """
    if not folder.is_dir():
        raise InputFault(f"{folder} is no folder")
    if (folder / METADATA).is_file():
        if captions is not None:
            raise InputFault(f"captions: {folder / METADATA} has them; leave out the key, or take away the file")
        found = _described(folder)
    elif classes := sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = _classes(folder, classes, "a photo of a {}" if captions is None else captions)
    else:
        files = picture_files(folder)
        if not files:
            raise InputFault(f"{folder} holds no picture ({EXPECTED}), no {METADATA} and no folder of a class")
        if captions is None or "{}" in captions:
            raise InputFault(
                f"{folder} holds pictures alone, so nothing says what they show: give one text for all of them "
                f"(`captions: a photo of a flower`), or {METADATA}, or a folder for each class; got {captions!r}"
            )
        found = Files(tuple(files), (captions,) * len(files))
    if unreadable := broken(found.files):
        raise InputFault(f"pictures in {folder} cannot be read: {listed(unreadable)}. Remove or replace them")
    return found


def _described(folder: Path) -> Files:
    """Read a folder whose pictures are described by a file."""
    told = folder / METADATA
    try:
        lines = read_bytes(told, _MOST).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault(f"{told} cannot be read as UTF-8 text ({error})") from error
    faults: list[str] = []
    captions: dict[str, str] = {}
    named: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line.encode())
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            faults.append(f"line {number} is no JSON object with file_name and text")
            continue
        name, text = entry["file_name"], entry.get("text")
        path = PurePosixPath(name)
        named.add(str(path))
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            faults.append(f"line {number}: {name} leads out of the folder")
        elif not is_picture(folder / name):
            why = f"is no picture ({EXPECTED})" if os.path.exists(folder / name) else "does not exist"
            faults.append(f"line {number}: {name} {why}")
        elif not isinstance(text, str) or not text.strip():
            faults.append(f"line {number}: {name} has no text")
        elif str(path) in captions:
            faults.append(f"line {number}: {name} is there twice")
        else:
            captions[str(path)] = " ".join(text.split())
    there = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if is_picture(path)]
    if missing := [name for name in there if name not in named]:
        faults.append(f"no caption for {listed(missing)}; add a line for each, or remove them")
    if faults:
        raise InputFault(f"{told}: {listed(faults)}")
    if not captions:
        example = '{"file_name": "1.jpg", "text": "a red flower"}'
        raise InputFault(f"{told} names no picture; expected lines such as {example}")
    return Files(tuple(folder / name for name in captions), tuple(captions.values()))


def _classes(folder: Path, classes: Sequence[Path], template: str) -> Files:
    """Read a folder with a subfolder for each class; its name is the class, `_` and `-` being spaces."""
    faults = []
    if {path.name.lower() for path in classes} <= SPLITS:
        names = ", ".join(path.name for path in classes)
        raise InputFault(
            f"{folder} holds the folders {names}, which are parts of a data set and no classes: give one as `pictures` "
            "and another as `held_out`"
        )
    if template.count("{}") != 1:
        faults.append(f"captions is {template!r}: expected a text with one {{}} where the class goes")
    if loose := picture_files(folder):
        faults.append(f"{listed([file.name for file in loose])} lies beside the folders of classes, so has none")
    files = {path: picture_files(path) for path in classes}
    if empty := [path.name for path, own in files.items() if not own]:
        faults.append(f"no picture ({EXPECTED}) in the class folder {listed(empty)}")
    if faults:
        raise InputFault(f"{folder}: {'; '.join(faults)}")
    pairs = [
        (file, template.replace("{}", path.name.replace("_", " ").replace("-", " ").strip()))
        for path, own in files.items()
        for file in own
    ]
    return Files(tuple(file for file, _ in pairs), tuple(caption for _, caption in pairs))
