"""Trains the diffusion transformer together with the text encoder that conditions it."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from study.builtin.train.generator import DROPPED, VelocityLoss
from study.builtin.train.loop import optimise
from study.builtin.train.scorers import tokens
from study.world.captions import sample_caption
from study.world.scene import Scene

ODDS = {"plain": 0.5, "dotted": 1.0, "striped": 1.5, "checkered": 2.0}
"""How often a texture is trained on, beside how often it is drawn: a transformer learns fine patterns last."""


class CaptionedBatches(Dataset[tuple[Tensor, Tensor]]):
    """What the parts of steps train on: numbers of scenes (n,), and tokens of captions (n, 24) that are drawn anew."""

    def __init__(self, scenes: list[Scene], words: CLIPTokenizer, seed: int, batch: int) -> None:
        self.scenes, self.words, self.seed, self.batch = scenes, words, seed, batch
        self.bounds = np.cumsum([ODDS[scene.texture] for scene in scenes])

    def __getitem__(self, part: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 8, part])
        chosen = np.searchsorted(self.bounds, rng.random(self.batch) * self.bounds[-1], side="right")
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
    """Fit velocity prediction as `train_generator` does.

    Noise and timesteps are drawn on the device, so devices do not give equal weights. The networks run in bfloat16
    (autocast); weights and optimiser stay in single precision.

    Parameters
    ----------
    latents : torch.Tensor
        (n, 8, 16, 16), scaled to unit deviation.
    scenes : list of Scene
        What the latents show.
    batch : int
        Pictures a step.
    minutes : float, optional
        As `optimise` says; in place of `steps`.
    workers : int
        Processes that draw captions ahead; 0 draws them in between.
    """
    latents = latents.to(device)
    networks = torch.nn.ModuleList([transformer, text_encoder]).to(device).train()
    velocity = VelocityLoss(scheduler.alphas_cumprod.to(device))
    # As for the U-Net, cores are busier with a part of the batch each than with every operation split over them.
    shards = 2 if device == "cpu" else 1
    drawn = CaptionedBatches(scenes, words, seed, batch // shards)
    batches: dict[int, Iterator[list[Tensor]]] = {}

    def loss(step: int, shard: int) -> Tensor:
        if shard not in batches:
            batches[shard] = iter(DataLoader(drawn, batch_size=None, sampler=count(step * shards + shard, shards),
                                             num_workers=workers, prefetch_factor=8 if workers else None))
        chosen, ids = (part.to(device, non_blocking=True) for part in next(batches[shard]))
        stream = torch.Generator(device).manual_seed(_state(seed, step, shard))
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=stream, device=device)
        strata = torch.randperm(len(clean), generator=stream, device=device)
        within = torch.rand(len(clean), generator=stream, device=device)
        timesteps = ((strata + within) / len(clean) * 1000).long().clamp(max=999)
        mask = read_mask(ids, words.eos_token_id)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            # A causal encoder: no token that is read sees the padding after it, so it needs no mask.
            context = text_encoder(ids).last_hidden_state
            return velocity(lambda noisy: transformer(noisy, context, timesteps, encoder_attention_mask=mask).sample,
                            clean, noise, timesteps)

    # On a CPU attention by plain products: the fused kernel's gradient in bfloat16 is six times slower there. The
    # choice is one for all threads, so it is made outside of them.
    with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
        optimise("generator-dit", [transformer, text_encoder], loss, steps, learning_rate, checkpoints, shards, minutes,
                 warm_up=500, every=1000)
    networks.eval()


def _state(*key: int) -> int:
    return int(np.random.SeedSequence([9, *key]).generate_state(1)[0])
