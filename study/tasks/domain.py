"""The domain task: learn a whole set of captioned pictures (DiffFit, 2304.06648), and draw what is held out of it.

The latents of the pictures, and the features of those held out, are computed once and kept on disk, so that workers and
resumed runs share them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.config import Protocol
from study.distributions import fid, kid, precision_recall
from study.scoring import Features, Scorer, Scorers, prompt_fidelity
from study.tasks.cache import cached
from study.tasks.captioned import HELD_OUT_PICTURES, KEPT, in_parts
from study.tasks.domain_spec import DISTRIBUTION, DomainSpec
from study.tasks.task import Evaluation, Rows, Task, Wanted, image_rows, warn_if_cut
from study.training import Batch


@dataclass
class DomainTask(Task[DomainSpec]):
    """A domain task made ready for one backbone.

    Attributes
    ----------
    held : latents of the first held-out pictures.
    cache_dir : where features are kept.
    real : features of all held-out pictures.
    """

    held: Tensor
    cache_dir: Path
    real: Features = field(default_factory=dict)

    def batches(self, seed: int, protocol: Protocol, begin: int = 0) -> Iterator[Batch]:
        """Make the endless batches of one seed: pictures with their captions."""
        return self.drawn(seed, [Rows(self.latents, self.spec.train.captions, protocol.batch)], begin)

    def held_out(self) -> Batch:
        """Make the rows of the held-out loss: held-out pictures at fixed timesteps and noise."""
        return self.noised_evenly(self.held, self.spec.real.captions[: len(self.held)])

    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged: drawn from held-out captions, all of them before any comes again."""
        return self.drawn_from(self.spec.real.captions, seed, protocol.pictures)

    def judge(self, wanted: Wanted, pictures: np.ndarray, features: Features, scorers: Scorers) -> Evaluation:
        """Score a trial; see `Task.judge`. Sets of pictures are compared with all that are held out."""
        totals, columns = dict[str, float](), dict[str, float]()
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
        size, real = self.backbone.size, self.spec.real

        def encoded() -> Tensor:
            return torch.cat([scorer.images(part) for part in in_parts(real.load, len(real.captions), size)])

        if scorer.hash not in self.real:
            key = [scorer.hash, self.key, size]
            self.real[scorer.hash] = cached(self.cache_dir, "features", key, encoded)
        return self.real[scorer.hash]


def prepare(spec: DomainSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> DomainTask:
    """Make a domain task ready; see `study.tasks.task.prepare`."""
    own, train = backbone.at(spec.size), spec.train
    warn_if_cut(spec.name, own, [*train.captions, *spec.real.captions])

    def encoded() -> Tensor:
        return torch.cat([own.encode(part) for part in in_parts(train.load, len(train.captions), own.size)])

    latents = cached(cache_dir, "domain", [own.hash, spec.content_hash(), own.size, str(own.dtype)], encoded)
    held = own.encode(spec.real.load(own.size, 0, HELD_OUT_PICTURES))
    return DomainTask(spec, own, latents.to(own.device, own.dtype), held, cache_dir)
