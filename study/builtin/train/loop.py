"""What every training here shares: pictures as tensors, a one-cycle schedule, averaged weights, progress lines."""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def optimise(name: str, modules: Iterable[torch.nn.Module], loss_of_step: Callable[[int], torch.Tensor], steps: int,
             learning_rate: float, averaged: bool = False) -> None:
    """Minimise a loss by AdamW with warm-up and cosine decay.

    Parameters
    ----------
    name : str
        For the progress lines.
    modules : iterable of torch.nn.Module
        Trained in place; with `averaged` they end with the exponential mean of their weights.
    loss_of_step : callable
        Step number to a scalar loss.
    steps : int
        Number of steps.
    learning_rate : float
        Its peak.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    warm = max(20, steps // 50)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / warm, 0.02 + 0.49 * (1 + float(np.cos(np.pi * s / steps)))))
    mean = [p.detach().clone() for p in parameters] if averaged else []
    start, recent = time.monotonic(), 0.0
    for step in range(steps):
        loss = loss_of_step(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if averaged:
            torch._foreach_lerp_(mean, [p.detach() for p in parameters], 1 - min(0.9985, (1 + step) / (10 + step)))
        recent += loss.item()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            done = (step % 100) + 1
            print(f"{name}: step {step + 1}/{steps}, loss {recent / done:.4f}, {time.monotonic() - start:.0f} s",
                  flush=True)
            recent = 0.0
    for parameter, value in zip(parameters, mean, strict=False):
        parameter.data.copy_(value)
