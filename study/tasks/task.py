"""What training and scoring ask of a task that is ready for a backbone, and what every kind of task does alike.

A kind of task is a subclass of `Task` with a function `prepare(spec, backbone, protocol, cache_dir)` in a module of its
own, named after it; `prepare` here finds it. The loop, the packs and the scores name no kind.
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from study.backbones.loading import Backbone
from study.config import Protocol
from study.randomness import stream
from study.sampling import start_latents
from study.scoring import Features, Scorers
from study.tasks.specs import TaskSpec
from study.training import Batch

HELD_OUT_TIMESTEPS = 4
"""Timesteps a picture's held-out loss is taken at: the middles of as many equal parts of the schedule."""

Spec = TypeVar("Spec", bound=TaskSpec)


@dataclass(frozen=True)
class Wanted:
    """The pictures that a trial is to be judged by.

    Attributes
    ----------
    prompts : one a picture, (N,).
    described : the same in words that a text encoder knows which never saw the task: without a rare token.
    chosen : which of the task's prompts it is.
    start : latents that they start from, (N, C, h, w).
    seeds : the seed of each picture's start.
    condition : what each picture is to follow besides its prompt, (N, …); None if there is no such thing.
    """

    prompts: list[str]
    described: list[str]
    chosen: list[int]
    start: Tensor
    seeds: list[int]
    condition: Tensor | None = None


