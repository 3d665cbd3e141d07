"""The things that the world draws: plain shapes of one part, and composite classes of several parts.

An object lives in a square from -1 to 1, y downwards. Its look is a `Look`: four proportions in [0, 1] and
three colours (main, second, third). Each drawing function returns parts from back to front.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from study.world import fields as f
from study.world.colours import Colour, shade
from study.world.fields import Field, Grid

WHITE: Colour = (0.97, 0.97, 0.95)
DARK: Colour = (0.12, 0.12, 0.14)
GLOW: Colour = (1.0, 0.88, 0.35)


@dataclass(frozen=True)
class Look:
    """What makes one instance of a kind: proportions (4,) in [0, 1] and its three colours."""

    proportions: tuple[float, float, float, float]
    main: Colour
    second: Colour
    third: Colour


@dataclass(frozen=True)
class Part:
    """A named region of an object with one colour; `textured` parts carry the object's texture."""

    name: str
    field: Field
    colour: Colour
    textured: bool = False


def _star(grid: Grid, look: Look) -> list[Part]:
    inner = 0.38 + 0.14 * look.proportions[0]
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 0.98, inner)
    return [Part("body", f.polygon(grid, list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))),
                 look.main, True)]


def _heart(grid: Grid, look: Look) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    width = 0.85 + 0.15 * look.proportions[0]
    x = width * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16 - 0.08
    return [Part("body", f.polygon(grid, list(zip(x, y, strict=True))), look.main, True)]


def _ball(grid: Grid, look: Look) -> list[Part]:
    return [Part("body", f.circle(grid, 0, 0, 0.8 + 0.12 * look.proportions[0]), look.main, True)]


def _box(grid: Grid, look: Look) -> list[Part]:
    return [Part("body", f.box(grid, 0, 0, 0.72 + 0.16 * look.proportions[0], 0.72 + 0.16 * look.proportions[1], 0.06),
                 look.main, True)]


def _ring(grid: Grid, look: Look) -> list[Part]:
    width = 0.16 + 0.08 * look.proportions[0]
    return [Part("body", f.outline(f.circle(grid, 0, 0, 0.9 - width), width), look.main, True)]


def _moon(grid: Grid, look: Look) -> list[Part]:
    bite = f.circle(grid, 0.42 + 0.1 * look.proportions[0], -0.12, 0.74)
    return [Part("body", f.without(f.circle(grid, 0, 0, 0.93), bite), look.main, True)]


def _tree(grid: Grid, look: Look) -> list[Part]:
    p = look.proportions
    trunk = f.box(grid, 0, 0.7, 0.12 + 0.06 * p[0], 0.28)
    half = 0.62 + 0.15 * p[1]
    crown = f.union(f.polygon(grid, [(-half, 0.5), (half, 0.5), (0, -0.3)]),
                    f.polygon(grid, [(-0.8 * half, 0.0), (0.8 * half, 0.0), (0, -0.98)]))
    return [Part("trunk", trunk, (0.42, 0.28, 0.16)), Part("body", crown, look.main, True)]


def _house(grid: Grid, look: Look) -> list[Part]:
    p = look.proportions
    half = 0.62 + 0.14 * p[0]
    wall = f.box(grid, 0, 0.38, half, 0.52)
    roof = f.polygon(grid, [(-half - 0.16, -0.1), (half + 0.16, -0.1), (0, -0.92)])
    return [Part("body", wall, look.main, True), Part("roof", roof, shade(look.main, 0.6)),
            Part("door", f.box(grid, -0.2 + 0.4 * p[1], 0.62, 0.15, 0.28), DARK),
            Part("window", f.box(grid, 0.34 - 0.68 * p[1], 0.2, 0.13, 0.13), GLOW)]


def _fish(grid: Grid, look: Look) -> list[Part]:
    height = 0.42 + 0.16 * look.proportions[0]
    tail = f.polygon(grid, [(0.45, 0), (0.97, -0.45), (0.86, 0), (0.97, 0.45)])
    return [Part("tail", tail, shade(look.main, 0.75)),
            Part("body", f.ellipse(grid, -0.18, 0, 0.76, height), look.main, True),
            Part("eye", f.circle(grid, -0.58, -0.1, 0.11), WHITE),
            Part("pupil", f.circle(grid, -0.6, -0.1, 0.05), DARK)]


def _mug(grid: Grid, look: Look) -> list[Part]:
    height = 0.62 + 0.16 * look.proportions[0]
    handle = f.outline(f.ellipse(grid, 0.5, 0.05, 0.36, 0.38), 0.09)
    return [Part("handle", handle, shade(look.main, 0.8)),
            Part("body", f.box(grid, -0.15, 0.05, 0.62, height, 0.1), look.main, True),
            Part("rim", f.ellipse(grid, -0.15, 0.05 - height, 0.6, 0.12), shade(look.main, 0.5))]


