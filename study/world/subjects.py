"""Subjects to learn: held-out instances of the composite classes, five pictures and a set of prompts each."""

from dataclasses import dataclass

import numpy as np

from study.world.backgrounds import BACKGROUNDS
from study.world.captions import place
from study.world.objects import CLASSES
from study.world.scene import Picture, Scene, draw, restage, sample_look, sample_pose

INSTANCES = 3
PICTURES = 5


@dataclass(frozen=True)
class Subject:
    """A held-out instance of a class.

    Attributes
    ----------
    name : str
        The class, with a number from the second instance on: "robot", "robot-2".
    class_word : str
        The class.
    scenes : tuple of Scene
        The scenes of its pictures: one instance, five backgrounds.
    """

    name: str
    class_word: str
    scenes: tuple[Scene, ...]

    def drawings(self) -> list[Picture]:
        """The pictures with their part masks and true colours."""
        return [draw(scene) for scene in self.scenes]

    def pictures(self) -> list[np.ndarray]:
        """The pictures, (64, 64, 3) uint8 each."""
        return [drawing.pixels for drawing in self.drawings()]

    def prompts(self) -> list[str]:
        """Prompt templates in DreamBooth's manner, `{}` for the token and class word: places, recoloured, styles."""
        places = [f"a photo of a {{}} {place(name)}" for name in BACKGROUNDS]
        recoloured = [f"a photo of a {colour} {{}}" for colour in ("red", "green", "blue", "yellow")]
        return [*places, *recoloured, "a photo of a striped {}", "a photo of a dotted {}", "a sketch of a {}",
                "a pastel of a {}"]


def _subject(class_word: str, number: int) -> Subject:
    rng = np.random.default_rng([20260918, tuple(CLASSES).index(class_word), number])
    first = Scene(class_word, sample_look(rng), None, "plain", "grass", **sample_pose(rng))
    places = rng.permutation(list(BACKGROUNDS))[:PICTURES]
    scenes = tuple(restage(first, rng, str(background)) for background in places)
    return Subject(class_word if number == 1 else f"{class_word}-{number}", class_word, scenes)


SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for number in range(1, INSTANCES + 1) for subject in (_subject(class_word, number) for class_word in CLASSES)
}
"""Name → subject, all classes' first instances before their second ones."""
