"""The drawings that all built-in models learn from: drawn once from a seed, in parallel, kept in memory."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from study.world.backgrounds import BACKGROUNDS
from study.world.captions import caption
from study.world.colours import COLOURS
from study.world.objects import CLASSES, KINDS, SHAPES
from study.world.scene import TEXTURES, Scene, draw, sample_look, sample_pose, sample_scene

CHUNK = 500


@dataclass(frozen=True)
class Pool:
    """Scenes and their drawings, (n, 64, 64, 3) uint8."""

    scenes: list[Scene]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


def held_out(scene: Scene) -> bool:
    """Whether a fully named combination is kept from training: one in eight of kind × colour × background."""
    if scene.colour is None:
        return False
    place = (list(KINDS).index(scene.kind), COLOURS.index(scene.colour), list(BACKGROUNDS).index(scene.background))
    return (3 * place[0] + 5 * place[1] + place[2]) % 8 == 0


def draw_pool(count: int, seed: int, workers: int, work: Path) -> Pool:
    """Draw the training pictures; none shows a held-out combination. Pixels are kept in the work folder.

    Scenes are always made anew: they are cheap, and a file of them would have to be trusted.
    """
    chunks = [(seed, index, min(CHUNK, count - index * CHUNK)) for index in range((count + CHUNK - 1) // CHUNK)]
    scenes = [scene for chunk in chunks for scene in _scenes(chunk)]
    file = work / f"pool-{count}-{seed}.npy"
    if not file.exists():
        with ProcessPoolExecutor(workers) as executor:
            pixels = np.concatenate(list(executor.map(_draw_chunk, chunks)))
        work.mkdir(parents=True, exist_ok=True)
        making = file.with_suffix(".making.npy")
        np.save(making, pixels, allow_pickle=False)
        making.replace(file)
    return Pool(scenes, np.load(file, allow_pickle=False))


def held_out_pool(count: int, seed: int) -> Pool:
    """Draw photos of held-out combinations, with pairwise different captions."""
    rng = np.random.default_rng([seed, 1])
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        kinds = tuple(CLASSES) if rng.random() < 0.5 else tuple(SHAPES)
        colour = COLOURS[rng.integers(len(COLOURS))]
        scene = Scene(kinds[rng.integers(len(kinds))], sample_look(rng, colour), colour,
                      TEXTURES[rng.integers(len(TEXTURES))], tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
                      **sample_pose(rng))
        if held_out(scene):
            scenes.setdefault(caption(scene), scene)
    return Pool(list(scenes.values()), np.stack([draw(scene).pixels for scene in scenes.values()]))


def _scenes(chunk: tuple[int, int, int]) -> list[Scene]:
    seed, index, count = chunk
    rng = np.random.default_rng([seed, 0, index])
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng)
        while held_out(scene):
            scene = replace(scene, background=tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])
        scenes.append(scene)
    return scenes


def _draw_chunk(chunk: tuple[int, int, int]) -> np.ndarray:
    return np.stack([draw(scene).pixels for scene in _scenes(chunk)])