def _robot(grid: Grid, look: Look) -> list[Part]:
    head, body, leg, arm = look.proportions
    top = -0.14
    wide, tall = 0.3 + 0.16 * body, 0.38
    head_wide, head_tall = 0.24 + 0.16 * head, 0.2 + 0.08 * head
    head_y = top - head_tall - 0.06
    hand_y = top + 0.1 + 0.62 * (arm - 0.35)
    parts = [Part("antenna", f.capsule(grid, (0, head_y), (0, head_y - head_tall - 0.16), 0.035), DARK),
             Part("bulb", f.circle(grid, 0, head_y - head_tall - 0.18, 0.09), look.third)]
    arms = [f.capsule(grid, (s * wide, top + 0.14), (s * (wide + 0.36), hand_y + 0.22), 0.1) for s in (-1, 1)]
    hip_y, foot_y = top + 2 * tall, 0.72 + 0.2 * leg
    legs = [f.capsule(grid, (s * wide * 0.55, hip_y), (s * wide * 0.6, foot_y), 0.12) for s in (-1, 1)]
    parts += [Part("arms", f.union(*arms), look.second), Part("legs", f.union(*legs), look.third)]
    parts += [Part("body", f.box(grid, 0, top + tall, wide, tall, 0.08), look.main, True),
              Part("head", f.box(grid, 0, head_y, head_wide, head_tall, 0.08), look.second)]
    eye_x = head_wide * 0.48
    eyes = [f.circle(grid, s * eye_x, head_y, 0.095) for s in (-1, 1)]
    pupils = [f.circle(grid, s * eye_x, head_y, 0.045) for s in (-1, 1)]
    return parts + [Part("eyes", f.union(*eyes), WHITE), Part("pupils", f.union(*pupils), DARK)]


def _lamp(grid: Grid, look: Look) -> list[Part]:
    flare, height, base, stem = look.proportions
    low = -0.05 + 0.2 * height
    bottom, top = 0.62 + 0.2 * flare, 0.2 + 0.22 * flare
    return [Part("stem", f.box(grid, 0, 0.35, 0.06 + 0.05 * stem, 0.5), look.third),
            Part("base", f.ellipse(grid, 0, 0.82, 0.36 + 0.2 * base, 0.15), look.second),
            Part("bulb", f.circle(grid, 0, low + 0.04, 0.16), GLOW),
            Part("body", f.polygon(grid, [(-bottom, low), (bottom, low), (top, -0.92), (-top, -0.92)]), look.main,
                 True)]


def _kite(grid: Grid, look: Look) -> list[Part]:
    wide, waist, tail, _ = look.proportions
    w, y = 0.5 + 0.2 * wide, -0.4 + 0.2 * waist
    left, right, top, bottom = (-w, y), (w, y), (0.0, -0.98), (0.0, 0.42)
    end = 0.3 * (tail - 0.5)
    string = f.union(f.capsule(grid, bottom, (end, 0.68), 0.03), f.capsule(grid, (end, 0.68), (-end, 0.95), 0.03))
    bows = f.union(f.ellipse(grid, end, 0.66, 0.16, 0.08), f.ellipse(grid, -end, 0.92, 0.16, 0.08))
    return [Part("tail", string, DARK), Part("bows", bows, look.third),
            Part("body", f.polygon(grid, [top, right, bottom, left]), look.main, True),
            Part("panel", f.polygon(grid, [top, right, (0.0, y)]), look.second)]


def _boat(grid: Grid, look: Look) -> list[Part]:
    length, deep, sail, flag = look.proportions
    half, top = 0.7 + 0.22 * length, 0.3
    hull = f.polygon(grid, [(-half, top), (half, top), (half * 0.62, top + 0.38 + 0.16 * deep),
                            (-half * 0.62, top + 0.38 + 0.16 * deep)])
    peak = -0.85
    return [Part("mast", f.box(grid, 0, -0.3, 0.045, 0.62), DARK),
            Part("sail", f.polygon(grid, [(0.08, peak + 0.08), (0.08, 0.2), (0.42 + 0.3 * sail, 0.2)]), look.second),
            Part("jib", f.polygon(grid, [(-0.08, peak + 0.3), (-0.08, 0.2), (-0.3 - 0.3 * sail, 0.2)]), look.third),
            Part("flag", f.polygon(grid, [(0, peak - 0.1), (0, peak + 0.12), (-0.2 - 0.12 * flag, peak)]), look.third),
            Part("body", hull, look.main, True)]


