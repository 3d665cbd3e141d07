"""Control maps: true to the geometry that was drawn, at every size, and told apart by colour."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from adapters.faults import InputFault
from study.world import control_maps as maps
from study.world.control_maps import COLOUR_CODE, SEGMENTS
from study.world.objects import KINDS, Look
from study.world.scene import Scene, draw, part_masks, sample_look, sample_pose

BALL = Scene("ball", Look((0.5, 0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 0), (0, 0, 1)), None, "plain", "snow", scale=0.4)
"""A disc of radius 0.86 x 0.4 of the picture around (0.5, 0.52), by the ball's definition."""


def scene_of(kind: str, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    return Scene(kind, sample_look(rng, "blue"), "blue", "plain", "grass", **sample_pose(rng))


@pytest.mark.parametrize("size", [64, 96, 128])
def test_maps_of_a_ball_are_those_of_a_disc(size):
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    radius = np.hypot(x - 0.5, y - 0.52)
    assert (maps.edge_map(BALL, size) == (np.abs(radius - 0.344) <= 0.5 / size)).all()
    assert (maps.segmentation(BALL, size) == (radius < 0.344) * SEGMENTS.index("body")).all()
    assert maps.landmarks(BALL) == {"body": (pytest.approx(0.5, abs=0.002), pytest.approx(0.52, abs=0.002))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 128])
def test_every_part_is_labelled_by_its_name_where_it_is_seen(kind, size):
    scene = scene_of(kind)
    labels = maps.segmentation(scene, size)
    masks = draw(scene, size).masks
    assert (labels > 0).sum() == sum(mask.sum() for mask in masks.values())
    for name, mask in masks.items():
        assert {SEGMENTS[label].rstrip("s") for label in np.unique(labels[mask])} <= {name.rstrip("s")}


def test_classes_are_exactly_the_parts_that_the_world_draws():
    drawn = {name.rstrip("s") for kind in KINDS for name in part_masks(scene_of(kind), 8)}
    assert {name.rstrip("s") for name in SEGMENTS[1:]} == drawn
    assert len(set(SEGMENTS)) == len(SEGMENTS) == len(COLOUR_CODE)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_run_where_labels_change_and_nowhere_else(kind):
    """At 128 pixels, within two of them; so hidden outlines are not drawn, and no visible one is missing."""
    scene = scene_of(kind, 3)
    edges, labels = maps.edge_map(scene, 128), maps.segmentation(scene, 128)
    changes = np.zeros_like(edges)
    changes[1:] |= labels[1:] != labels[:-1]
    changes[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    assert edges.any()
    assert not (edges & ~binary_dilation(changes, iterations=2)).any()
    assert (changes & ~binary_dilation(edges, iterations=2)).sum() <= 0.01 * changes.sum()


@pytest.mark.parametrize("kind", ["edges", "segmentation", "landmarks"])
def test_control_pictures_are_the_same_at_every_size(kind):
    small, large = (maps.control_picture(scene_of("robot"), kind, size) for size in (64, 128))
    assert small.shape == (64, 64, 3) and large.shape == (128, 128, 3) and small.dtype == np.uint8
    blocks = [
        picture.reshape(8, size // 8, 8, size // 8, 3).mean((1, 3)) for picture, size in ((small, 64), (large, 128))
    ]
    assert blocks[0].max() > 20 and np.abs(blocks[0] - blocks[1]).max() < 25


def test_colours_of_the_classes_can_be_told_apart():
    distance = np.linalg.norm(COLOUR_CODE[:, None].astype(float) - COLOUR_CODE[None], axis=-1)
    assert distance[~np.eye(len(COLOUR_CODE), dtype=bool)].min() >= 24
    picture = maps.control_picture(scene_of("car"), "segmentation")
    assert (picture == COLOUR_CODE[maps.segmentation(scene_of("car"))]).all()


def test_extreme_points_of_a_ball_are_an_octagon():
    """To two pixels of the grid on which they are measured; by symmetry, to rounding, in the straight directions."""
    ((name, points),) = maps.extreme_points(BALL)
    angles = np.arange(8) * np.pi / 4
    octagon = np.stack([0.5 + 0.344 * np.sin(angles), 0.52 - 0.344 * np.cos(angles)], -1)
    assert name == "body" and points == pytest.approx(octagon, abs=2 / 128)
    assert points[[0, 4], 0] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pixel_of_a_part_lies_beyond_its_extreme_points_and_its_colour_is_drawn(kind):
    scene = scene_of(kind, 4)
    labels, found = maps.segmentation(scene, 128), maps.extreme_points(scene)
    grid = np.stack(np.meshgrid(*[(np.arange(128) + 0.5) / 128] * 2), -1)
    picture = maps.control_picture(scene, "landmarks", 128)
    assert {name for name, _ in found} == set(maps.landmarks(scene))
    for name in {name for name, _ in found}:
        of_part = np.stack([points for part, points in found if part == name])
        for turn in range(8):
            outwards = np.array([np.sin(turn * np.pi / 4), -np.cos(turn * np.pi / 4)])
            farthest = (grid[labels == SEGMENTS.index(name)] @ outwards).max()
            assert (of_part[:, turn] @ outwards).max() == pytest.approx(farthest, abs=1e-5)
        assert (picture == COLOUR_CODE[SEGMENTS.index(name)]).all(-1).any(), name


def test_what_comes_in_pairs_has_extreme_points_of_its_own():
    """A robot has, from its definition, two arms at its sides, two eyes and two pupils."""
    names = [name for name, _ in maps.extreme_points(scene_of("robot"))]
    assert {names.count(name) for name in ("arms", "eyes", "pupils")} == {2} and names.count("head") == 1


def test_another_kind_of_map_is_refused():
    with pytest.raises(InputFault, match="edges, segmentation, landmarks"):
        maps.control_picture(BALL, "depth")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [96, 128])
def test_a_scene_is_the_same_at_every_size(kind, size):
    """Means over 16 x 16 blocks of a larger drawing are those of the 64-pixel one up to anti-aliasing."""
    scene = scene_of(kind, 5)
    small, large = draw(scene).pixels, draw(scene, size).pixels
    blocks = [p.reshape(16, s // 16, 16, s // 16, 3).mean((1, 3)) for p, s in ((small, 64), (large, size))]
    assert np.abs(blocks[0] - blocks[1]).mean() < 2
    assert np.abs(blocks[0] - blocks[1]).max() < 25
