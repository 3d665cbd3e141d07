"""The subject task: learn one subject from a few pictures with prior preservation (DreamBooth, 2208.12242).

What all trials of a task share is computed once: the latents of the subject's pictures, the class pictures that the
backbone itself draws (kept on disk, so that workers and resumed runs share them), the embedded prompts, the features
of the real pictures. No augmentation; the text encoder is frozen.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Generator, Tensor

from study.backbones.loading import Backbone
from study.backbones.names import unknown_words
from study.config import Protocol
from study.randomness import stream
from study.sampling import sample, start_latents
from study.scoring import AnyScorer, Features, encode, score
from study.tasks.specs import TaskSpec
from study.training import Batch

HELD_OUT_TIMESTEPS = 4
"""Timesteps a picture's held-out loss is taken at: the middles of as many equal parts of the schedule."""


@dataclass(frozen=True)
class Wanted:
    """The pictures that a trial is to be judged by.

    Attributes
    ----------
    prompts : one a picture, (N,).
    described : the same without the rare token.
    chosen : which of the task's prompts it is.
    start : latents that they start from, (N, C, h, w).
    seeds : the seed of each picture's start.
    """

    prompts: list[str]
    described: list[str]
    chosen: list[int]
    start: Tensor
    seeds: list[int]


@dataclass
class Evaluation:
    """Scores of a trial, and what they were computed from.

    Attributes
    ----------
    scores : the trial's.
    images : one row a picture: prompt, prompt_index, picture_seed and its scores.
    pictures : uint8 (H, W, 3), in the order of `images`.
    """

    scores: dict[str, float]
    images: list[dict[str, Any]]
    pictures: list[np.ndarray]


