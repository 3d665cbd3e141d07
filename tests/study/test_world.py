"""The picture world: as rich as it promises, the same from the same seed, and true about what it drew."""

from dataclasses import replace

import numpy as np
import pytest

from study.world import fields
from study.world.backgrounds import BACKGROUNDS
from study.world.captions import RARE_TOKENS, WORDS, caption, sample_caption
from study.world.colours import COLOURS, REGIONS, sample
from study.world.objects import CLASSES, KINDS, SHAPES
from study.world.scene import STYLES, TEXTURES, Scene, draw, sample_look, sample_pose, sample_scene
from study.world.subjects import SUBJECTS


def scene_of(kind: str, seed: int = 0, **changes) -> Scene:
    rng = np.random.default_rng(seed)
    made = Scene(kind, sample_look(rng, "blue"), "blue", "plain", "grass", **sample_pose(rng))
    return replace(made, **changes)


def test_the_world_is_as_rich_as_promised():
    assert len(SHAPES) >= 10 and len(CLASSES) >= 8 and len(COLOURS) == 10
    assert len(TEXTURES) == 4 and len(BACKGROUNDS) == 8 and len(SUBJECTS) >= 20


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_has_several_parts_that_can_be_seen(kind):
    drawing = draw(scene_of(kind))
    seen = [name for name, mask in drawing.masks.items() if mask.sum() >= 3]
    assert len(seen) >= 3
    assert set(drawing.colours) == set(drawing.masks)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_do_not_overlap_and_hold_the_true_colours(kind):
    drawing = draw(scene_of(kind, light=(0.0, 0.0)))
    assert np.sum(list(drawing.masks.values()), axis=0).max() == 1
    body = drawing.masks["body"]
    inner = body & np.roll(body, 2, 0) & np.roll(body, -2, 0) & np.roll(body, 2, 1) & np.roll(body, -2, 1)
    drawn = np.median(drawing.pixels[inner], axis=0) / 255
    assert np.abs(drawn - drawing.colours["body"]).max() < 0.02


def test_a_scene_always_gives_the_same_pixels_and_a_pool_of_them_differs():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(20)]
    first = [draw(scene).pixels for scene in scenes]
    assert all((draw(scene).pixels == pixels).all() for scene, pixels in zip(scenes, first, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 20


def test_edges_are_anti_aliased():
    look = sample_look(np.random.default_rng(0), "gray")
    pixels = draw(Scene("box", look, "gray", "plain", "snow", tilt=0.1, light=(0.0, 0.0))).pixels
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 300


@pytest.mark.parametrize("style", STYLES)
def test_styles_change_the_picture(style):
    pixels = draw(scene_of("robot", style=style)).pixels
    others = [draw(scene_of("robot", style=other)).pixels for other in STYLES if other != style]
    assert all(np.abs(pixels.astype(int) - other).mean() > 10 for other in others)


def test_named_colours_vary_and_their_regions_do_not_meet():
    rng = np.random.default_rng(0)
    drawn = {name: np.array([sample(name, rng) for _ in range(200)]) for name in COLOURS}
    assert all(len(np.unique(values, axis=0)) == 200 for values in drawn.values())
    for name in COLOURS:
        for other in COLOURS:
            if name < other:
                gap = np.linalg.norm(drawn[name][:, None] - drawn[other][None], axis=-1).min()
                assert gap > 0.03, (name, other)
    assert set(REGIONS) == set(COLOURS)


def test_a_subject_is_one_instance_in_five_places():
    for subject in SUBJECTS.values():
        assert len(subject.pictures()) == 5
        assert len({scene.look for scene in subject.scenes}) == 1
        assert len({scene.background for scene in subject.scenes}) == 5
        assert subject.class_word in CLASSES
    assert len({subject.scenes[0].look for subject in SUBJECTS.values()}) == len(SUBJECTS)


def test_prompts_place_recolour_and_restyle_in_words_of_the_world():
    prompts = SUBJECTS["robot"].prompts()
    text = " ".join(prompts)
    assert all("{}" in prompt for prompt in prompts)
    assert all(place in text for place in BACKGROUNDS)
    assert "red" in text and "sketch" in text
    assert set(text.replace("{}", "robot").split()) <= set(WORDS)


def test_captions_say_what_was_drawn_and_can_leave_it_out():
    scene = replace(scene_of("fish"), texture="dotted")
    assert caption(scene) == "a photo of a blue dotted fish on grass"
    assert caption(scene, colour=False, texture=False, background=False, token="sks") == "a photo of a sks fish"
    assert caption(replace(scene, background="night")).endswith("at night")
    rng = np.random.default_rng(0)
    captions = [sample_caption(scene, rng) for _ in range(200)]
    assert {word for text in captions for word in text.split()} <= set(WORDS)
    assert any(token in text for token in RARE_TOKENS for text in captions)


def test_fields_are_signed_distances():
    """Against the closed forms of a disc, a square and a capsule."""
    y, x = np.mgrid[-1:1:41j, -1:1:41j]
    grid = (x, y)
    square = fields.polygon(grid, [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    assert np.allclose(square, fields.box(grid, 0, 0, 0.5, 0.5), atol=1e-12)
    assert np.allclose(fields.capsule(grid, (0, 0), (0, 0), 0.3), fields.circle(grid, 0, 0, 0.3), atol=1e-12)
    assert np.allclose(fields.ellipse(grid, 0, 0, 0.4, 0.4) < 0, fields.circle(grid, 0, 0, 0.4) < 0)
    assert (fields.without(square, fields.circle(grid, 0, 0, 0.2))[20, 20]) == pytest.approx(0.2)
