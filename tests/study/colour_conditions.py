"""What the colour score was measured on: drawings of subjects that no study sees, right and wrong in known ways.

`python -m tests.study.colour_conditions` prints the table of docs/builtin.md for all subjects, the built-in autoencoder
included, and what that costs at other radii.
"""

import colorsys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from study.world import colour_fidelity
from study.world.backgrounds import BACKGROUNDS
from study.world.colours import Colour
from study.world.objects import Look
from study.world.scene import draw, restage, sample_look
from study.world.subjects import SUBJECTS

RADII = (10, 15, 20, 25, 30)


def drawings(name: str, change: Callable[[Look, np.random.Generator], Look] | None = None, seed: int = 0) -> np.ndarray:
    """Draw a subject anew, or what a change of its look makes of it, once on every background: uint8 (8, 64, 64, 3)."""
    rng = np.random.default_rng([seed, *name.encode()])
    scenes = [restage(SUBJECTS[name].scenes[0], rng, background) for background in BACKGROUNDS]
    if change is not None:
        scenes = [replace(scene, look=change(scene.look, rng)) for scene in scenes]
    return np.stack([draw(scene).pixels for scene in scenes])


def with_hue(degrees: float) -> Callable[[Look, np.random.Generator], Look]:
    """Turn the hue of all three colours."""

    def turned(colour: Colour) -> Colour:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        return colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)

    return lambda look, rng: replace(look, main=turned(look.main), second=turned(look.second), third=turned(look.third))


def other_proportions(look: Look, rng: np.random.Generator) -> Look:
    """Keep the colours, on other proportions."""
    return replace(look, proportions=tuple(rng.uniform(0, 1, 4)))


def swapped(look: Look, rng: np.random.Generator) -> Look:
    """Exchange the main and the second colour."""
    return replace(look, main=look.second, second=look.main)


def rotated(look: Look, rng: np.random.Generator) -> Look:
    """Give every part a colour that belongs to another."""
    return replace(look, main=look.second, second=look.third, third=look.main)


def other_instance(look: Look, rng: np.random.Generator) -> Look:
    """Take any other instance of the class."""
    return sample_look(rng)


def blurred(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    """Blur (Gaussian, SD 0.6 pixels) and add noise (SD 5 of 255)."""
    noise = np.random.default_rng(seed).normal(0, 5, pictures.shape)
    return np.clip(gaussian_filter(pictures.astype(float), (0, 0.6, 0.6, 0)) + noise, 0, 255).round().astype(np.uint8)


def conditions(name: str) -> dict[str, np.ndarray]:
    """Everything that is compared, without the autoencoder."""
    fresh = drawings(name)
    return {
        "new drawings": fresh,
        "blur and noise": blurred(fresh),
        "other proportions": drawings(name, other_proportions),
        **{f"hue turned by {degrees}": drawings(name, with_hue(degrees)) for degrees in (10, 20, 30)},
        "two colours swapped": drawings(name, swapped),
        "three colours exchanged": drawings(name, rotated),
        "other instances": drawings(name, other_instance),
    }


def _print_table() -> None:
    from study.backbones.loading import load

    backbone = load("micro-unet")
    shown = {}
    for name in SUBJECTS:
        shown[name] = conditions(name)
        shown[name]["autoencoder"] = backbone.decode(backbone.encode(shown[name]["new drawings"]))
    for radius in RADII:
        colour_fidelity.RADIUS = radius
        scores = {
            name: {what: colour_fidelity.colour_fidelity(p, name).mean() for what, p in shown[name].items()}
            for name in shown
        }
        print(f"radius {radius}: mean, lowest and highest of {len(scores)} subjects")
        for what in next(iter(scores.values())):
            found = np.array([scores[name][what] for name in scores])
            print(f"  {what:24s} {found.mean():.3f} {found.min():.2f} {found.max():.2f}")


if __name__ == "__main__":
    _print_table()