@dataclass
class SubjectTask:
    """A subject task made ready for one backbone; made by `prepare`, shared by its trials.

    Attributes
    ----------
    pictures : the real pictures, uint8 (N, size, size, 3).
    latents : theirs, (N, C, h, w).
    prior : latents of the class pictures, (P, C, h, w); none when the protocol gives the prior no weight.
    real : features of the real pictures.
    """

    spec: TaskSpec
    backbone: Backbone
    pictures: np.ndarray
    latents: Tensor
    prior: Tensor
    real: Features = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What keys the random streams: the task's content hash."""
        return self.spec.content_hash()

    def batches(self, seed: int, protocol: Protocol) -> Iterator[Batch]:
        """Make the endless batches of one seed: subject rows first, then prior rows.

        Pictures come in shuffled rounds. Every purpose has its own stream, so a change of the prior's batch leaves the
        subject's rows as they are. The loss is the subject rows' mean plus `prior_weight` times the prior rows' mean.
        """
        parts = [(self.latents, protocol.batch, 1.0, self.spec.instance_prompt, "")]
        if len(self.prior):
            rows = protocol.prior_batch
            parts.append((self.prior, rows, protocol.prior_weight, self.spec.class_prompt, "prior "))
        device, dtype = self.backbone.device, self.backbone.dtype
        weight = torch.cat([torch.full((rows,), share / rows, dtype=dtype) for _, rows, share, _, _ in parts])
        weight = weight.to(device)
        prompts = [prompt for _, rows, _, prompt, _ in parts for _ in range(rows)]
        orders = [_rounds(len(kept), stream(seed, self.key, purpose + "order")) for kept, *_, purpose in parts]
        noises = [stream(seed, self.key, purpose + "noise") for *_, purpose in parts]
        times = [stream(seed, self.key, purpose + "timesteps") for *_, purpose in parts]
        while True:
            latents, noise, timesteps = [], [], []
            for (kept, rows, *_), order, noise_stream, time_stream in zip(parts, orders, noises, times, strict=True):
                latents.append(kept[[next(order) for _ in range(rows)]])
                noise.append(torch.randn((rows, *self.backbone.latent_shape), generator=noise_stream))
                timesteps.append(torch.randint(self.backbone.timesteps, (rows,), generator=time_stream))
            yield Batch(
                torch.cat(latents),
                torch.cat(noise).to(device, dtype),
                torch.cat(timesteps).to(device),
                self.backbone.embed(prompts),
                weight,
            )

    def held_out(self) -> Batch:
        """Make the rows of the held-out loss, which is their mean: the real pictures at fixed timesteps and noise.

        They are the same for all seeds of the task.
        """
        backbone, times, count = self.backbone, HELD_OUT_TIMESTEPS, len(self.latents)
        middles = ((torch.arange(times) * 2 + 1) * backbone.timesteps // (2 * times)).to(backbone.device)
        noise = torch.randn((count * times, *backbone.latent_shape), generator=stream(0, self.key, "held-out noise"))
        return Batch(
            self.latents.repeat_interleave(times, 0),
            noise.to(backbone.device, backbone.dtype),
            middles.repeat(count),
            backbone.embed([self.spec.instance_prompt] * (count * times)),
            self.latents.new_full((count * times,), 1 / (count * times)),
        )

    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged: the protocol's number of them, going round the prompts."""
        start, seeds = start_latents(self.backbone, seed, self.key, "picture", protocol.pictures)
        chosen = [index % len(self.spec.prompts) for index in range(protocol.pictures)]
        prompts = [self.spec.prompt(index) for index in chosen]
        return Wanted(prompts, [self.spec.described(index) for index in chosen], chosen, start, seeds)

    def judge(
        self,
        wanted: Wanted,
        pictures: np.ndarray,
        features: Features,
        scorers: dict[str, AnyScorer],
        loss_heldout: float,
    ) -> Evaluation:
        """Score a trial.

        Parameters
        ----------
        pictures : those that were wanted, uint8 (N, H, W, 3).
        features : theirs.
        """
        missing = [scorer for scorer in scorers.values() if scorer.hash not in self.real]
        self.real |= encode(self.pictures, missing)
        totals, single = score(
            pictures, features, wanted.chosen, wanted.described, scorers, self.real, self.spec.subject
        )
        totals["loss_heldout"] = loss_heldout
        images = [
            {"prompt": prompt, "prompt_index": index, "picture_seed": picture_seed, **scores}
            for prompt, index, picture_seed, scores in zip(
                wanted.prompts, wanted.chosen, wanted.seeds, single, strict=True
            )
        ]
        return Evaluation(totals, images, list(pictures))


def prepare(spec: TaskSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> SubjectTask:
    """Compute once what all trials of a task on a backbone share. The denoiser must be without adapters.

    Parameters
    ----------
    cache_dir : class pictures are read from here, and put here when they are not there yet.

    Raises
    ------
    InputFault : a picture cannot be read.
    """
    _warn_of_words(spec, backbone)
    pictures = spec.load_pictures(backbone.size)
    prior = torch.empty(0, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)
    if protocol.prior_weight > 0 and protocol.prior_batch > 0:
        prior = _class_latents(spec, backbone, protocol, cache_dir)
    return SubjectTask(spec, backbone, pictures, backbone.encode(pictures), prior)


def _class_latents(spec: TaskSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> Tensor:
    """Latents of pictures of the class that the untuned backbone draws: (prior_pictures, C, h, w).

    The streams depend on the class prompt alone, so tasks of one class share their class pictures.
    """
    settings = protocol.sampler, protocol.sampling_steps, protocol.guidance, protocol.precision
    key = [backbone.hash, spec.class_prompt, protocol.prior_pictures, *settings]
    file = cache_dir / f"class-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"
    if not file.is_file() or _read(file) is None:
        start, _ = start_latents(backbone, 0, spec.class_prompt, "class picture", protocol.prior_pictures)
        context = backbone.embed([spec.class_prompt] * protocol.prior_pictures)
        drawn = sample(backbone, context, start, *settings)
        _write(file, backbone.encode(backbone.decode(drawn)))
    latents = _read(file)
    assert latents is not None
    return latents.to(backbone.device, backbone.dtype)


def _read(file: Path) -> Tensor | None:
    """Read cached latents; a file that is cut off or is something else counts as not there.

    Read whole, not mapped into memory: on a network file system a mapped file that is replaced is lost.
    """
    try:
        return load(file.read_bytes())["latents"]
    except (SafetensorError, KeyError):
        return None


def _write(file: Path, latents: Tensor) -> None:
    """Write under a temporary name, sync, rename: another worker sees the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".making-")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(save({"latents": latents.cpu().contiguous()}))
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rounds(count: int, generator: Generator) -> Iterator[int]:
    """Yield 0 … count - 1 in a new order each round, without end."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _warn_of_words(spec: TaskSpec, backbone: Backbone) -> None:
    if backbone.source.kind == "builtin" and (unknown := unknown_words(backbone.source, spec.class_word)):
        warnings.warn(
            f"task {spec.name}: {backbone.name} has never seen the word {', '.join(unknown)}; its class pictures will "
            "not show the class. Take a class of the built-in world, for instance `class: robot`.",
            stacklevel=2,
        )
    if cut := backbone.too_long([spec.instance_prompt, *(spec.prompt(index) for index in range(len(spec.prompts)))]):
        warnings.warn(f"task {spec.name}: {backbone.name} reads only the beginning of the prompts {cut}.", stacklevel=2)
