"""The subject task: learn one subject from a few pictures with prior preservation (DreamBooth, 2208.12242).

What all trials of a task share is computed once: the latents of the subject's pictures, the class pictures that the
backbone itself draws (kept on disk, so that workers and resumed runs share them), the embedded prompts, the features
of the real pictures. No augmentation but mirrored pictures where the task asks for them; the text encoder is frozen.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.backbones.names import unknown_words
from study.config import Protocol
from study.sampling import sample, start_latents
from study.scoring import Features, Scorers, encode, score
from study.tasks.cache import cached
from study.tasks.subject_spec import SubjectSpec
from study.tasks.task import Evaluation, Rows, Task, Wanted, image_rows
from study.training import Batch


@dataclass
class SubjectTask(Task[SubjectSpec]):
    """A subject task made ready for one backbone.

    Attributes
    ----------
    pictures : the real pictures, uint8 (N, size, size, 3).
    prior : latents of the class pictures, (P, C, h, w); none when the protocol gives the prior no weight.
    mirrored : latents of the pictures mirrored, as many as of the pictures; none unless the task has `flip`.
    real : features of the real pictures.
    """

    pictures: np.ndarray
    prior: Tensor
    mirrored: Tensor
    real: Features = field(default_factory=dict)

    def batches(self, seed: int, protocol: Protocol, begin: int = 0) -> Iterator[Batch]:
        """Make the endless batches of one seed: subject rows first, then prior rows, which weigh `prior_weight`.

        Mirrored pictures are pictures like the others: a shuffled round has every one both ways.
        """
        own = torch.cat([self.latents, self.mirrored])
        parts = [Rows(own, [self.spec.instance_prompt] * len(own), protocol.batch)]
        if len(self.prior):
            prompts = [self.spec.class_prompt] * len(self.prior)
            parts.append(Rows(self.prior, prompts, protocol.prior_batch, protocol.prior_weight, "prior "))
        return self.drawn(seed, parts, begin)

    def held_out(self) -> Batch:
        """Make the rows of the held-out loss: the real pictures at fixed timesteps and noise."""
        return self.noised_evenly(self.latents, [self.spec.instance_prompt] * len(self.latents))

    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged: the protocol's number of them, going round the prompts."""
        start, seeds = start_latents(self.backbone, seed, self.key, "picture", protocol.pictures)
        chosen = [index % len(self.spec.prompts) for index in range(protocol.pictures)]
        prompts = [self.spec.prompt(index) for index in chosen]
        return Wanted(prompts, [self.spec.described(index) for index in chosen], chosen, start, seeds)

    def judge(self, wanted: Wanted, pictures: np.ndarray, features: Features, scorers: Scorers) -> Evaluation:
        """Score a trial; see `Task.judge`."""
        missing = [scorer for scorer in scorers.values() if scorer.hash not in self.real]
        self.real |= encode(self.pictures, missing)
        totals, single = score(
            pictures, features, wanted.chosen, wanted.described, scorers, self.real, self.spec.subject
        )
        return Evaluation(totals, image_rows(wanted, single), list(pictures))


def prepare(spec: SubjectSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> SubjectTask:
    """Make a subject task ready; see `study.tasks.task.prepare`."""
    _warn_of_words(spec, backbone)
    pictures = spec.load_pictures(backbone.size)
    prior = torch.empty(0, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)
    if protocol.prior_weight > 0 and protocol.prior_batch > 0:
        prior = _class_latents(spec, backbone, protocol, cache_dir)
    # Encoded anew: an autoencoder does not turn mirrored pictures into mirrored latents.
    turned = pictures[:, :, ::-1].copy() if spec.flip else pictures[:0]
    latents = backbone.encode(np.concatenate([pictures, turned]))
    count = len(pictures)
    return SubjectTask(spec, backbone, latents[:count], pictures, prior, latents[count:])


def _class_latents(spec: SubjectSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> Tensor:
    """Latents of pictures of the class that the untuned backbone draws: (prior_pictures, C, h, w).

    The streams depend on the class prompt alone, so tasks of one class share their class pictures.
    """
    settings = protocol.sampler, protocol.sampling_steps, protocol.guidance, protocol.precision

    def drawn() -> Tensor:
        start, _ = start_latents(backbone, 0, spec.class_prompt, "class picture", protocol.prior_pictures)
        context = backbone.embed([spec.class_prompt] * protocol.prior_pictures)
        return backbone.encode(backbone.decode(sample(backbone, context, start, *settings)))

    key = [backbone.hash, spec.class_prompt, protocol.prior_pictures, *settings]
    return cached(cache_dir, "class", key, drawn).to(backbone.device, backbone.dtype)


def _warn_of_words(spec: SubjectSpec, backbone: Backbone) -> None:
    if backbone.source.kind == "builtin" and (unknown := unknown_words(backbone.source, spec.class_word)):
        warnings.warn(
            f"task {spec.name}: {backbone.name} has never seen the word {', '.join(unknown)}; its class pictures will "
            "not show the class. Take a class of the built-in world, for instance `class: robot`.",
            stacklevel=2,
        )
    if cut := backbone.too_long([spec.instance_prompt, *(spec.prompt(index) for index in range(len(spec.prompts)))]):
        warnings.warn(f"task {spec.name}: {backbone.name} reads only the beginning of the prompts {cut}.", stacklevel=2)