def _cake(grid: Grid, look: Look) -> list[Part]:
    wide, upper, tall, candles = look.proportions
    low_half, low_tall = 0.68 + 0.2 * wide, 0.26 + 0.08 * tall
    high_half = low_half * (0.5 + 0.2 * upper)
    low_y = 0.86 - low_tall
    high_y = low_y - low_tall - 0.24
    spots = (-0.5, 0.0, 0.5) if candles > 0.5 else (-0.35, 0.35)
    sticks = [f.box(grid, s * high_half, high_y - 0.36, 0.05, 0.16) for s in spots]
    flames = [f.ellipse(grid, s * high_half, high_y - 0.6, 0.055, 0.1) for s in spots]
    cream = [f.circle(grid, low_half * s, low_y - low_tall + 0.03, 0.14) for s in (-0.8, -0.4, 0.0, 0.4, 0.8)]
    return [Part("candles", f.union(*sticks), look.third), Part("flames", f.union(*flames), GLOW),
            Part("body", f.box(grid, 0, low_y, low_half, low_tall, 0.05), look.main, True),
            Part("top", f.box(grid, 0, high_y, high_half, 0.25, 0.05), look.second),
            Part("cream", f.union(*cream), WHITE)]


def _teapot(grid: Grid, look: Look) -> list[Part]:
    round_, spout, handle, lid = look.proportions
    rx, ry = 0.54 + 0.08 * round_, 0.44 + 0.12 * round_
    spout_field = f.polygon(grid, [(0.35, 0.38), (0.35, 0.0), (0.74, -0.34 - 0.2 * spout), (0.97, -0.3 - 0.2 * spout)])
    loop = f.outline(f.ellipse(grid, -0.58, 0.12, 0.28 + 0.08 * handle, 0.32 + 0.06 * handle), 0.075)
    lid_y = 0.18 - ry
    return [Part("spout", spout_field, look.third), Part("handle", loop, look.second),
            Part("body", f.ellipse(grid, 0, 0.18, rx, ry), look.main, True),
            Part("lid", f.ellipse(grid, 0, lid_y + 0.02, 0.3 + 0.1 * lid, 0.13), look.second),
            Part("knob", f.circle(grid, 0, lid_y - 0.16, 0.1), look.third)]


def _rocket(grid: Grid, look: Look) -> list[Part]:
    wide, nose, fin, window = look.proportions
    half = 0.26 + 0.1 * wide
    tip = -0.3 - 0.1 * nose
    fins = [f.polygon(grid, [(s * half * 0.8, 0.05), (s * (half + 0.26 + 0.16 * fin), 0.66), (s * half * 0.8, 0.56)])
            for s in (-1, 1)]
    flame = f.polygon(grid, [(-half * 0.6, 0.55), (half * 0.6, 0.55), (0, 0.97)])
    return [Part("flame", flame, GLOW), Part("fins", f.union(*fins), look.second),
            Part("body", f.box(grid, 0, 0.12, half, 0.5, 0.08), look.main, True),
            Part("nose", f.polygon(grid, [(-half, tip), (half, tip), (0, -0.97)]), look.second),
            Part("window", f.circle(grid, 0, -0.02, 0.12 + 0.06 * window), look.third)]


def _car(grid: Grid, look: Look) -> list[Part]:
    long, cabin, wheel, place = look.proportions
    half = 0.78 + 0.17 * long
    x = 0.3 * (place - 0.5)
    roof = 0.36 + 0.14 * cabin
    radius = 0.19 + 0.07 * wheel
    cabin_field = f.polygon(grid, [(x - roof - 0.16, 0.02), (x + roof + 0.16, 0.02), (x + roof - 0.08, -0.5),
                                   (x - roof + 0.08, -0.5)])
    glass = f.polygon(grid, [(x - roof + 0.02, -0.04), (x + roof - 0.02, -0.04), (x + roof - 0.16, -0.38),
                             (x - roof + 0.16, -0.38)])
    wheels = [f.circle(grid, s * half * 0.58, 0.46, radius) for s in (-1, 1)]
    hubs = [f.circle(grid, s * half * 0.58, 0.46, radius * 0.5) for s in (-1, 1)]
    return [Part("cabin", cabin_field, look.second), Part("glass", glass, (0.78, 0.9, 0.97)),
            Part("body", f.box(grid, 0, 0.2, half, 0.26, 0.12), look.main, True),
            Part("wheels", f.union(*wheels), DARK), Part("hubs", f.union(*hubs), look.third)]


SHAPES: dict[str, Callable[[Grid, Look], list[Part]]] = {
    "ball": _ball, "box": _box, "star": _star, "heart": _heart, "tree": _tree, "house": _house, "fish": _fish,
    "mug": _mug, "ring": _ring, "moon": _moon,
}
CLASSES: dict[str, Callable[[Grid, Look], list[Part]]] = {
    "robot": _robot, "lamp": _lamp, "kite": _kite, "boat": _boat, "cake": _cake, "teapot": _teapot, "rocket": _rocket,
    "car": _car,
}
KINDS = {**SHAPES, **CLASSES}
