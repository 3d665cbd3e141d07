"""What every training here shares: pictures as tensors, a resumable loop, averaged weights, progress lines."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CHECKPOINT_EVERY = 200
DECAY = 0.25
"""Share of the steps, at the end, over which the learning rate falls to nothing."""


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def optimise(name: str, modules: Sequence[torch.nn.Module], loss_of: Callable[[int, int], Tensor], steps: int,
             learning_rate: float, folder: Path, shards: int = 1, minutes: float | None = None, warm_up: int = 100,
             every: int | None = None) -> None:
    """Minimise a loss by AdamW; the modules end with the exponential mean of their weights.

    The rate is constant after a warm-up and decays linearly at the end. Every few hundred steps all that the
    loop needs is written to `folder`, and a loop of the same name goes on from there: with the same number of steps as
    if it had never stopped, provided that the loss draws from streams keyed by the step.

    Parameters
    ----------
    name : str
        For the checkpoint and the progress lines.
    modules : sequence of torch.nn.Module
        Trained in place.
    loss_of : callable
        Step and shard number to a scalar loss. The gradients of a step's shards are averaged.
    steps : int
        Number of steps.
    learning_rate : float
        Its peak.
    folder : Path
        Where checkpoints are kept.
    shards : int
        Parts of a batch, each on a thread of its own: with small layers that keeps cores busier than splitting every
        operation over them. The number belongs to the recipe, so the result does not depend on the machine.
    minutes : float, optional
        Time for the whole training, all its parts together. With it, time and no longer the number of steps says how
        far the training is, and so when the rate falls and when it ends.
    warm_up : int
        Steps over which the rate rises.
    every : int, optional
        Steps between checkpoints (default: `CHECKPOINT_EVERY`).
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    mean = [p.detach().clone() for p in parameters]
    file = folder / f"{name}.safetensors"
    first, before = _resume(file, parameters, mean, optimiser) if file.exists() else (0, 0.0)
    every = every or CHECKPOINT_EVERY
    threads = ThreadPoolExecutor(shards)
    start = time.monotonic()
    recent: list[Tensor] = []
    for step in count(first):
        seconds = before + time.monotonic() - start
        done = step / steps if minutes is None else seconds / (60 * minutes)
        if done >= 1:
            break
        rate = learning_rate * min((step + 1) / warm_up, 1, max((1 - done) / DECAY, 0.01))
        for group in optimiser.param_groups:
            group["lr"] = rate
        parts = list(threads.map(partial(_gradients, loss_of, parameters, step), range(shards)))
        for i, parameter in enumerate(parameters):
            own = [gradients[i] for _, gradients in parts]
            parameter.grad = torch.stack(own).mean(0) if shards > 1 else own[0]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(mean, [p.detach() for p in parameters], 1 - min(0.9985, (1 + step) / (10 + step)))
        # Losses are read only now and then: reading one waits until the device has done all that it was given.
        recent.append(torch.stack([loss for loss, _ in parts]).mean())
        if (step + 1) % every == 0:
            _checkpoint(file, step + 1, seconds, parameters, mean, optimiser)
        if (step + 1) % CHECKPOINT_EVERY == 0 or (minutes is None and step + 1 == steps):
            goal = f"/{steps}" if minutes is None else ""
            print(f"{name}: step {step + 1}{goal}, loss {torch.stack(recent).mean():.4f}, rate {rate:.2g}, "
                  f"{seconds:.0f} s", flush=True)
            recent = []
    if step > first:
        _checkpoint(file, step, seconds, parameters, mean, optimiser)
    threads.shutdown()
    for parameter, value in zip(parameters, mean, strict=True):
        parameter.data.copy_(value)


def _gradients(loss_of: Callable[[int, int], Tensor], parameters: list[torch.nn.Parameter], step: int,
               shard: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    loss = loss_of(step, shard)
    return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def _checkpoint(file: Path, step: int, seconds: float, parameters: list, mean: list[Tensor],
                optimiser: torch.optim.Optimizer) -> None:
    tensors = {"step": torch.tensor(step), "seconds": torch.tensor(seconds)}
    for i, (parameter, value) in enumerate(zip(parameters, mean, strict=True)):
        state = optimiser.state[parameter]
        tensors |= {f"{i}.value": parameter.detach(), f"{i}.mean": value, f"{i}.first": state["exp_avg"],
                    f"{i}.second": state["exp_avg_sq"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    making = file.with_suffix(".making")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, making)
    making.replace(file)


def _resume(file: Path, parameters: list, mean: list[Tensor], optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    tensors = load_file(file)
    for i, (parameter, value) in enumerate(zip(parameters, mean, strict=True)):
        parameter.data.copy_(tensors[f"{i}.value"])
        value.copy_(tensors[f"{i}.mean"])
        optimiser.state[parameter] = {"step": tensors["step"].float(),
                                      "exp_avg": tensors[f"{i}.first"].to(parameter.device),
                                      "exp_avg_sq": tensors[f"{i}.second"].to(parameter.device)}
    return int(tensors["step"]), tensors["seconds"].item()
