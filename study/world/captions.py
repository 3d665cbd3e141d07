"""Words for scenes: the captions that the generator and the scorers learn from, and the whole vocabulary."""

import numpy as np

from study.world.backgrounds import BACKGROUNDS
from study.world.colours import COLOURS
from study.world.objects import KINDS
from study.world.scene import STYLES, TEXTURES, Scene

RARE_TOKENS = ("sks", "zwx", "qov", "ryk", "vuj", "xep", "jol", "wib")
"""Words that occur at random in the training captions: known to the text encoder, meaning nothing."""

_PLACES = {name: f"at {name}" if name in ("night", "sunset") else f"on {name}" for name in BACKGROUNDS}
WORDS = ("a", "of", "on", "at", "the", *STYLES, *COLOURS, *TEXTURES, *KINDS, *BACKGROUNDS, *RARE_TOKENS)
"""Every word of the world, each one token."""


def place(background: str) -> str:
    """Words for a background, such as "on grass" or "at night"."""
    return _PLACES[background]


def caption(scene: Scene, *, colour: bool = True, texture: bool = True, background: bool = True,
            token: str | None = None) -> str:
    """Say a scene in words; the flags leave attributes out, `token` puts a rare word before the thing.

    Returns
    -------
    str
        Such as "a photo of a red striped robot on grass".
    """
    words = [f"a {scene.style} of a"]
    if token:
        words.append(token)
    if colour and scene.colour:
        words.append(scene.colour)
    if texture and scene.texture != "plain":
        words.append(scene.texture)
    words.append(scene.kind)
    if background:
        words.append(place(scene.background))
    return " ".join(words)


def sample_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Caption of a training picture: attributes sometimes left out, a rare token now and then."""
    say = rng.random(4)
    token = RARE_TOKENS[rng.integers(len(RARE_TOKENS))] if say[3] < 0.12 else None
    return caption(scene, colour=bool(say[0] < 0.92), texture=bool(say[1] < 0.85), background=bool(say[2] < 0.88),
                   token=token)
