"""The training loop: denoising loss, AdamW, constant learning rate, a divergence check, for a pack of trials at once.

It names no task, no method and no backbone: a task makes the batches, an insertion gives the parameters, a backbone
says what a denoiser should predict. Every slot has its own batches, learning rate and loss, and what becomes of one
changes nothing for the others. Limits: no gradient accumulation, clipping or schedule.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from study.updates import updates

PRECISIONS = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bf16": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precision of a protocol to the type the frozen weights are held in. What is trained is in float32 at least."""

COMPUTED = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision of a protocol to the type that is computed in where autocast says it is safe."""

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

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the target."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes
    ----------
    latents, noise : (N, C, h, w), unit free.
    timesteps : (N,), as the denoiser is told them.
    context : (N, tokens, width).
    weight : (N,); the loss is the sum over rows of weight times the row's mean squared error.
    condition : (N, …) what each row is to follow besides its text; None if there is no such thing.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor
    weight: Tensor
    condition: Tensor | None = None

    def split(self, size: int) -> "list[Batch]":
        """Part the rows into batches of at most so many."""
        columns = [getattr(self, each.name) for each in fields(self)]
        parts = [[None] * -(-len(self.weight) // size) if rows is None else rows.split(size) for rows in columns]
        return [Batch(*own) for own in zip(*parts, strict=True)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Put the rows of several batches into one, in their order; all of them have conditions, or none."""
    if len(batches) == 1:
        return batches[0]
    columns: list[Any] = [[getattr(batch, each.name) for batch in batches] for each in fields(Batch)]
    whole: list[Any] = [None if parts[0] is None else torch.cat(parts) for parts in columns]
    return Batch(*whole)


@dataclass(frozen=True)
class Slot:
    """One trial of the loop.

    Attributes
    ----------
    parameters : what is updated (see `study.updates`); each must be there once.
    batches : one a step, all with the same number of rows.
    beside, beside_rate : what is trained beside the design, such as an encoder of maps, and its learning rate.
    penalty : what its method adds to the loss of every step; it is no part of the losses that are recorded.
    """

    parameters: Sequence[nn.Parameter]
    batches: Iterator[Batch]
    learning_rate: float
    penalty: Callable[[], Tensor | None] = lambda: None
    beside: Sequence[nn.Parameter] = ()
    beside_rate: float = 0.0

    @property
    def every(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.parameters, *self.beside]


@dataclass(frozen=True)
class Trained:
    """How the training of a slot ended.

    Attributes
    ----------
    diverged : why the training is called diverged, or "".
    ended : whether a halt ended it.
    steps : how many were done.
    final_loss : mean loss of the last 20 steps; NaN when diverged or ended, or when nothing was trained.
    curve : rows of `step` (from 1) and `loss` (mean over the steps since the last row).
    seconds : of the loop without its halts, divided by the slots that it trained.
    """

    diverged: str = ""
    ended: bool = False
    steps: int = 0
    final_loss: float = float("nan")
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Halts:
    """Where training halts, and what is decided there.

    Attributes
    ----------
    after : numbers of steps.
    decide : given the steps done and the slots that are trained and sound, says which of these end there. It may use
        the denoiser, and must change nothing that is trained.
    """

    after: Collection[int]
    decide: Callable[[int, Sequence[int]], Collection[int]]


RowsOf = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Given the slot of every row of a batch, opens the context in which a denoiser treats each row as its slot's."""


def unpacked(slot_of_row: Sequence[int]) -> AbstractContextManager[None]:
    """Open a context for a denoiser that treats all rows alike."""
    return nullcontext()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Open the context a protocol's precision asks for: autocast to a type of half the bytes, or nothing."""
    return torch.autocast(device.type, dtype=COMPUTED.get(precision, torch.bfloat16), enabled=precision in COMPUTED)


