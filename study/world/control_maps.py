"""What a scene's picture is to look like, as maps: edges, segmentation and landmarks, from geometry, not from pixels.

A map belongs to a scene and can be drawn at any size; `study.control_scores` reads maps back from generated pictures.
"""

from typing import Literal, get_args

import numpy as np
from scipy.ndimage import label as connected

from adapters.faults import InputFault
from study.world import fields
from study.world.colours import from_hsv
from study.world.domains import any_scene
from study.world.layers import take_apart
from study.world.scene import SIZE, Scene, part_masks, picture_grid

MapKind = Literal["edges", "segmentation", "landmarks"]

SEGMENTS = (
    "background", "body", "trunk", "roof", "door", "window", "tail", "eyes", "pupils", "handle", "rim", "antenna",
    "bulb", "arms", "legs", "head", "stem", "base", "bows", "panel", "mast", "sail", "jib", "flag", "candles",
    "flames", "top", "cream", "spout", "lid", "knob", "fins", "nose", "cabin", "glass", "wheels", "hubs",
)  # fmt: skip
"""Classes of a segmentation, in the order of their labels: the background, then the parts of all things by name."""

_SAME = {"eye": "eyes", "pupil": "pupils", "flame": "flames"}
_FINE = 128
LINE = 0.009
"""Half width of a drawn line in shares of the picture."""

DIRECTIONS = 8
"""In which the extreme points of a piece are taken."""


def _palette() -> np.ndarray:
    """Twelve hues in three shades; neighbours in the list are far apart in hue."""
    shades = ((0.95, 1.0), (0.95, 0.55), (0.5, 0.9))
    colours = [from_hsv(150 * i, *shades[i // 12]) for i in range(len(SEGMENTS) - 1)]
    return np.round(255 * np.array([(0, 0, 0), *colours])).astype(np.uint8)


COLOUR_CODE = _palette()
"""Colour of every class, (classes, 3) uint8; the background is black."""


def edge_map(scene: Scene, size: int = SIZE) -> np.ndarray:
    """Say where the outlines of the parts run that are to be seen.

    Returns
    -------
    numpy.ndarray of bool, shape (size, size)
        Pixels whose centre is within half a pixel of an outline.
    """
    return take_apart(scene, size).outline <= 0.5 / size


def segmentation(scene: Scene, size: int = SIZE) -> np.ndarray:
    """Label every pixel by the part that is seen there.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size)
        Indices into `SEGMENTS`.
    """
    labels = np.zeros((size, size), np.uint8)
    for name, mask in part_masks(scene, size).items():
        labels[mask] = SEGMENTS.index(_SAME.get(name, name))
    return labels


def landmarks(scene: Scene) -> dict[str, tuple[float, float]]:
    """Locate the centre of what is seen of every part.

    Returns
    -------
    dict of str to (float, float)
        Name of the part (of `SEGMENTS`) to its centre across and down, in shares of the picture's edge; measured on a
        grid of 128 x 128 at every size. A part that is covered is left out.
    """
    labels = segmentation(scene, _FINE)
    x, y = picture_grid(_FINE)
    shown = [label for label in np.unique(labels) if label > 0]
    return {SEGMENTS[i]: (float(x[labels == i].mean()), float(y[labels == i].mean())) for i in shown}


def extreme_points(scene: Scene) -> list[tuple[str, np.ndarray]]:
    """Locate the outermost points of what is seen: of ExtremeNet (1901.08043) four, here eight a piece of a part.

    A part is of several pieces where it comes in pairs, as arms do, or where another lies across it.

    Returns
    -------
    list of (str, numpy.ndarray of shape (8, 2))
        Name of the part (of `SEGMENTS`), parts at the back first, and the points across and down, in shares of the
        picture's edge: the one farthest up, then every 45 degrees clockwise, of equally far ones their mean; measured
        on a grid of 128 x 128.
    """
    labels = segmentation(scene, _FINE)
    grid = np.stack(picture_grid(_FINE), -1)
    turns = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    outwards = np.stack([np.sin(turns), -np.cos(turns)])
    found = []
    for name in dict.fromkeys(_SAME.get(name, name) for name in part_masks(scene, 1)):
        pieces, count = connected(labels == SEGMENTS.index(name), np.ones((3, 3)))
        for piece in range(1, count + 1):
            points = grid[pieces == piece]
            reach = np.round(points @ outwards, 6)  # so that which are equally far hangs on no machine's rounding
            found.append((name, np.stack([points[far].mean(0) for far in (reach == reach.max(0)).T])))
    return found


def control_picture(scene: Scene, kind: MapKind, size: int = SIZE) -> np.ndarray:
    """Draw a map as the picture that conditions a generator.

    Parameters
    ----------
    scene : Scene
    kind : "edges", "segmentation" or "landmarks"
        White outlines on black; parts in `COLOUR_CODE`; or on black the `extreme_points` of every part, joined by
        lines of its colour, as OFT (2306.07280) joins the landmarks of a face.
    size : int
        Edge in pixels.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size, 3)

    Raises
    ------
    InputFault
        Of an unknown kind.
    """
    if kind == "edges":
        cover = np.clip((LINE - take_apart(scene, size).outline) * size + 0.5, 0, 1)
        return np.repeat((255 * cover + 0.5).astype(np.uint8)[..., None], 3, -1)
    if kind == "segmentation":
        return COLOUR_CODE[segmentation(scene, size)]
    if kind == "landmarks":
        return _joined(scene, size)
    raise InputFault(f"no control map {kind!r}; expected one of {', '.join(get_args(MapKind))}.")


def control_scenes(count: int, seed: int = 0, split: Literal["train", "real"] = "train") -> list[Scene]:
    """Sample scenes to be drawn from their maps: photos of all things, in all places, colours and textures.

    Parameters
    ----------
    count : int
        How many; fewer are the first ones of more.
    seed : int
        Another seed gives other scenes.
    split : "train" or "real"
        Two streams that share no scene.
    """
    key = (20261202, ("train", "real").index(split), seed)
    return [any_scene(np.random.default_rng([*key, number])) for number in range(count)]


def _joined(scene: Scene, size: int) -> np.ndarray:
    grid = picture_grid(size)
    canvas = np.zeros((size, size, 3))
    for name, points in extreme_points(scene):
        sides = zip(points, np.roll(points, -1, 0), strict=True)
        lines = fields.union(*(fields.capsule(grid, tuple(begin), tuple(end), LINE) for begin, end in sides))
        canvas += (COLOUR_CODE[SEGMENTS.index(name)] - canvas) * np.clip(0.5 - lines * size, 0, 1)[..., None]
    return (canvas + 0.5).astype(np.uint8)
