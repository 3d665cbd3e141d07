"""The domain task: learn a whole set of captioned pictures (DiffFit, 2304.06648), and draw what is held out of it.

The latents of the pictures, and the features of those held out, are computed once and kept on disk, so that workers and
resumed runs share them.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.config import Protocol
from study.distributions import fid, kid, precision_recall
from study.randomness import stream
from study.sampling import start_latents
from study.scoring import AnyScorer, Features, Scorer, prompt_fidelity
from study.tasks.cache import cached
from study.tasks.captioned import Captioned
from study.tasks.domain_spec import DISTRIBUTION, DomainSpec
from study.tasks.task import Evaluation, Rows, Task, Wanted, image_rows
from study.training import Batch

HELD_OUT_PICTURES = 16
"""Held-out pictures that the held-out loss is taken over."""

KEPT = 64
"""Generated pictures of a trial that are kept, the first; all of them are scored."""

AT_ONCE = 256
"""Real pictures that are in memory at once."""


@dataclass
class DomainTask(Task[DomainSpec]):
    """A domain task made ready for one backbone.

    Attributes
    ----------
    latents : of the pictures that are trained on, (N, C, h, w).
    held : latents of the first held-out pictures.
    cache_dir : where features are kept.
    real : features of all held-out pictures.
    """

    latents: Tensor
    held: Tensor
    cache_dir: Path
    real: Features = field(default_factory=dict)

    def batches(self, seed: int, protocol: Protocol) -> Iterator[Batch]:
        """Make the endless batches of one seed: pictures with their captions."""
        return self.drawn(seed, [Rows(self.latents, self.spec.train.captions, protocol.batch)])

    def held_out(self) -> Batch:
        """Make the rows of the held-out loss: held-out pictures at fixed timesteps and noise."""
        return self.noised_evenly(self.held, self.spec.real.captions[: len(self.held)])

    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged: drawn from held-out captions, all of them before any comes again."""
        captions, count = self.spec.real.captions, protocol.pictures
        start, seeds = start_latents(self.backbone, seed, self.key, "picture", count)
        order = torch.randperm(len(captions), generator=stream(seed, self.key, "captions")).tolist()
        chosen = [order[index % len(order)] for index in range(count)]
        prompts = [captions[index] for index in chosen]
        return Wanted(prompts, prompts, chosen, start, seeds)

    def judge(
        self,
        wanted: Wanted,
        pictures: np.ndarray,
        features: Features,
        scorers: Mapping[str, AnyScorer],
        loss_heldout: float,
    ) -> Evaluation:
        """Score a trial; see `Task.judge`. Sets of pictures are compared with all that are held out."""
        totals, columns = {"loss_heldout": loss_heldout}, dict[str, float]()
        single: list[dict[str, float | None]] = [{} for _ in wanted.prompts]
        found: dict[str, tuple[float, float]] = {}
        for name, scorer in scorers.items():
            assert isinstance(scorer, Scorer)
            generated = features[scorer.hash]
            if name not in DISTRIBUTION:
                values = prompt_fidelity(generated, scorer.texts(wanted.described)).tolist()
                totals[name] = float(np.mean(values))
                single = [{**own, name: value} for own, value in zip(single, values, strict=True)]
                continue
            real = self._real(scorer)
            if name == "fid":
                totals[name], columns["fid_n"] = fid(real, generated), len(generated)
            elif name == "kid":
                totals[name], columns["kid_sd"] = kid(real, generated)
            else:
                if scorer.hash not in found:
                    found[scorer.hash] = precision_recall(real, generated)
                totals[name] = found[scorer.hash][name == "recall"]
        return Evaluation(totals, image_rows(wanted, single), list(pictures[:KEPT]), columns)

    def _real(self, scorer: Scorer) -> Tensor:
        size = self.backbone.size

        def encoded() -> Tensor:
            return torch.cat([scorer.images(part) for part in _parts(self.spec.real, size)])

        if scorer.hash not in self.real:
            key = [scorer.hash, self.key, size]
            self.real[scorer.hash] = cached(self.cache_dir, "features", key, encoded)
        return self.real[scorer.hash]


def prepare(spec: DomainSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> DomainTask:
    """Make a domain task ready; see `study.tasks.task.prepare`."""
    own = backbone.at(spec.size)
    captions = list(dict.fromkeys([*spec.train.captions, *spec.real.captions]))
    if cut := own.too_long(captions):
        warnings.warn(
            f"task {spec.name}: {own.name} reads only the beginning of {len(cut)} captions, such as {cut[0]!r}.",
            stacklevel=2,
        )

    def encoded() -> Tensor:
        return torch.cat([own.encode(part) for part in _parts(spec.train, own.size)])

    latents = cached(cache_dir, "domain", [own.hash, spec.content_hash(), own.size, str(own.dtype)], encoded)
    held = own.encode(spec.real.load(own.size, 0, HELD_OUT_PICTURES))
    return DomainTask(spec, own, latents.to(own.device, own.dtype), held, cache_dir)


def _parts(captioned: Captioned, size: int) -> Iterator[np.ndarray]:
    """Yield the pictures, a few hundred at a time."""
    for begin in range(0, len(captioned.captions), AT_ONCE):
        yield captioned.load(size, begin, begin + AT_ONCE)
