"""What the declarations of tasks on captioned pictures share: two parts, one to train on, one that is held out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from adapters.faults import InputFault
from study.paths import place
from study.tasks.captioned import Captioned
from study.tasks.pictures import SMALLEST
from study.tasks.specs import TaskSpec

Part = TypeVar("Part", bound=Captioned)
Spec = TypeVar("Spec", bound="CaptionedSpec[Any]")


class CaptionedSpec(TaskSpec, Generic[Part]):
    """A task on captioned pictures.

    Attributes
    ----------
    folder : a folder of pictures, or None for those of the built-in world.
    size : edge of the pictures in pixels; None for the backbone's.
    """

    folder: str | None
    size: int | None

    @property
    @abstractmethod
    def _parts(self) -> tuple[Part, Part]:
        """What is trained on, and what is held out."""

    @property
    def train(self) -> Part:
        """What is trained on."""
        return self._parts[0]

    @property
    def real(self) -> Part:
        """What is held out: pictures to compare with, and captions (and maps) to draw from."""
        return self._parts[1]

    @property
    def example(self) -> str:
        """The first caption."""
        return self.train.captions[0]

    @property
    def words(self) -> str:
        """The words of the captions, those of the most frequent ones if they are many."""
        captions = list(dict.fromkeys(self.train.captions))[:200]
        return " ".join(dict.fromkeys(word for caption in captions for word in caption.replace(",", " ").split()))

    def load_pictures(self, size: int, most: int | None = None) -> np.ndarray:
        """Give the pictures that are trained on; see `TaskSpec.load_pictures`."""
        return self.train.load(size, 0, most)


def folder_of(declared: Mapping[str, Any], key: str, root: Path, faults: list[str]) -> str:
    """Return the folder that a task declares; else add a fault."""
    value = declared.get(key)
    if not isinstance(value, str) or not value.strip():
        faults.append(f"{key} is {value!r}, expected a folder")
        return ""
    try:
        return str(place(root, value).resolve())
    except InputFault as fault:
        faults.append(f"{key}: {fault}")
        return ""


def checked(spec: Spec, faults: list[str]) -> Spec:
    """Return a resolved task; the pictures of a folder are looked at once all else is right.

    Raises
    ------
    InputFault : everything that is wrong with the declaration or, if nothing is, with the folder.
    """
    if not faults and spec.folder is not None:
        try:
            spec.content_hash()
        except InputFault as fault:
            faults.append(str(fault))
    if faults:
        raise InputFault("; ".join(faults))
    return spec


def sized(kind: str, short: str, declared: dict[str, Any], faults: list[str]) -> tuple[str, str, int | None]:
    """Read the size that a task declares, by the key `size` or at the end of its name (`photo@96`); else add a fault.

    Returns
    -------
    The task's name with kind and size, so that the same pictures at two sizes are two tasks; the name without both; and
    the edge in pixels, None for the backbone's.
    """
    size = declared.get("size")
    base, at, edge = short.rpartition("@")
    if at and base and edge.isdecimal():
        short, told = base, int(edge)
        if size not in (None, told):
            faults.append(f"size is {size!r}, but the name says {told}")
        size = told
    if size is None:
        return f"{kind}/{short}", short, None
    if not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST:
        faults.append(f"size is {size!r}, expected the edge of the pictures in pixels, such as 96")
        return f"{kind}/{short}", short, None
    return f"{kind}/{short}@{size}", short, size
