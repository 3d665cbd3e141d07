"""Generate latents from prompts with classifier-free guidance, for many pictures at a time.

A short loop of our own over the backbone's `predict`, so that trained slots, large batches and fixed start latents cost
nothing extra; a test holds it equal to the diffusers pipeline's own result. It decodes nothing and scores nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.conditioning import Conditioned
from study.randomness import stream_seed
from study.training import RowsOf, autocast, unpacked

VALUES = 2**19
"""Latent values that go through the denoiser at once, guidance rows included: 256 rows of 16x16x4, 32 of 64x64x4."""


def start_latents(
    backbone: Backbone | Conditioned, seed: int, task: str, purpose: str, count: int
) -> tuple[Tensor, list[int]]:
    """Draw what pictures start from: (count, C, h, w) and each picture's own stream seed.

    Every picture has a stream of its own, so the i-th picture is the same however many are asked for.
    """
    seeds = [stream_seed(seed, task, f"{purpose} {index}") for index in range(count)]
    drawn = [torch.randn(backbone.latent_shape, generator=torch.Generator("cpu").manual_seed(s)) for s in seeds]
    return torch.stack(drawn).to(backbone.device, backbone.dtype), seeds


def at_once(backbone: Backbone | Conditioned) -> int:
    """Say how many rows go through the denoiser at once where no gradients are needed."""
    return max(1, VALUES // math.prod(backbone.latent_shape))


@torch.no_grad()
def sample(
    backbone: Backbone | Conditioned,
    context: Tensor,
    latents: Tensor,
    sampler: str = "dpmsolver++",
    steps: int = 25,
    guidance: float = 7.0,
    precision: str = "float32",
    slots: Sequence[int] = (),
    rows: RowsOf = unpacked,
    condition: Tensor | None = None,
) -> Tensor:
    """Denoise start latents under their prompts.

    Parameters
    ----------
    context : (N, tokens, width), a row a picture.
    latents : (N, C, h, w) standard normal.
    guidance : scale of guidance towards the prompt, and away from the empty one where the backbone predicts without a
        prompt too (see `Backbone.guided`); 1 or less is none.
    slots : the slot of every picture, in a pack of several.
    rows : as `study.training.RowsOf` says; an insertion's.
    condition : (N, …) what every picture is to follow besides its prompt; it is guided by with and without the prompt.

    Returns
    -------
    (N, C, h, w) latents for `Backbone.decode`.
    """
    texts = backbone.guided(context, guidance)
    guided = len(texts) > 1
    size = max(1, at_once(backbone) // len(texts))
    finished = []
    whose = torch.tensor(slots or [0] * len(latents))
    parts = latents.split(size)
    followed = [None] * len(parts) if condition is None else condition.split(size)
    split = zip(*(text.split(size) for text in texts), strict=True)
    for part, prompts, own, follow in zip(parts, split, whose.split(size), followed, strict=True):
        scheduler = backbone.scheduler(sampler)
        backbone.set_steps(scheduler, steps)
        conditions = torch.cat(prompts)
        owners = [*own.tolist(), *own.tolist()] if guided else own.tolist()
        extra = torch.cat([follow, follow]) if guided and follow is not None else follow
        scaled = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)  # flows need no scaling
        current = part * getattr(scheduler, "init_noise_sigma", 1)
        for timestep in scheduler.timesteps:
            doubled = torch.cat([current, current]) if guided else current
            doubled = scaled(doubled, timestep)
            with rows(owners), autocast(backbone.device, precision):
                predicted = backbone.predict(doubled, timestep, conditions, extra)
            predicted = predicted.to(current.dtype)
            if guided:
                without, towards = predicted.chunk(2)
                predicted = without + guidance * (towards - without)
            current = scheduler.step(predicted, timestep, current, return_dict=False)[0]
        finished.append(current)
    return torch.cat(finished)
