"""A scene is everything that decides one picture; `draw` turns it into pixels, part masks and true colours."""

from dataclasses import dataclass, field, replace

import numpy as np

from study.world.backgrounds import BACKGROUNDS, paint
from study.world.colours import COLOURS, Colour, sample, sample_any, shade
from study.world.fields import Grid
from study.world.objects import CLASSES, KINDS, SHAPES, Look, Part

TEXTURES = ("plain", "striped", "dotted", "checkered")
STYLES = ("photo", "sketch", "pastel")
SIZE = 64

CENTRE, SPREAD = (0.5, 0.52), (0.06, 0.05)
"""Where things stand: the middle of the places, and how far from it they are at most, across and down."""

SCALES, TILT = (0.36, 0.43), 0.15
"""The smallest and the largest scale; the largest tilt to either side."""


@dataclass(frozen=True)
class Scene:
    """One picture to draw.

    Attributes
    ----------
    kind : str
        A shape or a composite class.
    look : Look
        Proportions and colours of this instance.
    colour : str or None
        The name of the main colour, None where it has none.
    texture, background, style : str
        Levels of `TEXTURES`, `BACKGROUNDS`, `STYLES`.
    place : tuple of float
        Centre of the object, in shares of the picture.
    scale, tilt : float
        Half extent in shares of the picture's edge; radians.
    light : tuple of float
        Direction and strength of the light.
    seed : int
        Of the background's own randomness.
    """

    kind: str
    look: Look
    colour: str | None
    texture: str
    background: str
    style: str = "photo"
    place: tuple[float, float] = (0.5, 0.52)
    scale: float = 0.4
    tilt: float = 0.0
    light: tuple[float, float] = (-0.7, 0.12)
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    """What was drawn: pixels (size, size, 3) uint8, a mask and the true colour for every part."""

    pixels: np.ndarray
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    colours: dict[str, Colour] = field(default_factory=dict)

    @property
    def mask(self) -> np.ndarray:
        """Boolean (size, size): where the object is."""
        return np.logical_or.reduce(list(self.masks.values()))


def sample_look(rng: np.random.Generator, colour: str | None = None) -> Look:
    """Draw an instance: free proportions, main colour from the name's region or the whole continuum, free others."""
    main = sample(colour, rng) if colour else sample_any(rng)
    p = rng.uniform(0, 1, 4)
    return Look((float(p[0]), float(p[1]), float(p[2]), float(p[3])), main, sample_any(rng), sample_any(rng))


def sample_pose(rng: np.random.Generator) -> dict:
    """Draw place, scale, tilt, light and background seed of a picture."""
    return {
        "place": (CENTRE[0] + rng.uniform(-SPREAD[0], SPREAD[0]), CENTRE[1] + rng.uniform(-SPREAD[1], SPREAD[1])),
        "scale": rng.uniform(*SCALES), "tilt": rng.uniform(-TILT, TILT),
        "light": (rng.uniform(-np.pi, 0), rng.uniform(0.04, 0.18)), "seed": int(rng.integers(2**31)),
    }


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene as the training pictures are drawn: mostly classes, photos, and colours that have a name."""
    kinds = tuple(CLASSES) if rng.random() < 0.6 else tuple(SHAPES)
    colour = COLOURS[rng.integers(len(COLOURS))] if rng.random() < 0.67 else None
    texture = TEXTURES[0] if rng.random() < 0.4 else TEXTURES[rng.integers(len(TEXTURES))]
    style = STYLES[int(rng.choice(3, p=(0.88, 0.06, 0.06)))]
    return Scene(kinds[rng.integers(len(kinds))], sample_look(rng, colour), colour, texture,
                 tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))], style, **sample_pose(rng))


def draw(scene: Scene, size: int = SIZE) -> Picture:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        What to draw; the same scene gives the same pixels.
    size : int
        Edge of the picture in pixels.

    Returns
    -------
    Picture
        Anti-aliased by the exact distance to each outline; masks hold a pixel whose centre is inside a part and
        not covered by a later one.
    """
    rng = np.random.default_rng(scene.seed)
    grid, unit = object_grid(scene, picture_grid(size))
    unit *= size
    parts = KINDS[scene.kind](grid, scene.look)
    canvas = paint(scene.background, size, rng)
    if scene.style == "sketch":
        canvas = 0.9 * np.array([0.97, 0.96, 0.92]) + 0.1 * canvas
    canvas = _shadow(canvas, scene, size)
    direction, strength = scene.light
    lit = 1 + strength * (np.cos(direction) * grid[0] + np.sin(direction) * grid[1])
    for part in parts:
        cover = np.clip(0.5 - part.field * unit, 0, 1)[..., None]
        ink = np.clip(0.5 - (np.abs(part.field + 0.5 / unit) - 0.6 / unit) * unit, 0, 1)[..., None]
        colour = surface(part, scene.texture, grid) * lit[..., None]
        edge = np.asarray(shade(part.colour, 0.45))
        if scene.style == "sketch":
            colour, edge = 0.82 * np.array([0.97, 0.96, 0.92]) + 0.18 * colour, np.array([0.25, 0.25, 0.28])
        ink = ink * (0.9 if scene.style == "sketch" else 0.45)
        canvas = canvas + cover * (colour * (1 - ink) + edge * ink - canvas)
    if scene.style == "pastel":
        canvas = 0.5 * canvas + 0.5
    pixels = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Picture(pixels, _visible(parts), {part.name: part.colour for part in parts})


