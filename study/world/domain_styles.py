"""Ways to draw a scene: each turns a scene and a random stream into a canvas. All but `photo` are none of the world's own.

Lengths are shares of the picture's edge, so a style looks the same at every size.
"""

from colorsys import rgb_to_hsv
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from study.world.colours import from_hsv
from study.world.fields import Grid
from study.world.layers import take_apart
from study.world.scene import Scene, draw, picture_grid

Canvas = np.ndarray
"""(size, size, 3): red, green and blue in [0, 1]."""


def photo(scene: Scene, size: int, _: np.random.Generator) -> Canvas:
    """The world as it is: what the built-in generator learned from."""
    return draw(scene, size).pixels / 255


def sketch(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """Graphite on paper: trembling double contours, hatched once where it is darkish and crosswise where it is dark."""
    x, y = picture_grid(size)
    sheet = _paper(size, rng, (0.95, 0.93, 0.88), 0.03)
    strokes = np.zeros((size, size))
    for _ in range(2):
        layers = take_apart(scene, size, (_wander(size, rng, 0.009), _wander(size, rng, 0.009)))
        strokes = np.maximum(strokes, 0.62 * _pen(layers.outline, 0.006, size) * (0.7 + 0.3 * _noise(size, rng, 24)))
    dark = 1 - layers.tone
    first = _stripes(x + 0.9 * y + _wander(size, rng, 0.006), 0.042, 0.30)
    second = _stripes(x - 1.1 * y + _wander(size, rng, 0.006), 0.042, 0.30)
    hatch = np.maximum(first * (dark > 0.25), second * (dark > 0.55)) * layers.inside
    below = np.hypot((x - scene.place[0]) / (0.95 * scene.scale), (y - scene.place[1] - 0.95 * scene.scale) / 0.05) < 1
    hatch = np.maximum(hatch, _stripes(y + 0.15 * x, 0.03, 0.3) * (below & ~layers.inside))
    return _over(sheet, (0.22, 0.22, 0.26), np.maximum(strokes, 0.5 * hatch))


def outline(scene: Scene, size: int, _: np.random.Generator) -> Canvas:
    """A page to colour in: even black contours on white and nothing else."""
    layers = take_apart(scene, size)
    return _over(np.ones((size, size, 3)), (0.0, 0.0, 0.0), _pen(layers.outline, 0.0125, size))


def pixel(scene: Scene, size: int, _: np.random.Generator) -> Canvas:
    """Sprites of an old game: 16 cells across, five levels to a colour, a black rim around the thing."""
    layers = take_apart(replace(scene, texture="plain"), 8 * CELLS)
    cells = layers.colour.reshape(CELLS, 8, CELLS, 8, 3).mean((1, 3))
    inside = layers.inside.reshape(CELLS, 8, CELLS, 8).mean((1, 3)) > 0.5
    mean = cells.mean(-1, keepdims=True)
    cells = np.round(np.clip(mean + 1.35 * (cells - mean), 0, 1) * 4) / 4
    padded = np.pad(inside, 1)
    around = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    cells[around & ~inside] = (0.08, 0.06, 0.12)
    row = (np.arange(size) + 0.5) * CELLS // size
    return cells[row.astype(int)][:, row.astype(int)]


def woodcut(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """Black ink on cream paper; tones are cut in lines, level ones for the place and slanting ones for the thing."""
    layers = take_apart(scene, size, (_wander(size, rng, 0.004), _wander(size, rng, 0.004)))
    x, y = layers.points
    tone = gaussian_filter(layers.tone, 0.012 * size)
    wave = 0.012 * np.sin(9 * x + rng.uniform(0, 6))
    place = _stripes(y + wave + _wander(size, rng, 0.004), 0.055, 0.5 + 0.42 * tone)
    thing = _stripes(0.8 * layers.own[0] + 0.6 * layers.own[1] + _wander(size, rng, 0.02), 0.16, 0.02 + 0.68 * tone)
    paper = np.where(layers.inside, thing, place)
    paper = np.where((layers.silhouette > 0) & (layers.silhouette < 0.032), 1, paper)
    paper = np.minimum(paper, layers.outline > 0.011)
    return _over(_paper(size, rng, (0.93, 0.85, 0.68), 0.025), (0.09, 0.06, 0.05), 1 - paper)


def neon(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """Glowing tubes along the outlines before a wall in the dark, each part's in its hue."""
    layers = take_apart(scene, size)
    wall = np.asarray(from_hsv(rng.uniform(235, 290), 0.65, 0.13))
    falling = np.clip(1.25 - 1.1 * np.hypot(layers.points[0] - 0.5, layers.points[1] - 0.45), 0.2, 1)
    light = _vivid(layers.outline_colour)
    tube = np.exp(-((layers.outline / 0.011) ** 2))[..., None]
    glow = 0.62 * np.exp(-layers.outline / 0.045)[..., None]
    return np.clip(wall * falling[..., None] + light * (glow + 0.75 * tube) + 0.55 * tube**3, 0, 1)


def pastel(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """Soft chalks on toned paper: pale, blurred colours in slanting strokes through which the paper shows."""
    layers = take_apart(scene, size, (_wander(size, rng, 0.010), _wander(size, rng, 0.010)))
    colour = gaussian_filter(layers.colour, (0.012 * size, 0.012 * size, 0))
    mean = colour.mean(-1, keepdims=True)
    pale = 0.66 * np.clip(mean + 1.3 * (colour - mean), 0, 1) + 0.34 * np.array([1.0, 0.97, 0.93])
    x, y = layers.points
    strokes = _value(rng.uniform(0, 1, (96, 14)), (x + y) / 2, (x - y + 1) / 2)
    chalk = np.clip(0.3 + 1.2 * strokes, 0, 1) * np.clip(0.5 + 0.9 * _noise(size, rng, 64), 0, 1)
    chalk = chalk * np.where(layers.inside, 1.1, 0.7)
    return _over(_paper(size, rng, (0.86, 0.80, 0.74), 0.04), pale, np.clip(chalk, 0, 1))


def mosaic(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """Stone chips in gray mortar, each of one colour, some lighter and some darker."""
    layers = take_apart(scene, size)
    places = (np.stack(np.meshgrid(np.arange(-1, CHIPS + 1), np.arange(-1, CHIPS + 1)), -1) + 0.5).reshape(-1, 2)
    seeds = (places + rng.uniform(-0.3, 0.3, places.shape)) / CHIPS
    distance, nearest = cKDTree(seeds).query(np.stack(layers.points, -1), k=2)
    at = np.clip((seeds * size).astype(int), 0, size - 1)
    chips = layers.colour[at[:, 1], at[:, 0]] * rng.uniform(0.82, 1.15, (len(seeds), 1))
    joint = _pen(np.maximum(distance[..., 1] - distance[..., 0], 0), 0.013, size)
    bevel = 1 + 0.16 * (seeds[nearest[..., 0]] - np.stack(layers.points, -1)).sum(-1, keepdims=True) * CHIPS
    return _over(np.clip(chips[nearest[..., 0]] * bevel, 0, 1), (0.34, 0.32, 0.31), joint)


def blueprint(scene: Scene, size: int, rng: np.random.Generator) -> Canvas:
    """A draughtsman's sheet: thin white lines and dashed axes on a blue grid."""
    layers = take_apart(scene, size)
    x, y = layers.points
    blue = _paper(size, rng, from_hsv(rng.uniform(212, 222), 0.72, 0.56), 0.015)
    fine, coarse = (_pen(_to_grid(layers.points, cells), 0.004, size) for cells in (16, 4))
    sheet = _over(blue, (0.75, 0.86, 1.0), 0.14 * fine + 0.16 * coarse)
    sheet = _over(sheet, (0.75, 0.86, 1.0), 0.12 * layers.inside)
    across, down = layers.own
    axes = np.maximum(
        _pen(np.abs(across) * scene.scale, 0.004, size) * _stripes(down * scene.scale, 0.07, 0.6),
        _pen(np.abs(down) * scene.scale, 0.004, size) * _stripes(across * scene.scale, 0.07, 0.6),
    )
    within = np.maximum(np.abs(across), np.abs(down)) < 1.12
    ink = np.maximum(0.55 * axes * within, _pen(layers.outline, 0.0075, size))
    return _over(sheet, (0.96, 0.98, 1.0), ink)


CELLS, CHIPS = 16, 17
"""Across a pixel picture, and across a mosaic."""


def _pen(distance: np.ndarray, half_width: float, size: int) -> np.ndarray:
    """Cover of a line: 1 within its half width, softened over a pixel."""
    return np.clip((half_width - distance) * size + 0.5, 0, 1)


def _to_grid(points: Grid, cells: int) -> np.ndarray:
    """Distance to the nearest line of a square grid of so many cells across."""
    return np.minimum.reduce([0.5 - np.abs((axis * cells) % 1 - 0.5) for axis in points]) / cells


def _stripes(phase: np.ndarray, period: float, share: float | np.ndarray) -> np.ndarray:
    """1 on stripes that take this share of every period (one for all, or one for every pixel), else 0."""
    return (np.abs((phase / period) % 1 - 0.5) < share / 2).astype(float)


def _over(sheet: Canvas, colour: Canvas | tuple[float, float, float], cover: np.ndarray) -> Canvas:
    return sheet + (np.asarray(colour) - sheet) * cover[..., None]


def _value(lattice: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read a lattice of random values that spans the picture, smoothly, at points in [0, 1]."""
    rows, columns = lattice.shape
    return map_coordinates(lattice, [y * (rows - 1), x * (columns - 1)], order=1, mode="nearest")


def _noise(size: int, rng: np.random.Generator, cells: int) -> np.ndarray:
    return _value(rng.uniform(0, 1, (cells, cells)), *picture_grid(size))


def _wander(size: int, rng: np.random.Generator, far: float) -> np.ndarray:
    """A smooth random shift of at most `far`."""
    lattice = rng.uniform(-1, 1, (9, 9))
    x, y = picture_grid(size)
    return far * map_coordinates(lattice, [y * 8, x * 8], order=3, mode="nearest", prefilter=False)


def _paper(size: int, rng: np.random.Generator, colour: tuple[float, float, float], grain: float) -> Canvas:
    return np.asarray(colour) * (1 + grain * (2 * _noise(size, rng, 64) - 1))[..., None]


def _vivid(colours: Canvas) -> Canvas:
    """The same hues at full strength; grays glow white."""
    flat, index = np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True)
    bright = []
    for colour in flat:
        hue, saturation, _ = rgb_to_hsv(*colour)
        bright.append(from_hsv(360 * hue, min(1.0, 2.2 * saturation) if saturation > 0.1 else 0.08, 1.0))
    return np.asarray(bright)[index].reshape(colours.shape)
