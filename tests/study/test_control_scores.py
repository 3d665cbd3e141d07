"""Control scores: equal to their definitions on maps whose scores are known, and low on drawings of what was wanted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from study.backbones.names import BUILTIN
from study.builtin.segmenter import WEIGHTS, PartSegmenter, read_parts
from study.builtin.train.pool import held_out_pool
from study.control_scores import (
    control_scores,
    edge_error,
    label_edges,
    landmark_error,
    mean_iou,
    pixel_accuracy,
)
from study.world.control_maps import SEGMENTS, edge_map, segmentation
from study.world.scene import draw


@pytest.fixture(scope="module")
def scenes():
    return held_out_pool(60, 11).scenes


@pytest.fixture(scope="module")
def real(scenes):
    return control_scores(np.stack([draw(scene).pixels for scene in scenes]), scenes)


def column(at: int, rows: int = 16) -> np.ndarray:
    edges = np.zeros((16, 16), bool)
    edges[:rows, at] = True
    return edges


def test_edge_error_is_one_less_the_f_measure_within_a_pixel():
    assert edge_error(column(5), column(5)) == 0
    assert edge_error(column(6), column(5)) == 0
    assert edge_error(column(7), column(5)) == 1
    # Eight of 16 rows found, and the ninth is near them: precision 1, recall 9/16, F = 2 * 9 / 25.
    assert edge_error(column(5, rows=8), column(5)) == pytest.approx(1 - 18 / 25)
    both = column(5) | column(12)
    assert edge_error(both, column(5)) == edge_error(column(5), both) == pytest.approx(1 - 2 / 3)


def test_maps_without_edges_agree_with_each_other_only():
    nothing = np.zeros((16, 16), bool)
    assert edge_error(nothing, nothing) == 0
    assert edge_error(nothing, column(3)) == edge_error(column(3), nothing) == 1


def test_label_edges_are_both_sides_of_a_change():
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 2
    assert (label_edges(labels) == [[False, False, True, True, False, False]] * 4).all()


def test_overlap_and_accuracy_are_scikit_learns():
    rng = np.random.default_rng(0)
    found, wanted = rng.integers(0, 5, (2, 6, 16, 16)).astype(np.uint8)
    found[3] = wanted[3]
    wanted[4] = 0
    expected = [jaccard_score(w.ravel(), f.ravel(), labels=np.unique(w), average="macro")
                for f, w in zip(found, wanted, strict=True)]
    assert mean_iou(found, wanted) == pytest.approx(expected, abs=1e-6)
    expected = [accuracy_score(w.ravel(), f.ravel()) for f, w in zip(found, wanted, strict=True)]
    assert pixel_accuracy(found, wanted) == pytest.approx(expected, abs=1e-6)


def test_landmark_error_is_a_mean_distance_in_shares_of_the_edge():
    wanted = {"head": (0.5, 0.2), "body": (0.5, 0.5)}
    assert landmark_error(wanted, wanted) == 0
    assert landmark_error({"head": (0.53, 0.24), "body": (0.5, 0.5)}, wanted) == pytest.approx(0.05 / 2)
    assert landmark_error({**wanted, "tail": (0.1, 0.1)}, wanted) == 0
    with pytest.raises(KeyError, match="head"):
        landmark_error({"body": (0.5, 0.5)}, wanted)


def test_true_labels_have_the_true_edges(scenes):
    errors = [edge_error(label_edges(segmentation(scene)), edge_map(scene)) for scene in scenes]
    assert np.mean(errors) < 0.01


def test_real_drawings_score_as_well_as_the_documentation_says(real):
    measured = json.loads((BUILTIN / "measurements.json").read_text())
    for name, values in real.items():
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert values.mean() == pytest.approx(measured[f"segmenter on 500 drawings: {name}"], abs=3 * error), name


def test_drawings_of_another_instance_or_kind_score_worse(scenes, real):
    """Another picture of the same kind, then of any: what a model without the map would draw at best, and at random."""
    alike = [next(other for other in [*scenes[i + 1 :], *scenes[:i]] if other.kind == scene.kind)
             for i, scene in enumerate(scenes) if sum(other.kind == scene.kind for other in scenes) > 1]
    kept = [scene for scene in scenes if sum(other.kind == scene.kind for other in scenes) > 1]
    near = control_scores(np.stack([draw(scene).pixels for scene in alike]), kept)
    far = control_scores(np.stack([draw(scene).pixels for scene in np.roll(np.array(scenes, object), 7)]), scenes)
    for name in ("edge_error", "landmark_error"):
        assert 2 * real[name].mean() < near[name].mean() < far[name].mean()
    for name in ("mean_iou", "pixel_accuracy"):
        assert real[name].mean() > near[name].mean() + 0.05 > far[name].mean() + 0.05


def test_moving_the_thing_costs_what_it_was_moved(scenes):
    """By 0.1 of the edge to the right: so far are all landmarks from where they were wanted."""
    moved = [replace(scene, place=(scene.place[0] + 0.1, scene.place[1])) for scene in scenes if scene.place[0] < 0.5]
    wanted = [scene for scene in scenes if scene.place[0] < 0.5]
    error = control_scores(np.stack([draw(scene).pixels for scene in moved]), wanted)["landmark_error"]
    assert np.median(error) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("size", [96, 128])
def test_larger_pictures_are_read_like_small_ones(scenes, real, size):
    larger = control_scores(np.stack([draw(scene, size).pixels for scene in scenes[:30]]), scenes[:30])
    assert larger["mean_iou"].mean() == pytest.approx(real["mean_iou"][:30].mean(), abs=0.05)
    assert larger["edge_error"].mean() == pytest.approx(real["edge_error"][:30].mean(), abs=0.05)


def test_pictures_and_scenes_are_to_be_as_many(scenes):
    with pytest.raises(ValueError, match="1 pictures and 60 scenes"):
        control_scores(np.zeros((1, 64, 64, 3), np.uint8), scenes)


def test_no_pictures_have_no_labels_and_the_weights_are_small():
    labels, points = read_parts(np.zeros((0, 64, 64, 3), np.uint8))
    assert labels.shape == (0, 64, 64) and points == []
    assert WEIGHTS.stat().st_size <= 1e6
    assert PartSegmenter().head.out_channels == 4 * len(SEGMENTS)