def part_masks(scene: Scene, size: int = SIZE) -> dict[str, np.ndarray]:
    """Give the part masks that `draw` would give, without drawing."""
    grid, _ = object_grid(scene, picture_grid(size))
    return _visible(KINDS[scene.kind](grid, scene.look))


def restage(scene: Scene, rng: np.random.Generator, background: str) -> Scene:
    """The same instance in another background, place, tilt and light."""
    return replace(scene, background=background, **sample_pose(rng))


def _visible(parts: list[Part]) -> dict[str, np.ndarray]:
    """Mask of every part: inside it, and not covered by a later one."""
    masks: dict[str, np.ndarray] = {}
    for part in parts:
        inside = part.field < 0
        masks = {name: mask & ~inside for name, mask in masks.items()}
        masks[part.name] = inside
    return masks


def picture_grid(size: int) -> Grid:
    """Pixel centres of a picture, across and down, in shares of its edge."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    return x, y


def object_grid(scene: Scene, points: Grid) -> tuple[Grid, float]:
    """Points of the picture in the object's coordinates, and how large one unit of them is in the picture."""
    dx, dy = (points[0] - scene.place[0]) / scene.scale, (points[1] - scene.place[1]) / scene.scale
    cos, sin = np.cos(scene.tilt), np.sin(scene.tilt)
    return (cos * dx + sin * dy, -sin * dx + cos * dy), scene.scale


def _shadow(canvas: np.ndarray, scene: Scene, size: int) -> np.ndarray:
    """Soften a dark ellipse into the ground below the object."""
    x, y = picture_grid(size)
    radius = np.hypot((x - scene.place[0]) / (0.85 * scene.scale), (y - scene.place[1] - 0.92 * scene.scale) / 0.07)
    weight = 0.3 * np.clip(1.2 - radius, 0, 1)
    return canvas * (1 - weight[..., None])


def surface(part: Part, texture: str, grid: Grid) -> np.ndarray:
    """Colour of a part at every pixel, its texture included."""
    base = np.asarray(part.colour)
    if not part.textured or texture == "plain":
        return np.broadcast_to(base, (*grid[0].shape, 3))
    x, y = grid
    if texture == "striped":
        wave = np.sin(2 * np.pi * 1.7 * (x + 0.35 * y))
    elif texture == "dotted":
        wave = 1.6 - 5.2 * np.hypot((2.3 * x + 0.5) % 1 - 0.5, (2.3 * y + 0.5) % 1 - 0.5)
    else:
        wave = 3 * np.sin(2 * np.pi * 1.15 * x) * np.sin(2 * np.pi * 1.15 * y)
    weight = np.clip(0.5 + 1.5 * wave, 0, 1)[..., None]
    luminance = 0.3 * base[0] + 0.59 * base[1] + 0.11 * base[2]
    other = np.asarray(shade(part.colour, 0.55)) if luminance > 0.55 else np.asarray(shade(part.colour, 1.9))
    return base + weight * (other - base)
