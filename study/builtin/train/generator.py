"""Trains the denoiser together with the text encoder that conditions it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from study.builtin.train.loop import optimise
from study.builtin.train.scorers import tokens
from study.world.captions import sample_caption
from study.world.scene import Scene

DROPPED = 0.1
"""Share of captions replaced by the empty one, which guidance needs."""


class VelocityLoss:
    """Error of velocity prediction, weighted by min(SNR, 5) / (SNR + 1) (Hang et al. 2023).

    Parameters
    ----------
    alphas : torch.Tensor
        (T,) the schedule's cumulative products.
    """

    def __init__(self, alphas: Tensor) -> None:
        snr = alphas / (1 - alphas)
        weights = snr.clamp(max=5) / (snr + 1)
        self.alphas, self.weights = alphas, weights / weights.mean()

    def __call__(self, predict: Callable[[Tensor], Tensor], clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Give the mean over latents (n, c, h, w) noised as at timesteps (n,), with `predict` as the denoiser."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        error = (predict(noisy).float() - velocity).square().mean((1, 2, 3))
        return (self.weights[timesteps] * error).mean()


def train_generator(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, words: CLIPTokenizer,
                    scheduler: DPMSolverMultistepScheduler, latents: Tensor, scenes: list[Scene], steps: int,
                    seed: int, checkpoints: Path, batch: int = 16, learning_rate: float = 1e-3) -> None:
    """Fit velocity prediction on the pool's latents.

    Parameters
    ----------
    latents : torch.Tensor
        (n, 8, 16, 16), scaled to unit deviation.
    scenes : list of Scene
        What the latents show; captions are drawn anew each time.
    """
    velocity = VelocityLoss(scheduler.alphas_cumprod)

    def loss(step: int, shard: int) -> Tensor:
        rng = np.random.default_rng([seed, 7, step, shard])
        chosen = rng.integers(len(latents), size=batch)
        captions = ["" if rng.random() < DROPPED else sample_caption(scenes[i], rng) for i in chosen]
        clean = latents[chosen]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        steps_in = torch.from_numpy(((rng.permutation(batch) + rng.random(batch)) / batch * 1000).astype(np.int64))
        context = text_encoder(tokens(words, captions)).last_hidden_state
        return velocity(lambda noisy: unet(noisy, steps_in, context).sample, clean, noise, steps_in)

    optimise("generator", [unet, text_encoder], loss, steps, learning_rate, checkpoints, shards=2)
