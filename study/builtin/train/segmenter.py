"""Trains the segmenter that reads control maps off pictures."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.builtin.segmenter import PartSegmenter
from study.builtin.train.loop import optimise, to_tensor
from study.builtin.train.pool import Pool
from study.builtin.train.scorers import roughened
from study.world.control_maps import segmentation


def train_segmenter(
    segmenter: PartSegmenter, pool: Pool, steps: int, seed: int, checkpoints: Path, batch: int = 16
) -> None:
    """Fit the labels of drawings by cross-entropy. Pictures are blurred, relit and made noisy as micro-dino's are."""
    truth = torch.from_numpy(np.stack([segmentation(scene) for scene in pool.scenes])).long()

    def loss(step: int, _: int) -> Tensor:
        rng = np.random.default_rng([seed, 7, step])
        chosen = rng.integers(len(pool), size=batch)
        return functional.cross_entropy(segmenter(roughened(to_tensor(pool.pixels[chosen]), rng)), truth[chosen])

    optimise("segmenter", [segmenter], loss, steps, 3e-3, checkpoints)
