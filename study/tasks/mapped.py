"""Captioned pictures with a control map each: scenes of the built-in world, or files in two folders. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from adapters.faults import InputFault
from study.tasks.captioned import Captioned, Drawn, Files
from study.tasks.pictures import (
    EXPECTED,
    array_hash,
    broken,
    file_hash,
    fitted,
    is_picture,
    listed,
    read,
    upright_size,
)

if TYPE_CHECKING:
    from study.world.control_maps import MapKind
    from study.world.scene import Scene


class Mapped(Captioned):
    """Pictures with a caption and a map each."""

    @abstractmethod
    def load_maps(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give the maps of some of the pictures, uint8 (N, size, size, 3): scaled and cropped as the pictures are."""


class DrawnScenes(Drawn, Mapped):
    """Scenes of the built-in world with their true maps, of the kind that `name` says."""

    @cached_property
    def scenes(self) -> list[Scene]:
        """What is drawn; the same scenes for every kind of map."""
        from study.world.control_maps import control_scenes

        return control_scenes(self.count, self.seed, self.split)

    @cached_property
    def captions(self) -> tuple[str, ...]:  # type: ignore[override]
        """One a scene."""
        from study.world.captions import caption

        return tuple(caption(scene) for scene in self.scenes)

    def load(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give some of the drawings, drawn at that size; see `Captioned.load`."""
        from study.world.scene import draw

        return np.stack([draw(scene, size).pixels for scene in self.scenes[begin:end]])

    def load_maps(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give the true maps of some of the drawings, drawn at that size; see `Mapped.load_maps`."""
        from study.world.control_maps import control_picture

        kind = cast("MapKind", self.name)
        return np.stack([control_picture(scene, kind, size) for scene in self.scenes[begin:end]])

    def hashes(self) -> list[Any]:
        """What was asked for, and the first drawings and maps: were they drawn differently, they would differ."""
        from study.world.scene import SIZE

        drawn = zip(self.load(SIZE, 0, 2), self.load_maps(SIZE, 0, 2), self.captions, strict=False)
        first = [[array_hash(picture), array_hash(shown), caption] for picture, shown, caption in drawn]
        return [self.name, self.count, self.seed, self.split, first]


@dataclass(frozen=True)
class MappedFiles(Mapped):
    """Picture files, and a file with the map of each."""

    pictures: Files
    maps: tuple[Path, ...]

    @property
    def captions(self) -> tuple[str, ...]:  # type: ignore[override]
        """One a picture."""
        return self.pictures.captions

    def load(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give some of the pictures; see `Captioned.load`."""
        return self.pictures.load(size, begin, end)

    def load_maps(self, size: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Give the maps of some of the pictures; see `Mapped.load_maps`."""
        return np.stack([fitted(read(file), size) for file in self.maps[begin:end]])

    def hashes(self) -> list[Any]:
        """Each picture's hash, its map's and its caption, in an order that their names have no part in."""
        files = self.pictures
        told = zip(files.files, self.maps, files.captions, strict=True)
        return sorted([file_hash(picture), file_hash(shown), caption] for picture, shown, caption in told)

    def parted(self, share: float, least: int) -> tuple[MappedFiles, MappedFiles]:
        """Part the pictures, with their maps, into two; see `Files.parted`."""
        of = dict(zip(self.pictures.files, self.maps, strict=True))
        train, real = self.pictures.parted(share, least)
        return tuple(MappedFiles(part, tuple(of[file] for file in part.files)) for part in (train, real))  # type: ignore[return-value]


def read_maps(pictures: Files, beside: Path, folder: Path) -> MappedFiles:
    """Find the map of every picture: a file in `folder` that is called as the picture is in `beside`, suffix aside.

    Raises
    ------
    InputFault : one message that names every picture without a map, every map without a picture or of another size than
        its picture, and every file that cannot be read.
    """
    if not folder.is_dir():
        raise InputFault(f"maps: {folder} is no folder")
    if folder == beside:
        raise InputFault(f"maps: {folder} is the folder of the pictures; keep the maps in another one")
    named: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if is_picture(path):
            named.setdefault(_name(path, folder), []).append(path)
    wanted = {_name(file, beside): file for file in pictures.files}
    faults = []
    if len(wanted) < len(pictures.files):
        names = [_name(file, beside) for file in pictures.files]
        twice = sorted({name for name in names if names.count(name) > 1})
        faults.append(f"several pictures are called {listed(twice)}, suffix aside, so their maps cannot be told apart")
    if missing := [file.name for name, file in wanted.items() if name not in named]:
        faults.append(f"no map ({EXPECTED}, called as the picture) for {listed(missing)}")
    if alone := [path.name for name, own in named.items() if name not in wanted for path in own]:
        faults.append(f"no picture for the map {listed(alone)}")
    if several := [", ".join(path.name for path in own) for own in named.values() if len(own) > 1]:
        faults.append(f"several maps for one picture: {listed(several)}")
    there = {name: named[name][0] for name in wanted if name in named}
    unreadable = broken(there.values())
    if unreadable:
        faults.append(f"cannot be read: {listed(unreadable)}")
    else:
        faults += _wrong_sizes({wanted[name]: path for name, path in there.items()})
    if faults:
        raise InputFault(f"maps in {folder}: {'; '.join(faults)}")
    return MappedFiles(pictures, tuple(there[_name(file, beside)] for file in pictures.files))


def _wrong_sizes(pairs: dict[Path, Path]) -> Sequence[str]:
    wrong = [
        f"{shown.name} ({own[0]}x{own[1]}, its picture {size[0]}x{size[1]})"
        for picture, shown in pairs.items()
        if (own := upright_size(shown)) != (size := upright_size(picture))
    ]
    return [f"not of the size of their pictures: {listed(wrong)}"] if wrong else []


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
