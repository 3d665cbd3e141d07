"""Does a generated picture show what its control map asked for? Pure functions of maps, and their use on pictures.

Definitions
- edge error: 1 - F of the outlines, where F is the harmonic mean of precision and recall, and an edge pixel counts as
  met when one of the other map is within a pixel (the F measure of DAVIS, Perazzi et al. 2016, whose tolerance of 0.008
  of the diagonal is one pixel at 64).
- mean IoU: mean over the classes that are wanted of intersection over union; pixel accuracy: share of pixels with the
  right label. Background counts as a class in both. A class that was not wanted lowers the others' overlap only.
- landmark error: mean distance of the wanted centres of parts from those found, in shares of the picture's edge.

A generated picture has no true map. Its labels and landmarks are read by `study.builtin.segmenter`; its outlines are
where the labels change. So real drawings do not score perfectly either: theirs is the floor (docs/builtin.md). The
segmenter knows the built-in world only.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.segmentation import mean_iou as metrics_iou

from study.builtin.segmenter import Points, read_parts
from study.world.control_maps import SEGMENTS, edge_map, landmarks, segmentation
from study.world.scene import Scene

VERSION = "control-1"
"""Changed when equal pictures get another score."""

TOLERANCE = 1.0


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
    found, points = read_parts(pictures)
    wanted = np.array([segmentation(scene) for scene in scenes], np.uint8).reshape(found.shape)
    return {
        "edge_error": np.array(
            [edge_error(label_edges(labels), edge_map(scene)) for labels, scene in zip(found, scenes, strict=True)]
        ),
        "mean_iou": mean_iou(found, wanted),
        "pixel_accuracy": pixel_accuracy(found, wanted),
        "landmark_error": np.array(
            [landmark_error(located, landmarks(scene)) for located, scene in zip(points, scenes, strict=True)]
        ),
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
    """Mean intersection over union of the classes that are wanted, of label maps (N, H, W) each: (N,)."""
    given, true = _tensor(found), _tensor(wanted)
    iou = metrics_iou(given, true, num_classes=len(SEGMENTS), per_class=True, input_format="index").double().numpy()
    asked = np.stack([np.isin(np.arange(len(SEGMENTS)), labels) for labels in wanted])
    return np.where(asked, iou, 0).sum(1) / asked.sum(1)


def pixel_accuracy(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Share of pixels with the right label, of label maps (N, H, W) each: (N,)."""
    accuracy = multiclass_accuracy(
        _tensor(found), _tensor(wanted), num_classes=len(SEGMENTS), average="micro", multidim_average="samplewise"
    )
    return accuracy.double().numpy()


def landmark_error(found: Points, wanted: Points) -> float:
    """Mean distance of the wanted points from those found of the same names, in shares of the edge.

    Raises
    ------
    KeyError
        If a wanted point is not among those found.
    """
    return float(np.mean([np.hypot(*np.subtract(found[name], at)) for name, at in wanted.items()]))


def _tensor(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))
