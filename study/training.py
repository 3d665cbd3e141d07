"""The training loop: denoising loss, AdamW, constant learning rate, a divergence check. Nothing else.

It names no task, no method and no backbone: a task makes the batches, an insertion gives the parameters, a backbone
says what a denoiser should predict. Limits: one slot; no gradient accumulation, clipping or schedule.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}
"""Precision of a protocol to the type weights are held in; bf16 computes in bfloat16 where autocast says it is safe."""

LOOK_EVERY = 10
"""Steps between two looks at the loss, which make an accelerator wait."""

POINTS = 100
"""Points of a stored loss curve."""

LAST = 20
"""Steps whose mean loss is called the final loss."""


class Denoiser(Interface):
    """What the loop needs of a backbone."""

    device: torch.device

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to latents as at the given timesteps."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Give what should be predicted."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Predict the target."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes
    ----------
    latents, noise : (N, C, h, w), unit free.
    timesteps : (N,) integers.
    context : (N, tokens, width).
    weight : (N,); the loss is the sum over rows of weight times the row's mean squared error.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes
    ----------
    diverged : why the training is called diverged, or "".
    final_loss : mean loss of the last 20 steps; NaN when diverged or when nothing was trained.
    curve : rows of `step` (from 1) and `loss` (mean over the steps since the last row).
    seconds : of the loop.
    """

    diverged: str = ""
    final_loss: float = float("nan")
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Open the context a protocol's precision asks for: bfloat16 autocast for "bf16", nothing otherwise."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def row_losses(denoiser: Denoiser, batch: Batch) -> Tensor:
    """Mean squared error of the prediction, for each row: (N,)."""
    noisy = denoiser.noised(batch.latents, batch.noise, batch.timesteps)
    wanted = denoiser.target(batch.latents, batch.noise, batch.timesteps)
    predicted = denoiser.predict(noisy, batch.timesteps, batch.context).to(wanted.dtype)
    return (predicted - wanted).square().flatten(1).mean(1)


def train(
    denoiser: Denoiser,
    parameters: Sequence[nn.Parameter],
    batches: Iterator[Batch],
    steps: int,
    learning_rate: float,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
    penalty: Callable[[], Tensor | None] = lambda: None,
) -> Trained:
    """Train the parameters for `steps` steps, in place.

    Parameters
    ----------
    parameters : what AdamW (betas 0.9 and 0.999, weight decay 0.01) updates; each must be there once.
    batches : one a step.
    progress : called with the number of steps done, now and then.
    penalty : what a method adds to the loss of every step; it is no part of the losses that are recorded.

    Raises
    ------
    ValueError : a parameter is given twice (its updates would be doubled).
    """
    if len({id(parameter) for parameter in parameters}) != len(parameters):
        raise ValueError("a parameter was given to the optimiser twice; every parameter must be there once")
    if not parameters:
        return Trained()
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, fused=True)
    losses = torch.zeros(steps, device=denoiser.device, dtype=torch.float64)
    start = time.perf_counter()
    done = 0
    for done, batch in enumerate(islice(batches, steps), start=1):
        with autocast(denoiser.device, precision):
            loss = row_losses(denoiser, batch).mul(batch.weight).sum()
        extra = penalty()
        optimiser.zero_grad(set_to_none=True)
        (loss if extra is None else loss + extra.to(loss.dtype)).backward()
        optimiser.step()
        losses[done - 1] = loss.detach()
        if done % LOOK_EVERY == 0 or done == steps:
            if not losses[max(0, done - LOOK_EVERY) : done].isfinite().all():
                break
            if progress is not None:
                progress(done)
    seen = losses[:done].cpu()
    return Trained(
        diverged=_divergence(seen, parameters),
        final_loss=float(seen[-LAST:].mean()) if seen.isfinite().all() else float("nan"),
        curve=_thinned(seen),
        seconds=time.perf_counter() - start,
    )


def _divergence(losses: Tensor, parameters: Sequence[nn.Parameter]) -> str:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        return f"the loss is {losses[wrong[0]].item()} at step {wrong[0].item() + 1}"
    with torch.no_grad():
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            return f"a parameter is not finite after step {len(losses)}"
    return ""


def _thinned(losses: Tensor) -> list[dict[str, float]]:
    width = -(-len(losses) // POINTS)
    rows = []
    for begin in range(0, len(losses), width):
        part = losses[begin : begin + width]
        rows.append({"step": begin + len(part), "loss": float(part.mean())})
    return rows
