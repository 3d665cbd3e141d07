"""Domains to learn: eight styles that the built-in generator cannot draw, the counterpart of eight data sets; and
photos, which it can, to be learned at another size.

A domain's pictures show the world's things in one style; their captions are in the words of the world and do not name
the style, so that tuning has to put it into the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from adapters.faults import InputFault
from study.world import domain_styles
from study.world.backgrounds import BACKGROUNDS
from study.world.captions import caption
from study.world.colours import COLOURS
from study.world.objects import KINDS
from study.world.scene import SIZE, TEXTURES, Scene, sample_look, sample_pose

Split = Literal["train", "real"]
"""Pictures to tune on; and others of the same domain, to hold generated ones against."""

@dataclass(frozen=True)
class Domain:
    """A style of drawing.

    Attributes
    ----------
    name : str
    draw : callable
        A scene, a size and a random stream to a canvas; see `study.world.domain_styles`.
    says : frozenset of str
        Which of "colour", "texture", "background" its pictures show, and so its captions say.
    finer : int
        Canvases are drawn this much larger and averaged down, so that lines have no stairs.
    """

    name: str
    draw: Callable[[Scene, int, np.random.Generator], np.ndarray]
    says: frozenset[str] = frozenset()
    finer: int = 2

    def picture(self, scene: Scene, size: int = SIZE) -> np.ndarray:
        """Draw a scene in this style, (size, size, 3) uint8; the same scene gives the same pixels."""
        rng = np.random.default_rng([scene.seed, list(ALL).index(self.name)])
        canvas = self.draw(scene, self.finer * size, rng)
        mean = canvas.reshape(size, self.finer, size, self.finer, 3).mean((1, 3))
        return (np.clip(mean, 0, 1) * 255 + 0.5).astype(np.uint8)

    def caption(self, scene: Scene) -> str:
        """Say what of a scene the picture shows: "a photo of a red robot on grass", or "a photo of a robot"."""
        colour, texture, background = (name in self.says for name in ("colour", "texture", "background"))
        return caption(scene, colour=colour, texture=texture, background=background)


class DomainPicture(NamedTuple):
    """One picture of a domain: (size, size, 3) uint8, its caption, and the word of its class."""

    pixels: np.ndarray
    caption: str
    class_word: str


_EVERYTHING = frozenset({"colour", "texture", "background"})

DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("sketch", domain_styles.sketch),
        Domain("outline", domain_styles.outline),
        Domain("pixel", domain_styles.pixel, frozenset({"colour", "background"})),
        Domain("woodcut", domain_styles.woodcut),
        Domain("neon", domain_styles.neon),
        Domain("pastel", domain_styles.pastel, _EVERYTHING),
        Domain("mosaic", domain_styles.mosaic, frozenset({"colour", "background"})),
        Domain("blueprint", domain_styles.blueprint),
    )
}
"""Name → domain: the eight styles."""

ALL: dict[str, Domain] = {**DOMAINS, "photo": Domain("photo", domain_styles.photo, _EVERYTHING, finer=1)}
"""Name → domain: the styles, and photos."""


def domain_scenes(name: str, count: int, seed: int = 0, split: Split = "train") -> list[Scene]:
    """Sample what a domain's pictures show; see `domain_pictures`."""
    _check(name, count, split)
    key = (20261201, list(ALL).index(name), get_args(Split).index(split), seed)
    return [any_scene(np.random.default_rng([*key, number])) for number in range(count)]


def domain_pictures(
    name: str, count: int, seed: int = 0, size: int = SIZE, split: Split = "train"
) -> list[DomainPicture]:
    """Draw pictures of a domain.

    Parameters
    ----------
    name : str
        One of `ALL`.
    count : int
        How many; fewer are the first ones of more.
    seed : int
        Another seed gives other pictures of the domain.
    size : int
        Edge in pixels; the same scenes at every size.
    split : "train" or "real"
        Two streams that share no scene.

    Returns
    -------
    list of DomainPicture
        Every kind of thing as often as any other, in all places, colours and textures.

    Raises
    ------
    InputFault
        Of an unknown name or split, or a count below 1.
    """
    scenes = domain_scenes(name, count, seed, split)
    domain = ALL[name]
    return [DomainPicture(domain.picture(scene, size), domain.caption(scene), scene.kind) for scene in scenes]


def _check(name: str, count: int, split: str) -> None:
    if name not in ALL:
        raise InputFault(f"no domain {name!r} in the built-in world; it has {', '.join(ALL)}.")
    if split not in get_args(Split):
        raise InputFault(f"no split {split!r} of a domain; expected one of {', '.join(get_args(Split))}.")
    if count < 1:
        raise InputFault(f"{count} pictures of domain {name} asked for; expected at least 1.")


def any_scene(rng: np.random.Generator) -> Scene:
    """Sample a photo: every kind of thing as often as any other, in all places, colours and textures."""
    colour = COLOURS[rng.integers(len(COLOURS))]
    kind, texture, place = (tuple(levels)[rng.integers(len(levels))] for levels in (KINDS, TEXTURES, BACKGROUNDS))
    return Scene(kind, sample_look(rng, colour), colour, texture, place, **sample_pose(rng))
