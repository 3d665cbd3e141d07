"""Noise-difference maps: how much the subject's word changes what a denoiser predicts, where, and at which timestep.

Pictures of the class are noised, and the noise is predicted with two texts, "a photo of a [V] robot" and "a photo of a
robot"; the maps hold the difference ("A Closer Look at Parameter-Efficient Tuning in Diffusion Models", arXiv
2303.18181, visual analysis). Its size is one number a trial, so it can be analysed as any score;
`analysis.noise_reading` asks it the paper's question. torch is imported by `noise_maps` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from adapters.faults import InputFault
from analysis.compare_tables import records
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


class Denoiser(Protocol):
    """What the maps need of a backbone."""

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to latents (N, C, h, w) as at the given timesteps (N,)."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Predict from noisy latents (N, C, h, w) under texts (N, tokens, width)."""
        ...


@dataclass(frozen=True)
class NoiseMaps(Result):
    """How two texts differ in what is predicted of the same noised pictures.

    Attributes
    ----------
    timesteps : int array (T,)
    difference : array (T, h, w)
        Root mean square of the difference over pictures and channels, in the units of the prediction.
    prediction : array (T, h, w)
        The same of the prediction under the second text.
    pictures : int
    """

    timesteps: np.ndarray
    difference: np.ndarray = field(repr=False)
    prediction: np.ndarray = field(repr=False)
    pictures: int

    @property
    def relative(self) -> np.ndarray:
        """L2 norm of the difference over that of the prediction at each timestep, (T,); NaN where nothing is predicted.

        Norms are over pictures, channels and positions together.
        """
        return _ratio(np.square(self.difference).sum((1, 2)), np.square(self.prediction).sum((1, 2)))

    @property
    def relative_maps(self) -> np.ndarray:
        """The maps (T, h, w) in units of their timestep's prediction: the root mean square of one is its `relative`."""
        scale = np.sqrt(np.square(self.prediction).mean((1, 2), keepdims=True))
        return self.difference / np.where(scale > 0, scale, np.nan)

    @property
    def size(self) -> float:
        """L2 norm of the difference over that of the prediction, over all timesteps together: the score."""
        size = float(_ratio(np.square(self.difference).sum(), np.square(self.prediction).sum()))
        return size if np.isfinite(size) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row a timestep: timestep, difference and prediction (root mean squares), relative."""
        squares = [np.square(maps).mean((1, 2)) for maps in (self.difference, self.prediction)]
        return pd.DataFrame(
            {
                "timestep": self.timesteps, "difference": np.sqrt(squares[0]), "prediction": np.sqrt(squares[1]),
                "relative": self.relative,
            }
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; maps are left out."""
        size = self.size if np.isfinite(self.size) else None
        return {"pictures": self.pictures, "size": size, "timesteps": records(self.to_frame())}

    def explain(self) -> str:
        """The size in a sentence."""
        if not np.isfinite(self.size):
            return "The size of the difference cannot be given: a prediction is 0 everywhere, or not finite."
        least, most = int(np.nanargmin(self.relative)), int(np.nanargmax(self.relative))
        return (
            f"Over {self.pictures} pictures and {len(self.timesteps)} timesteps, the first text's prediction differs "
            f"from the second's by {self.size:.3g} of its L2 norm: from {self.relative[least]:.3g} at timestep "
            f"{self.timesteps[least]} to {self.relative[most]:.3g} at timestep {self.timesteps[most]}."
        )

    def plot(self) -> Figure:
        """The maps, a column a timestep."""
        from analysis.noise_figures import noise_grid

        return noise_grid([("", self)])


def noise_maps(
    denoiser: Denoiser,
    latents: Tensor,
    noise: Tensor,
    timesteps: Sequence[int],
    subject: Tensor,
    plain: Tensor,
    at_once: int = 64,
) -> NoiseMaps:
    """Predict noised pictures under two texts, and map the difference.

    Both predictions are made of the same noisy latents in batches of the same shape, so equal texts differ by 0
    exactly. Only sums are kept, so memory does not grow with the number of pictures. Two models are compared in pairs
    when both are given the same noise.

    Parameters
    ----------
    denoiser : Denoiser
        With what was trained on it.
    latents : Tensor (N, C, h, w)
        Of pictures of the class.
    noise : Tensor (N, C, h, w)
        Standard normal, one a picture, used at every timestep.
    timesteps : sequence of int
    subject, plain : Tensor (1, tokens, width)
        The embedded texts: with the subject's word and without it.
    at_once : int
        Rows that go through the denoiser together.

    Returns
    -------
    NoiseMaps

    Raises
    ------
    InputFault
        No picture, no timestep, or shapes that do not match.
    """
    import torch

    _check_shapes(latents, noise, timesteps, subject, plain, at_once)
    count, steps = len(latents), torch.as_tensor(list(timesteps), device=latents.device)
    _, channels, height, width = latents.shape
    # Added up on the CPU, where the order of sums, and so every bit, is the same each time.
    difference, prediction = (torch.zeros(len(steps), height, width, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for rows in torch.split(torch.arange(count * len(steps)), at_once):
            step, picture = rows // count, (rows % count).to(latents.device)
            times = steps[step.to(steps.device)]
            noisy = denoiser.noised(latents[picture], noise[picture], times)
            under = [
                denoiser.predict(noisy, times, text.expand(len(rows), -1, -1)).double() for text in (subject, plain)
            ]
            difference.index_add_(0, step, (under[0] - under[1]).square().sum(1).cpu())
            prediction.index_add_(0, step, under[1].square().sum(1).cpu())
    squares = difference / (count * channels), prediction / (count * channels)
    return NoiseMaps(
        np.asarray(list(timesteps), dtype=np.int64), squares[0].sqrt().numpy(), squares[1].sqrt().numpy(), count
    )


def _ratio(difference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Square root of a ratio of sums of squares; NaN where the second is 0."""
    return np.sqrt(difference / np.where(prediction > 0, prediction, np.nan))


def _check_shapes(
    latents: Tensor, noise: Tensor, timesteps: Sequence[int], subject: Tensor, plain: Tensor, at_once: int
) -> None:
    shapes = tuple(latents.shape), tuple(noise.shape), tuple(subject.shape), tuple(plain.shape)
    if len(shapes[0]) != 4 or not shapes[0][0] or shapes[0] != shapes[1]:
        raise InputFault(
            f"Got latents {shapes[0]} and noise {shapes[1]}; expected the same (N, C, h, w), N at least 1."
        )
    if len(shapes[2]) != 3 or shapes[2][0] != 1 or shapes[2] != shapes[3]:
        raise InputFault(f"Got texts {shapes[2]} and {shapes[3]}; expected the same (1, tokens, width).")
    if not len(timesteps) or at_once < 1:
        raise InputFault(f"Got {len(timesteps)} timesteps, {at_once} rows at once; expected at least one of each.")
