"""Does a generated picture show the colours of a subject's parts? Judged against the truth of the built-in world.

Definition
- A subject has up to three colours of its own; each is carried by some of its parts. What all subjects of its class
  share (eyes, wheels, flames) does not count.
- A colour is the mean CIELAB value of the pixels that show it in the subject's real pictures, light and ink included.
- Where the parts stand in a generated picture is not known. The parts, in the subject's true proportions, are laid over
  it in every pose of a grid over the poses that the world draws: place, scale and tilt.
- In a pose, a colour is found to the share of its pixels that have a pixel within `RADIUS` (ΔE*ab) of it in their
  neighbourhood of 3 x 3, themselves included; the colours of the subject count alike, however large their parts are.
- The picture's score is that of the pose that fits best: from 0 to 1, larger being better.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from PIL import Image

from study.world.cielab import lab
from study.world.colours import COLOURS
from study.world.scene import CENTRE, SCALES, SIZE, SPREAD, STYLES, TEXTURES, TILT, Scene, part_masks
from study.world.subjects import SUBJECTS

VERSION = "colour-1"
"""Changed when equal pictures get another score."""

RADIUS = 20.0
"""The smallest of 10, 15, 20, 25, 30 at which new drawings of the subjects keep 0.9 after the built-in autoencoder."""

STEPS = (5, 5, 3, 3)
"""Grid of poses: across, down, scale, tilt. The neighbourhood of 3 x 3 covers what lies between."""

_OTHER_LOOKS = frozenset([*COLOURS, *TEXTURES, *STYLES]) - {"plain", "photo"}


@dataclass(frozen=True)
class PartColours:
    """What is known of a subject.

    Attributes
    ----------
    colours : numpy.ndarray, shape (C, 3)
        CIELAB values.
    masks : numpy.ndarray of float32, shape (C, poses, SIZE * SIZE)
        Where the parts of each colour are to be seen, in every pose; each mask adds up to 1.
    """

    colours: np.ndarray
    masks: np.ndarray


@cache
def part_colours(subject: str) -> PartColours:
    """Return the colours of a subject of the built-in world and where they are in every pose."""
    scenes = SUBJECTS[subject].scenes
    drawings = SUBJECTS[subject].drawings()
    pixels = np.concatenate([lab(drawing.pixels).reshape(-1, 3) for drawing in drawings])
    shown = np.concatenate([_shown(drawing.masks, drawing.colours, scenes[0]) for drawing in drawings], axis=1)
    posed = np.stack([_shown(part_masks(pose), drawings[0].colours, scenes[0]) for pose in _poses(scenes[0])], axis=1)
    masks = posed / np.maximum(posed.sum(-1, keepdims=True), 1)
    return PartColours(np.stack([pixels[where].mean(0) for where in shown]), masks.astype(np.float32))


def colour_fidelity(pictures: np.ndarray, subject: str) -> np.ndarray:
    """Score how much of a subject's colours each picture shows at its parts.

    Parameters
    ----------
    pictures : numpy.ndarray of uint8, shape (N, H, W, 3)
        Of another size than the world's they are brought to it by area means.
    subject : str
        A name in `SUBJECTS`.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        In [0, 1]; see the module for the definition.
    """
    known = part_colours(subject)
    return np.array([_best_pose(lab(_sized(picture)), known) for picture in pictures], np.float64)


def keeps_colours(prompt: str) -> bool:
    """Say whether a prompt leaves the subject its looks: whether it names no colour, texture or style of the world."""
    return not _OTHER_LOOKS.intersection(prompt.lower().split())


def _best_pose(picture: np.ndarray, known: PartColours) -> float:
    found = np.zeros(known.masks.shape[1])
    for colour, masks in zip(known.colours, known.masks, strict=True):
        near = _grown(np.linalg.norm(picture - colour, axis=-1) <= RADIUS)
        found += masks @ near.ravel().astype(np.float32)
    return float(min(found.max() / len(known.colours), 1.0))


def _grown(near: np.ndarray) -> np.ndarray:
    """Take in every pixel that has one of these in its neighbourhood of 3 x 3."""
    rows, columns = near.shape
    padded = np.pad(near, 1)
    shifts = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(shifts)


def _shown(masks: dict[str, np.ndarray], colours: dict[str, tuple[float, float, float]], scene: Scene) -> np.ndarray:
    """Merge the masks of the parts that have the same one of the subject's own colours: (C, pixels)."""
    own = dict.fromkeys(
        colour for colour in colours.values() if colour in (scene.look.main, scene.look.second, scene.look.third)
    )
    return np.stack(
        [
            np.logical_or.reduce([mask for name, mask in masks.items() if colours[name] == colour]).ravel()
            for colour in own
        ]
    )


def _poses(scene: Scene) -> list[Scene]:
    across, down = ((middle - far, middle + far) for middle, far in zip(CENTRE, SPREAD, strict=True))
    ranges = (across, down, SCALES, (-TILT, TILT))
    grid = product(*(np.linspace(*ends, steps) for ends, steps in zip(ranges, STEPS, strict=True)))
    return [
        replace(scene, place=(float(x), float(y)), scale=float(scale), tilt=float(tilt)) for x, y, scale, tilt in grid
    ]


def _sized(picture: np.ndarray) -> np.ndarray:
    if picture.shape[:2] == (SIZE, SIZE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))
