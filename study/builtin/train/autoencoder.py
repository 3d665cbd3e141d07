"""Trains the autoencoder between pictures and latents."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from study.builtin.train.loop import optimise, to_tensor

CROP = 32
KL_WEIGHT = 5e-5


def train_vae(vae: AutoencoderKL, pixels: np.ndarray, steps: int, seed: int, checkpoints: Path) -> None:
    """Fit reconstruction on random crops, the last quarter on whole pictures, then set the latents' scale."""

    def loss(step: int, _: int) -> torch.Tensor:
        rng = np.random.default_rng([seed, 2, step])
        torch.manual_seed(int(rng.integers(2**31)))
        whole = step >= 0.75 * steps
        chosen = pixels[rng.integers(len(pixels), size=12 if whole else 32)]
        if not whole:
            top, left = rng.integers(0, chosen.shape[1] - CROP + 1, 2)
            chosen = chosen[:, top:top + CROP, left:left + CROP]
        pictures = to_tensor(chosen)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return error.square().mean() + 0.1 * error.abs().mean() + KL_WEIGHT * kl

    optimise("autoencoder", [vae], loss, steps, 2e-3, checkpoints)
    with torch.no_grad():
        latents = encode(vae, pixels[:1000], scaled=False)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray, scaled: bool = True) -> torch.Tensor:
    """(n, 64, 64, 3) uint8 to latents (n, 8, 16, 16), the posterior's mean, scaled to unit deviation."""
    factor = vae.config.scaling_factor if scaled else 1.0
    return torch.cat([vae.encode(to_tensor(pixels[i:i + 64]).to(vae.device)).latent_dist.mean.cpu() * factor
                      for i in range(0, len(pixels), 64)])


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of reconstruction, in dB."""
    values = []
    for i in range(0, len(pixels), 64):
        pictures = to_tensor(pixels[i:i + 64])
        decoded = vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
        error = ((decoded - pictures) / 2).square().mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, pixels: np.ndarray) -> np.ndarray:
    """Pictures (n, 64, 64, 3) uint8 as they come back from their latents."""
    parts = []
    for i in range(0, len(pixels), 64):
        decoded = vae.decode(vae.encode(to_tensor(pixels[i:i + 64])).latent_dist.mean).sample.clamp(-1, 1)
        parts.append(((decoded + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy())
    return np.concatenate(parts)
