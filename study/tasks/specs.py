"""A task as it is declared: which pictures, which class, which prompts. Checked whole before anything is trained.

Never imports torch. A task is either a subject of the built-in world ("subject/robot") or a folder of photographs with
a class word.
"""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from adapters.faults import InputFault
from study.backbones.names import Source, unknown_words

TOKEN = "sks"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SMALLEST = 16
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises for a file that is broken, something else, or absurdly large."""

KEYS = {"kind", "name", "pictures", "class", "token", "prompts"}


@dataclass(frozen=True)
class TaskSpec:
    """A subject task, resolved.

    Attributes
    ----------
    name : "subject/…", as results show it.
    class_word : the word of the class the subject belongs to; prior pictures are made with it.
    token : the rare token that comes to mean the subject.
    prompts : templates; `{}` stands where "sks robot" goes.
    subject : a name in the built-in world, or None.
    folder : a folder of photographs, or None.
    """

    name: str
    class_word: str
    token: str
    prompts: tuple[str, ...]
    subject: str | None = None
    folder: str | None = None

    @property
    def instance_prompt(self) -> str:
        """The prompt the subject's pictures are trained with, for instance "a photo of a sks robot"."""
        return f"a photo of a {self.token} {self.class_word}"

    @property
    def class_prompt(self) -> str:
        """The prompt prior pictures are made and trained with, for instance "a photo of a robot"."""
        return f"a photo of a {self.class_word}"

    def prompt(self, index: int) -> str:
        """The index-th prompt pictures are generated from, with token and class word in its place."""
        return self.prompts[index].replace("{}", f"{self.token} {self.class_word}")

    def described(self, index: int) -> str:
        """The index-th prompt without the token: what a text encoder that never saw the subject can judge."""
        return self.prompts[index].replace("{}", self.class_word)

    def load_pictures(self, size: int) -> np.ndarray:
        """Give the subject's pictures, uint8 (N, size, size, 3): rotated as the camera said, cropped to the centre.

        Raises
        ------
        InputFault : a picture cannot be read (all that cannot be are named).
        """
        if self.subject is not None:
            images = [Image.fromarray(picture) for picture in _world()[self.subject].pictures()]
        else:
            images = _photographs(Path(self.folder or ""), self.name)
        return np.stack([_fitted(image, size) for image in images])

    def content_hash(self) -> str:
        """SHA-256 over what decides the task's numbers: pictures, prompts, class word and token; not name or folder."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        if self.subject is not None:
            pictures = [np.ascontiguousarray(picture) for picture in _world()[self.subject].pictures()]
            hashes = [hashlib.sha256(repr(p.shape).encode() + p.tobytes()).hexdigest() for p in pictures]
        else:
            files = _picture_files(Path(self.folder or ""))
            hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        content = [hashes, list(self.prompts), self.class_word, self.token]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give the spec as JSON values."""
        return {**asdict(self), "prompts": list(self.prompts)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TaskSpec":
        """Build the spec that `to_json` wrote."""
        return cls(**{**data, "prompts": tuple(data["prompts"])})


def resolve_task(spec: str | dict[str, Any], root: Path) -> TaskSpec:
    """Resolve a task of a study file and check all of it, every picture included.

    Parameters
    ----------
    spec : "subject/robot", or a mapping with `name` and any of `pictures` (a folder, from `root`), `class`, `token`,
        `prompts` (left out: those of the world's subjects). Without `pictures` the name is one of the built-in world.
    root : folder that a relative `pictures` starts from.

    Raises
    ------
    InputFault : one message with everything that is wrong with this task.
    """
    declared: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = declared.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputFault(f"task {spec!r}: expected subject/robot or the like, or {{name: …, pictures: …, class: …}}.")
    short = name.strip().removeprefix("subject/")
    unknown = sorted(map(repr, set(declared) - KEYS))
    faults = [f"unknown keys {', '.join(unknown)} (known: {', '.join(sorted(KEYS))})"] if unknown else []
    if declared.get("kind", "subject") != "subject":
        faults.append(f"kind {declared['kind']!r} is unknown (known: subject)")
    token = _words(declared.get("token", TOKEN), "token", faults)
    prompts = _prompts(declared.get("prompts"), faults)
    resolved: TaskSpec | None
    if "pictures" in declared:
        resolved = _from_folder(short, declared, token, prompts, root, faults)
    else:
        resolved = _from_world(short, declared, token, prompts, faults)
    if faults:
        raise InputFault(f"task {name}: {'; '.join(faults)}.")
    assert resolved is not None
    return resolved


def unknown_class(source: Source, spec: TaskSpec) -> list[str]:
    """Return a warning if the text encoder of a backbone was not trained with the class word, else nothing.

    Raises
    ------
    InputFault : a backbone of the hub that has not been downloaded.
    """
    words = unknown_words(source, spec.class_word)
    if not words:
        return []
    return [
        f"the text encoder of {source.name} spells {', '.join(words)!r} letter by letter: the class of {spec.name} "
        "means little to it; prefer a class word that it was trained with"
    ]


def _from_world(
    short: str, declared: dict[str, Any], token: str, prompts: tuple[str, ...] | None, faults: list[str]
) -> TaskSpec | None:
    world = _world()
    if short not in world:
        faults.append(
            f"no subject {short!r} in the built-in world (known: {', '.join(world)}); "
            "your own photographs need `pictures: folder` and `class: word`"
        )
        return None
    subject = world[short]
    if "class" in declared and declared["class"] != subject.class_word:
        faults.append(f"class {declared['class']!r} is not that of the subject, {subject.class_word!r}; leave it out")
    return TaskSpec(f"subject/{short}", subject.class_word, token, prompts or tuple(subject.prompts()), subject=short)


def _from_folder(
    short: str, declared: dict[str, Any], token: str, prompts: tuple[str, ...] | None, root: Path, faults: list[str]
) -> TaskSpec:
    if "class" not in declared:
        faults.append("class is missing: give the word for what the pictures show, for instance `class: dog`")
    class_word = _words(declared.get("class", "thing"), "class", faults)
    folder = (root / Path(str(declared["pictures"])).expanduser()).resolve()
    if not folder.is_dir():
        faults.append(f"pictures: {folder} is no folder")
    elif not _picture_files(folder):
        faults.append(f"pictures: {folder} holds no picture (expected {', '.join(sorted(SUFFIXES))})")
    else:
        try:
            _photographs(folder, short)
        except InputFault as fault:
            faults.append(str(fault).removesuffix("."))
    return TaskSpec(f"subject/{short}", class_word, token, prompts or _world_prompts(), folder=str(folder))


def _words(value: Any, key: str, faults: list[str]) -> str:
    if isinstance(value, str) and value.strip():
        return " ".join(value.split())
    faults.append(f"{key} is {value!r}, expected a word")
    return ""


def _prompts(value: Any, faults: list[str]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        faults.append(f"prompts is {value!r}, expected a list of texts with {{}} where the subject goes")
        return None
    wrong = [prompt for prompt in value if not isinstance(prompt, str) or prompt.count("{}") != 1]
    if wrong:
        faults.append(f"prompts without exactly one {{}} where the subject goes: {wrong}")
        return None
    return tuple(value)


def _world() -> dict[str, Any]:
    from study.world import SUBJECTS

    return SUBJECTS


def _world_prompts() -> tuple[str, ...]:
    """The prompts of the world's own subjects; they name no class, so they suit any."""
    return tuple(next(iter(_world().values())).prompts())


def _picture_files(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.name)


def _photographs(folder: Path, name: str) -> list[Image.Image]:
    images, broken = [], []
    for file in _picture_files(folder):
        try:
            with warnings.catch_warnings(), Image.open(file) as opened:
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                images.append(_upright(opened))
            if min(images[-1].size) < SMALLEST:
                broken.append(
                    f"{file.name} ({images[-1].width}x{images[-1].height}; at least {SMALLEST} pixels, please)"
                )
        except UNREADABLE as error:
            broken.append(f"{file.name} ({' '.join(str(error).split())[:120]})")
    if broken:
        raise InputFault(f"pictures of {name} in {folder} cannot be read: {', '.join(broken)}. Remove or replace them.")
    if not images:
        raise InputFault(f"pictures of {name}: {folder} holds no picture (expected {', '.join(sorted(SUFFIXES))}).")
    return images


def _upright(opened: Image.Image) -> Image.Image:
    """Turn a picture as its camera said and lay what is transparent on white."""
    image = ImageOps.exif_transpose(opened)
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _fitted(image: Image.Image, size: int) -> np.ndarray:
    if image.size == (size, size):
        return np.asarray(image)
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