@dataclass
class Evaluation:
    """Scores of a trial, and what they were computed from.

    Attributes
    ----------
    scores : the trial's.
    images : one row a picture: prompt, prompt_index, picture_seed and its scores.
    pictures : uint8 (H, W, 3), in the order of `images`; those to keep, so the first of them or all.
    columns : what else the row says of the scores, such as the number of pictures they rest on.
    """

    scores: dict[str, float]
    images: list[dict[str, Any]]
    pictures: list[np.ndarray]
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows that a batch has of one set of pictures.

    Attributes
    ----------
    latents : of the pictures, (M, C, h, w).
    prompts : one a picture.
    count : rows a batch.
    weight : of the mean of their losses.
    purpose : what their random streams are called; no two sets of a task share it.
    condition : as `Batch.condition`, one a picture.
    """

    latents: Tensor
    prompts: Sequence[str]
    count: int
    weight: float = 1.0
    purpose: str = ""
    condition: Tensor | None = None


@dataclass
class Task(ABC, Generic[Spec]):
    """A task made ready for one backbone; made by `prepare`, shared by its trials.

    Attributes
    ----------
    spec : as declared.
    backbone : at the size of the task's pictures.
    latents : of the pictures that are trained on, (N, C, h, w).
    """

    beside_rate: ClassVar[float] = 3e-3
    """Learning rate of `trainables`: the task's, the same for all designs, so that these differ in nothing else."""

    spec: Spec
    backbone: Backbone
    latents: Tensor

    @property
    def key(self) -> str:
        """What keys the random streams: the task's content hash."""
        return self.spec.content_hash()

    @abstractmethod
    def batches(self, seed: int, protocol: Protocol, begin: int = 0) -> Iterator[Batch]:
        """Make the endless batches of one seed, all with the same number of rows; the first `begin` are left out."""

    @abstractmethod
    def held_out(self) -> Batch:
        """Make the rows of the held-out loss, which is their mean; they are the same for all seeds of the task."""

    @abstractmethod
    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged."""

    @abstractmethod
    def judge(self, wanted: Wanted, pictures: np.ndarray, features: Features, scorers: Scorers) -> Evaluation:
        """Score a trial's pictures.

        Parameters
        ----------
        pictures : those that were wanted, uint8 (N, H, W, 3).
        features : theirs.
        scorers : of the scores that this kind of task knows.
        """

    def trainables(self, seed: int) -> nn.Module | None:
        """Make what a trial trains besides its design, or None: it turns a row's condition into what is added to its
        first features, see `study.conditioning`, and is drawn from the seed."""
        return None

    def drawn(self, seed: int, parts: Sequence[Rows], begin: int = 0) -> Iterator[Batch]:
        """Draw the endless batches of one seed from sets of pictures: the rows of the first, then of the second, ….

        Pictures come in shuffled rounds. Every set and purpose has its own stream, so that a change of one leaves the
        rows of the others as they are. The loss is the weighted sum of the sets' mean losses. The first `begin` batches
        are drawn, so that the streams are where they would be, but not made.
        """
        backbone = self.backbone
        device, dtype = backbone.device, backbone.dtype
        weight = torch.cat([torch.full((part.count,), part.weight / part.count, dtype=dtype) for part in parts])
        weight = weight.to(device)
        draws = zip(*(self._draws(seed, part) for part in parts), strict=True)
        for drawn in itertools.islice(draws, begin, None):
            latents, noise, timesteps, prompts, conditions = [], [], [], [], []
            for part, (chosen, part_noise, steps) in zip(parts, drawn, strict=True):
                latents.append(part.latents[chosen])
                noise.append(part_noise)
                timesteps.append(backbone.times(steps))
                prompts += [part.prompts[index] for index in chosen]
                conditions += [part.condition[chosen]] if part.condition is not None else []
            yield Batch(
                torch.cat(latents),
                torch.cat(noise).to(device, dtype),
                torch.cat(timesteps).to(device),
                backbone.embed(prompts),
                weight,
                torch.cat(conditions) if conditions else None,
            )

    def _draws(self, seed: int, part: Rows) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Draw a set's pictures, noise and timesteps of each step, without end."""
        order = _rounds(len(part.latents), stream(seed, self.key, part.purpose + "order"))
        noises, times = (stream(seed, self.key, part.purpose + what) for what in ("noise", "timesteps"))
        while True:
            yield (
                [next(order) for _ in range(part.count)],
                torch.randn((part.count, *self.backbone.latent_shape), generator=noises),
                torch.randint(self.backbone.timesteps, (part.count,), generator=times),
            )

    def drawn_from(self, captions: Sequence[str], seed: int, count: int) -> Wanted:
        """Want pictures of captions, in an order that is the seed's, all of them before any comes again."""
        start, seeds = start_latents(self.backbone, seed, self.key, "picture", count)
        order = torch.randperm(len(captions), generator=stream(seed, self.key, "captions")).tolist()
        chosen = [order[index % len(order)] for index in range(count)]
        prompts = [captions[index] for index in chosen]
        return Wanted(prompts, prompts, chosen, start, seeds)

    def noised_evenly(self, latents: Tensor, prompts: Sequence[str], condition: Tensor | None = None) -> Batch:
        """Make the rows of a held-out loss: pictures at four timesteps each, at noise that is the task's."""
        backbone, times, count = self.backbone, HELD_OUT_TIMESTEPS, len(latents)
        middles = backbone.times((torch.arange(times) * 2 + 1) * backbone.timesteps // (2 * times)).to(backbone.device)
        noise = torch.randn((count * times, *backbone.latent_shape), generator=stream(0, self.key, "held-out noise"))
        return Batch(
            latents.repeat_interleave(times, 0),
            noise.to(backbone.device, backbone.dtype),
            middles.repeat(count),
            backbone.embed([prompt for prompt in prompts for _ in range(times)]),
            latents.new_full((count * times,), 1 / (count * times)),
            None if condition is None else condition.repeat_interleave(times, 0),
        )


def prepare(spec: TaskSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> Task[Any]:
    """Compute once what all trials of a task on a backbone share. The denoiser must be without adapters.

    Parameters
    ----------
    cache_dir : what workers and resumed runs share is read from here, and put here when it is not there yet.

    Raises
    ------
    InputFault : a picture cannot be read.
    """
    return import_module(f"study.tasks.{spec.kind}").prepare(spec, backbone, protocol, cache_dir)


def warn_if_cut(name: str, backbone: Backbone, captions: Sequence[str]) -> None:
    """Warn of captions that have more tokens than the text encoder reads."""
    if cut := backbone.too_long(list(dict.fromkeys(captions))):
        warnings.warn(
            f"task {name}: {backbone.name} reads only the beginning of {len(cut)} captions, such as {cut[0]!r}.",
            stacklevel=3,
        )


def image_rows(wanted: Wanted, scores: Sequence[Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """Put each picture's prompt and seed beside its scores, a row a picture."""
    told = zip(wanted.prompts, wanted.chosen, wanted.seeds, scores, strict=True)
    return [
        {"prompt": prompt, "prompt_index": index, "picture_seed": picture_seed, **own}
        for prompt, index, picture_seed, own in told
    ]


def _rounds(count: int, generator: Generator) -> Iterator[int]:
    """Yield 0 … count - 1 in a new order each round, without end."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
