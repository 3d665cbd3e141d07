"""Named colours as regions of HSV space, so that a name stands for many hues and shades."""

import colorsys

import numpy as np

Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""

REGIONS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 8), (0.75, 0.95), (0.70, 0.95)),
    "orange": ((23, 34), (0.80, 1.00), (0.88, 1.00)),
    "yellow": ((48, 57), (0.70, 0.95), (0.88, 1.00)),
    "green": ((105, 145), (0.55, 0.90), (0.45, 0.75)),
    "teal": ((170, 187), (0.60, 0.95), (0.50, 0.80)),
    "blue": ((212, 234), (0.65, 0.90), (0.65, 0.95)),
    "purple": ((266, 286), (0.50, 0.80), (0.50, 0.80)),
    "pink": ((326, 344), (0.35, 0.52), (0.92, 1.00)),
    "brown": ((18, 30), (0.55, 0.75), (0.32, 0.48)),
    "gray": ((0, 360), (0.00, 0.06), (0.45, 0.70)),
}
"""Name → ranges of hue (degrees), saturation and value."""

COLOURS = tuple(REGIONS)


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """Convert hue (degrees), saturation and value to red, green and blue in [0, 1]."""
    return colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)


def sample(name: str, rng: np.random.Generator) -> Colour:
    """Draw a colour that the name stands for, uniformly from its HSV region."""
    return from_hsv(*(rng.uniform(low, high) for low, high in REGIONS[name]))


def sample_any(rng: np.random.Generator) -> Colour:
    """Draw a colour from the whole continuum, named or not."""
    if rng.random() < 0.1:
        return from_hsv(0, rng.uniform(0, 0.06), rng.uniform(0.25, 0.95))
    return from_hsv(rng.uniform(0, 360), rng.uniform(0.35, 1.0), rng.uniform(0.4, 1.0))


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or lighten towards white (factor above 1) a colour."""
    if factor <= 1:
        return tuple(c * factor for c in colour)  # type: ignore[return-value]
    return tuple(1 - (1 - c) / factor for c in colour)  # type: ignore[return-value]
