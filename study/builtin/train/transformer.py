"""Trains the diffusion transformer together with the text encoder that conditions it; meant for a GPU."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from study.builtin.train.generator import DROPPED, VelocityLoss
from study.builtin.train.loop import optimise
from study.builtin.train.scorers import tokens
from study.world.captions import sample_caption
from study.world.scene import Scene


class CaptionedBatches(Dataset[tuple[Tensor, Tensor]]):
    """What each step trains on: numbers of scenes (n,), and their captions' tokens (n, 24), drawn anew each time."""

    def __init__(self, scenes: list[Scene], words: CLIPTokenizer, seed: int, batch: int) -> None:
        self.scenes, self.words, self.seed, self.batch = scenes, words, seed, batch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 8, step])
        chosen = rng.integers(len(self.scenes), size=self.batch)
        captions = ["" if rng.random() < DROPPED else sample_caption(self.scenes[i], rng) for i in chosen]
        return torch.from_numpy(chosen), tokens(self.words, captions)


def read_mask(ids: Tensor, end: int) -> Tensor:
    """Mask of the tokens that are read, (n, tokens) of ones and zeros: all up to the first end, as tokenizers give it.

    The padding is the end token again, so the tokens alone do not tell it from the end.
    """
    ended = (ids == end).long()
    return ((ended.cumsum(1) - ended) == 0).long()


def train_transformer(transformer: PixArtTransformer2DModel, text_encoder: CLIPTextModel, words: CLIPTokenizer,
                      scheduler: DPMSolverMultistepScheduler, latents: Tensor, scenes: list[Scene], steps: int,
                      seed: int, checkpoints: Path, batch: int, minutes: float | None = None, workers: int = 0,
                      device: str = "cpu", learning_rate: float = 1e-3) -> None:
    """Fit velocity prediction as `train_generator` does, in batches fit for a GPU.

    Noise and timesteps are drawn on the device, so devices do not give equal weights. On CUDA the networks run in
    bfloat16 (autocast); weights and optimiser stay in single precision.

    Parameters
    ----------
    latents : torch.Tensor
        (n, 8, 16, 16), scaled to unit deviation.
    scenes : list of Scene
        What the latents show.
    minutes : float, optional
        As `optimise` says; in place of `steps`.
    workers : int
        Processes that draw captions ahead; 0 draws them in between.
    """
    latents = latents.to(device)
    networks = torch.nn.ModuleList([transformer, text_encoder]).to(device).train()
    velocity = VelocityLoss(scheduler.alphas_cumprod.to(device))
    drawn = CaptionedBatches(scenes, words, seed, batch)
    batches: Iterator[list[Tensor]] | None = None

    def loss(step: int, _: int) -> Tensor:
        nonlocal batches
        if batches is None:
            batches = iter(DataLoader(drawn, batch_size=None, sampler=count(step), num_workers=workers,
                                      prefetch_factor=8 if workers else None))
        chosen, ids = (part.to(device, non_blocking=True) for part in next(batches))
        stream = torch.Generator(device).manual_seed(int(np.random.SeedSequence([seed, 9, step]).generate_state(1)[0]))
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=stream, device=device)
        strata = torch.randperm(batch, generator=stream, device=device)
        timesteps = ((strata + torch.rand(batch, generator=stream, device=device)) / batch * 1000).long().clamp(max=999)
        mask = read_mask(ids, words.eos_token_id)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            # A causal encoder: no token that is read sees the padding after it, so it needs no mask.
            context = text_encoder(ids).last_hidden_state
            return velocity(lambda noisy: transformer(noisy, context, timesteps, encoder_attention_mask=mask).sample,
                            clean, noise, timesteps)

    optimise("generator-dit", [transformer, text_encoder], loss, steps, learning_rate, checkpoints, minutes=minutes,
             warm_up=500, every=1000)
    networks.eval()
