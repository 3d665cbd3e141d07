"""Does a generated picture show what its control map asked for? Pure functions of maps, and their use on pictures.

Definitions
- edge error: 1 - F of the outlines, where F is the harmonic mean of precision and recall, and an edge pixel counts as
  met when one of the other map is within a pixel (the F measure of DAVIS, Perazzi et al. 2016, whose tolerance of 0.008
  of the diagonal is one pixel at 64).
- mean IoU: mean over the classes that are in either map of intersection over union; pixel accuracy: share of pixels
  with the right label. Background counts as a class in both.
- landmark error: mean distance of the wanted points from those found, in shares of the picture's edge; a point that is
  not found counts as `MISSING`.

A generated picture has no true map. Its labels are read by `study.builtin.segmenter`, its outlines are where the labels
change, its landmarks the centres of the labelled parts. So real drawings do not score perfectly either: theirs is the
floor (docs/builtin.md). The segmenter knows the built-in world only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.segmentation import mean_iou as metrics_iou

from study.builtin.segmenter import read_parts
from study.world.control_maps import SEGMENTS, centres, edge_map, landmarks, segmentation
from study.world.scene import Scene

VERSION = "control-1"
"""Changed when equal pictures get another score."""

TOLERANCE = 1.0
MISSING = 0.5

Point = tuple[float, float]


def control_scores(pictures: np.ndarray, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Score pictures against the maps of the scenes that they were to show.

    Parameters
    ----------
    pictures : numpy.ndarray of uint8, shape (N, H, W, 3)
        Of another size than the world's they are brought to it by area means.
    scenes : sequence of Scene, length N

    Returns
    -------
    dict of str to numpy.ndarray of float64, shape (N,)
        `edge_error`, `mean_iou`, `pixel_accuracy`, `landmark_error`.
    """
    if len(pictures) != len(scenes):
        raise ValueError(f"{len(pictures)} pictures and {len(scenes)} scenes; expected one scene for every picture.")
    found = read_parts(pictures)
    wanted = np.array([segmentation(scene) for scene in scenes], np.uint8).reshape(found.shape)
    pairs = list(zip(found, scenes, strict=True))
    return {
        "edge_error": np.array([edge_error(label_edges(labels), edge_map(scene)) for labels, scene in pairs]),
        "mean_iou": mean_iou(found, wanted),
        "pixel_accuracy": pixel_accuracy(found, wanted),
        "landmark_error": np.array([landmark_error(centres(labels), landmarks(scene)) for labels, scene in pairs]),
    }


def label_edges(labels: np.ndarray) -> np.ndarray:
    """Find where a label map (H, W) changes: the pixels on both sides of every change, bool (H, W)."""
    edges = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    return edges


def edge_error(found: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """Score edges, bool (H, W) each: 0 where all are met within `tolerance` pixels, 1 where none is.

    Two maps without any edge agree.
    """
    if not found.any() or not wanted.any():
        return float(found.any() != wanted.any())
    precision = float((distance_transform_edt(~wanted)[found] <= tolerance).mean())
    recall = float((distance_transform_edt(~found)[wanted] <= tolerance).mean())
    return 1 - 2 * precision * recall / max(precision + recall, 1e-12)


def mean_iou(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean intersection over union of the classes that are in either label map, (N, H, W) each: (N,)."""
    given = [torch.from_numpy(labels.astype(np.int64)) for labels in (found, wanted)]
    iou = metrics_iou(*given, num_classes=len(SEGMENTS), per_class=True, input_format="index").double().numpy()
    classes = np.arange(len(SEGMENTS))
    there = np.stack([np.isin(classes, [*np.unique(a), *np.unique(b)]) for a, b in zip(found, wanted, strict=True)])
    return np.where(there, iou, 0).sum(1) / there.sum(1)


def pixel_accuracy(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Share of pixels with the right label, of label maps (N, H, W) each: (N,)."""
    given = [torch.from_numpy(labels.astype(np.int64)) for labels in (found, wanted)]
    accuracy = multiclass_accuracy(
        *given, num_classes=len(SEGMENTS), average="micro", multidim_average="samplewise", validate_args=False
    )
    return accuracy.double().numpy()


def landmark_error(found: Mapping[str, Point], wanted: Mapping[str, Point]) -> float:
    """Mean distance of the wanted points from those found, in shares of the edge; one not found counts as `MISSING`."""
    distances = [np.hypot(*np.subtract(found[name], at)) if name in found else MISSING for name, at in wanted.items()]
    return float(np.mean(distances))
