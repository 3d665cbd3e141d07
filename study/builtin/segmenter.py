"""Reads the parts of the world's things off a picture: the estimator behind the control scores.

Trained on drawings only (`python -m study.builtin.train --only segmenter`); shares no weight with any generator.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from study.world.control_maps import SEGMENTS
from study.world.scene import SIZE, picture_grid

WEIGHTS = Path(__file__).resolve().parent / "segmenter.safetensors"
ROWS = 64

Points = dict[str, tuple[float, float]]
"""Name of a part to its centre across and down, in shares of the picture's edge."""


class PartSegmenter(nn.Module):
    """U-Net from pictures (n, 3, 64, 64) in [-1, 1] to logits (n, classes, 64, 64); it works at 32, 16 and 8 pixels."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 80)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(12, first, 3, padding=1)
        self.down = nn.ModuleList([_block(first, first), _block(first, second), _block(second, third)])
        self.middle = _block(third, third)
        self.up = nn.ModuleList([_block(third + second, second), _block(second + first, first)])
        self.head = nn.Conv2d(first + 12, 4 * len(SEGMENTS), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the classes in `SEGMENTS`."""
        folded = functional.pixel_unshuffle(pictures, 2)
        features = self.stem(folded)
        kept = []
        for number, block in enumerate(self.down):
            features = block(functional.avg_pool2d(features, 2) if number else features)
            kept.append(features)
        features = self.middle(features) + features
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            features = block(torch.cat([functional.interpolate(features, scale_factor=2.0), skip], 1))
        return functional.pixel_shuffle(self.head(torch.cat([features, folded], 1)), 2)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(),
        nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(),
    )  # fmt: skip


@cache
def load_segmenter(weights: Path = WEIGHTS) -> PartSegmenter:
    """Load the shipped segmenter, ready to read pictures on the CPU."""
    from safetensors.torch import load_file

    model = PartSegmenter()
    model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return model.requires_grad_(False).eval()


@torch.inference_mode()
def read_parts(pictures: np.ndarray, model: PartSegmenter | None = None) -> tuple[np.ndarray, list[Points]]:
    """Label every pixel by the part that it seems to show, and locate every part.

    Parameters
    ----------
    pictures : numpy.ndarray of uint8, shape (N, H, W, 3)
        Of another size than the world's they are brought to it by area means.
    model : PartSegmenter, optional
        Default: the shipped one.

    Returns
    -------
    labels : numpy.ndarray of uint8, shape (N, 64, 64)
        Indices into `SEGMENTS`: the likeliest.
    points : list of Points
        Of every picture, where each part of `SEGMENTS` would be if it is there: the mean of the pixels weighed by the
        squared probability of the part (integral regression, Sun et al. 2018), so that a part of a few pixels is
        located though none of them is likeliest to be its.
    """
    model = model or load_segmenter()
    labels = [np.zeros((0, SIZE, SIZE), np.uint8)]
    points: list[Points] = []
    for begin in range(0, len(pictures), ROWS):
        rows = np.stack([_sized(picture) for picture in pictures[begin : begin + ROWS]])
        given = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
        shares = model(given).softmax(1)
        labels.append(shares.argmax(1).to(torch.uint8).numpy())
        points += [_points(share) for share in shares.double().numpy()]
    return np.concatenate(labels), points


def _points(shares: np.ndarray) -> Points:
    grid = np.stack(picture_grid(SIZE))
    weights = shares**2 / (shares**2).sum((1, 2), keepdims=True)
    where = np.einsum("cyx,pyx->cp", weights, grid)
    return {name: (float(x), float(y)) for name, (x, y) in zip(SEGMENTS[1:], where[1:], strict=True)}


def _sized(picture: np.ndarray) -> np.ndarray:
    if picture.shape[:2] == (SIZE, SIZE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))
