"""The eight places a thing can stand in, each with its own random hue, phase and light."""

from collections.abc import Callable

import numpy as np

from study.world.colours import from_hsv

Pixels = np.ndarray


def _plain(colour: tuple[float, float, float], x: np.ndarray) -> Pixels:
    return np.broadcast_to(np.asarray(colour), (*x.shape, 3)).copy()


def _mix(first: Pixels, second: Pixels, weight: np.ndarray) -> Pixels:
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def _grass(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, phase = rng.uniform(85, 115), rng.uniform(0, 6.3, 2)
    light, dark = from_hsv(hue, 0.5, 0.8), from_hsv(hue + 8, 0.6, 0.62)
    blades = 0.5 + 0.5 * np.sin(22 * x + 3 * np.sin(5 * y + phase[0]) + phase[1]) * np.sin(7 * y + phase[0])
    return _mix(_plain(light, x), _plain(dark, x), 0.4 * blades + 0.4 * y)


def _sand(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, phase = rng.uniform(36, 46), rng.uniform(0, 6.3, 2)
    ripples = 0.5 + 0.5 * np.sin(17 * y + 1.5 * np.sin(4 * x + phase[0]) + phase[1])
    return _mix(_plain(from_hsv(hue, 0.28, 0.95), x), _plain(from_hsv(hue, 0.42, 0.84), x), 0.6 * ripples)


def _snow(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    phase, hue = rng.uniform(0, 6.3, 2), rng.uniform(200, 220)
    hill = 0.45 + 0.1 * np.sin(4 * x + phase[0]) + 0.05 * np.sin(9 * x + phase[1])
    return _mix(_plain(from_hsv(hue, 0.22, 0.88), x), _plain((0.96, 0.97, 0.99), x), (y - hill) * 9 + 0.5)


def _water(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, phase = rng.uniform(192, 210), rng.uniform(0, 6.3, 2)
    waves = np.sin(20 * y + 1.6 * np.sin(6 * x + phase[0]) + phase[1])
    return _mix(_plain(from_hsv(hue, 0.62, 0.74), x), _plain(from_hsv(hue - 8, 0.36, 0.92), x), 0.35 + 0.4 * waves)


def _bricks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, shift = rng.uniform(6, 18), rng.uniform(0, 1, 2)
    row = y * 4 + shift[0]
    column = x * 2.4 + shift[1] + 0.5 * (np.floor(row) % 2)
    edge = np.minimum(np.minimum(row % 1, 1 - row % 1) * 16, np.minimum(column % 1, 1 - column % 1) * 26.7)
    return _mix(_plain((0.76, 0.66, 0.58), x), _plain(from_hsv(hue, 0.52, 0.62), x), 0.8 * edge - 0.6)


def _night(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue = rng.uniform(228, 250)
    sky = _mix(_plain(from_hsv(hue, 0.7, 0.16), x), _plain(from_hsv(hue, 0.6, 0.34), x), y)
    for star_x, star_y in rng.uniform(0.03, 0.97, (7, 2)):
        sky = _mix(sky, _plain((1.0, 1.0, 0.9), x), 1.4 - 45 * np.hypot(x - star_x, y - star_y))
    return sky


def _sunset(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, sun_x = rng.uniform(14, 32), rng.uniform(0.15, 0.85)
    sky = _mix(_plain(from_hsv(hue + 290, 0.5, 0.6), x), _plain(from_hsv(hue, 0.75, 1.0), x), 1.25 * y)
    sun = 0.5 + 64 * (0.17 - np.hypot(x - sun_x, y - 0.7))
    sky = _mix(sky, _plain(from_hsv(hue + 26, 0.45, 1.0), x), sun)
    return _mix(sky, _plain(from_hsv(hue + 300, 0.45, 0.32), x), (y - 0.78) * 64)


def _wood(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pixels:
    hue, shift, phase = rng.uniform(24, 32), rng.uniform(0, 1), rng.uniform(0, 6.3, 2)
    plank = y * 4 + shift
    grain = 0.5 + 0.5 * np.sin(30 * y + 2.0 * np.sin(4 * x + phase[0] + np.floor(plank)) + phase[1])
    boards = _mix(_plain(from_hsv(hue, 0.48, 0.74), x), _plain(from_hsv(hue, 0.56, 0.60), x), 0.45 * grain)
    return _mix(_plain(from_hsv(hue, 0.6, 0.42), x), boards, np.minimum(plank % 1, 1 - plank % 1) * 16 - 0.3)


BACKGROUNDS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], Pixels]] = {
    "grass": _grass, "sand": _sand, "snow": _snow, "water": _water, "bricks": _bricks, "night": _night,
    "sunset": _sunset, "wood": _wood,
}


def paint(name: str, size: int, rng: np.random.Generator) -> Pixels:
    """Paint a background.

    Parameters
    ----------
    name : str
        One of `BACKGROUNDS`.
    size : int
        Edge in pixels.
    rng : numpy.random.Generator
        Hue, phase and light are drawn from it.

    Returns
    -------
    numpy.ndarray
        (size, size, 3), red, green and blue in [0, 1].
    """
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    return np.clip(BACKGROUNDS[name](x, y, rng) * rng.uniform(0.92, 1.05), 0, 1)