def row_losses(denoiser: Denoiser, batch: Batch) -> Tensor:
    """Mean squared error of the prediction, for each row: (N,)."""
    noisy = denoiser.noised(batch.latents, batch.noise, batch.timesteps)
    wanted = denoiser.target(batch.latents, batch.noise, batch.timesteps)
    condition = () if batch.condition is None else (batch.condition,)
    predicted = denoiser.predict(noisy, batch.timesteps, batch.context, *condition).to(wanted.dtype)
    return (predicted - wanted).square().flatten(1).mean(1)


def train(
    denoiser: Denoiser,
    slots: Sequence[Slot],
    steps: int,
    precision: str = "float32",
    rows: RowsOf = unpacked,
    progress: Callable[[int], None] | None = None,
    halts: Halts | None = None,
) -> list[Trained]:
    """Train the parameters of all slots for `steps` steps, in place.

    A slot whose loss is not finite is left out from the next look on, and one that a halt ends from there; one without
    parameters is not trained at all.

    Parameters
    ----------
    rows : as `RowsOf` says; an insertion's.
    progress : called with the number of steps done, now and then.

    Returns
    -------
    One for each slot.

    Raises
    ------
    ValueError : a parameter is given twice (its updates would be doubled).
    """
    every = [parameter for slot in slots for parameter in slot.every]
    if len({id(parameter) for parameter in every}) != len(every):
        raise ValueError("a parameter was given to the optimiser twice; every parameter must be there once")
    trained = [index for index, slot in enumerate(slots) if slot.every]
    if not trained:
        return [Trained() for _ in slots]
    own_updates = updates(slots, precision, denoiser.device)
    losses = torch.zeros(steps, len(slots), device=denoiser.device, dtype=torch.float64)
    start = time.perf_counter()
    active, last = list(trained), dict.fromkeys(trained, 0)
    ended: set[int] = set()
    owners: list[int] = []
    owner = torch.empty(0)
    for done in range(1, steps + 1):
        batches = [next(slots[index].batches) for index in active]
        now = [index for index, batch in zip(active, batches, strict=True) for _ in batch.weight]
        if now != owners:
            owners, owner = now, torch.tensor(now, device=denoiser.device)
        batch = joined(batches)
        with rows(owners):  # the backward pass too, in which checkpointed blocks are computed anew
            with autocast(denoiser.device, precision):
                weighted = row_losses(denoiser, batch).mul(batch.weight)
            own = weighted.new_zeros(len(slots)).index_add(0, owner, weighted)
            penalties = {index: extra for index in active if (extra := slots[index].penalty()) is not None}
            own_updates.backward(own, penalties)
        own_updates.step(active)
        losses[done - 1] = own.detach()
        last.update(dict.fromkeys(active, done))
        if halts is not None and done in halts.after:
            halted = time.perf_counter()
            sound = [index for index in active if not _divergence(losses[:done, index], slots[index].every)]
            ended.update(halts.decide(done, sound))
            active = [index for index in active if index not in ended]
            start += time.perf_counter() - halted
            if not active:
                break
        if done % LOOK_EVERY == 0 or done == steps:
            seen = losses[max(0, done - LOOK_EVERY) : done].isfinite().all(0).tolist()
            active = [index for index in active if seen[index]]
            if not active:
                break
            if progress is not None:
                progress(done)
    seconds = (time.perf_counter() - start) / len(trained)
    seen_losses = losses.cpu()
    return [
        _ended(seen_losses[: last[index], index], slot.every, index in ended, seconds) if index in last else Trained()
        for index, slot in enumerate(slots)
    ]


def _ended(losses: Tensor, parameters: Sequence[nn.Parameter], ended: bool, seconds: float) -> Trained:
    return Trained(
        diverged=_divergence(losses, parameters),
        ended=ended,
        steps=len(losses),
        final_loss=float("nan") if ended or not losses.isfinite().all() else float(losses[-LAST:].mean()),
        curve=_thinned(losses),
        seconds=seconds,
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
