"""The control task: draw pictures that follow a map and a caption (OFT, 2306.07280; TLoRA).

A small encoder of maps is trained beside the design, in every slot its own. The latents of the pictures and the maps
are computed once and kept on disk, so that workers and resumed runs share them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.conditioning import entry
from study.config import Protocol
from study.control_encoder import ControlEncoder
from study.randomness import stream
from study.scoring import Features, PartReader, Scorer, Scorers, prompt_fidelity
from study.tasks.cache import cached
from study.tasks.captioned import HELD_OUT_PICTURES, KEPT, in_parts
from study.tasks.control_spec import ControlSpec
from study.tasks.mapped import DrawnScenes
from study.tasks.task import Evaluation, Rows, Task, Wanted, image_rows, warn_if_cut
from study.training import Batch


@dataclass
class ControlTask(Task[ControlSpec]):
    """A control task made ready for one backbone.

    Attributes
    ----------
    maps : of the pictures that are trained on, uint8 (N, 3, H, W).
    held : latents of the first held-out pictures.
    held_maps : maps of all held-out pictures, uint8 (N, 3, H, W).
    """

    maps: Tensor
    held: Tensor
    held_maps: Tensor

    def batches(self, seed: int, protocol: Protocol, begin: int = 0) -> Iterator[Batch]:
        """Make the endless batches of one seed: pictures with their captions and maps."""
        rows = Rows(self.latents, self.spec.train.captions, protocol.batch, condition=self.maps)
        return self.drawn(seed, [rows], begin)

    def held_out(self) -> Batch:
        """Make the rows of the held-out loss: held-out pictures with their maps at fixed timesteps and noise."""
        count = len(self.held)
        return self.noised_evenly(self.held, self.spec.real.captions[:count], self.held_maps[:count])

    def wanted(self, seed: int, protocol: Protocol) -> Wanted:
        """Say by which pictures a trial is judged: held-out captions and maps, all before any comes again."""
        wanted = self.drawn_from(self.spec.real.captions, seed, protocol.pictures)
        return replace(wanted, condition=self.held_maps[wanted.chosen])

    def trainables(self, seed: int) -> ControlEncoder:
        """Make the encoder of maps that a trial trains beside its design."""
        backbone = self.backbone
        encoder = ControlEncoder(*encoder_form(backbone), stream(seed, self.key, "encoder"))
        return encoder.to(backbone.device, backbone.dtype)

    def judge(self, wanted: Wanted, pictures: np.ndarray, features: Features, scorers: Scorers) -> Evaluation:
        """Score a trial; see `Task.judge`. Pictures are compared with the true maps of the scenes that were wanted."""
        totals: dict[str, float] = {}
        single: list[dict[str, float | None]] = [{} for _ in wanted.prompts]
        followed: dict[str, np.ndarray] = {}
        for name, scorer in scorers.items():
            if isinstance(scorer, Scorer):
                values = prompt_fidelity(features[scorer.hash], scorer.texts(wanted.described)).numpy()
            else:
                assert isinstance(scorer, PartReader) and isinstance(self.spec.real, DrawnScenes)
                scenes = self.spec.real.scenes
                followed = followed or scorer.control(pictures, [scenes[index] for index in wanted.chosen])
                values = followed[name]
            totals[name] = float(values.mean())
            single = [{**own, name: float(value)} for own, value in zip(single, values, strict=True)]
        return Evaluation(totals, image_rows(wanted, single), list(pictures[:KEPT]))


def encoder_form(backbone: Backbone) -> tuple[int, int]:
    """Give the number of a denoiser's first features, and how often the autoencoder halves a picture."""
    return entry(backbone.denoiser).out_channels, int(backbone.pipeline.vae_scale_factor).bit_length() - 1


def prepare(spec: ControlSpec, backbone: Backbone, protocol: Protocol, cache_dir: Path) -> ControlTask:
    """Make a control task ready; see `study.tasks.task.prepare`."""
    own = backbone.at(spec.size)
    warn_if_cut(spec.name, own, [*spec.train.captions, *spec.real.captions])
    train, real, size = spec.train, spec.real, own.size
    key = [spec.content_hash(), size]

    def encoded() -> Tensor:
        return torch.cat([own.encode(part) for part in in_parts(train.load, len(train.captions), size)])

    def drawn() -> Tensor:
        return torch.cat([as_maps(part) for part in in_parts(train.load_maps, len(train.captions), size)])

    latents = cached(cache_dir, "control", [own.hash, *key, str(own.dtype)], encoded).to(own.device, own.dtype)
    maps = cached(cache_dir, "maps", key, drawn).to(own.device)
    held = own.encode(real.load(size, 0, HELD_OUT_PICTURES))
    held_maps = cached(cache_dir, "held-maps", key, lambda: as_maps(real.load_maps(size))).to(own.device)
    return ControlTask(spec, own, latents, maps, held, held_maps)


def as_maps(pictures: np.ndarray) -> Tensor:
    """Turn pictures of maps, uint8 (N, H, W, 3), into what the encoder takes: uint8 (N, 3, H, W)."""
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())  # a picture that was read cannot be written to
