"""A scene taken apart: where every visible outline runs and what colour each point has, before any style is chosen."""

from dataclasses import dataclass

import numpy as np

from study.world.backgrounds import paint
from study.world.fields import Grid
from study.world.objects import KINDS
from study.world.scene import Scene, object_grid, picture_grid, surface


@dataclass(frozen=True)
class Layers:
    """What a style draws from; distances are shares of the picture's edge.

    Attributes
    ----------
    points : tuple of numpy.ndarray, (size, size) each
        Pixel centres in the picture.
    own : tuple of numpy.ndarray, (size, size) each
        The same points in the object's coordinates.
    inside : numpy.ndarray of bool, shape (size, size)
        Where the object is.
    outline : numpy.ndarray, shape (size, size)
        Distance to the nearest outline that is to be seen.
    outline_colour : numpy.ndarray, shape (size, size, 3)
        Colour of the part that this outline bounds.
    silhouette : numpy.ndarray, shape (size, size)
        Signed distance to the whole object, negative inside.
    colour : numpy.ndarray, shape (size, size, 3)
        Object and place in their own colours, textured and lit, without ink.
    """

    points: Grid
    own: Grid
    inside: np.ndarray
    outline: np.ndarray
    outline_colour: np.ndarray
    silhouette: np.ndarray
    colour: np.ndarray

    @property
    def tone(self) -> np.ndarray:
        """Luminance (Rec. 601 weights) of the colours, (size, size) in [0, 1]."""
        return np.clip(self.colour @ np.array([0.299, 0.587, 0.114]), 0, 1)


def take_apart(scene: Scene, size: int, tremble: Grid | None = None) -> Layers:
    """Lay a scene out.

    Parameters
    ----------
    scene : Scene
        Its style is ignored.
    size : int
        Edge in pixels.
    tremble : tuple of numpy.ndarray, optional
        Shifts (size, size) of the points across and down, in shares of the edge: what a hand that is not steady does.

    Returns
    -------
    Layers
    """
    x, y = points = picture_grid(size)
    own, unit = object_grid(scene, points if tremble is None else (x + tremble[0], y + tremble[1]))
    canvas = paint(scene.background, size, np.random.default_rng(scene.seed))
    direction, strength = scene.light
    lit = (1 + strength * (np.cos(direction) * own[0] + np.sin(direction) * own[1]))[..., None]
    outline = np.full((size, size), np.inf)
    outline_colour = np.zeros((size, size, 3))
    silhouette = np.full((size, size), np.inf)
    for part in KINDS[scene.kind](own, scene.look):
        distance = part.field * unit
        # Inside a part its own edge is all that is left to see; outside, the nearer one of it and of those before.
        nearer = (distance < 0) | (distance < outline)
        outline = np.where(nearer, np.abs(distance), outline)
        outline_colour = np.where(nearer[..., None], np.asarray(part.colour), outline_colour)
        silhouette = np.minimum(silhouette, distance)
        canvas = np.where((distance < 0)[..., None], surface(part, scene.texture, own) * lit, canvas)
    return Layers(points, own, silhouette < 0, outline, outline_colour, silhouette, np.clip(canvas, 0, 1))
