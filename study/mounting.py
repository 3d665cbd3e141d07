"""Put the trials that are trained together on one denoiser, each in a slot of its own, and take them off again."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import adapters
from study.backbones.loading import Backbone
from study.conditioning import Conditioned
from study.randomness import stream
from study.tasks.task import Task
from study.training import Batch, RowsOf
from study.trial import Trial


@dataclass(frozen=True)
class Ready:
    """A trial whose inputs are loaded and whose design fits the backbone."""

    trial: Trial
    task: Task[Any]
    size: dict[str, Any]
    class_latents: Tensor | None = None

    @property
    def backbone(self) -> Backbone:
        """The task's, at the size of its pictures."""
        return self.task.backbone

    def batches(self, begin: int = 0) -> Iterator[Batch]:
        """Make what the trial is trained on, without end; the first `begin` batches are left out."""
        return self.task.batches(self.trial.seed, self.trial.protocol, begin)


@dataclass(frozen=True)
class Mounted:
    """What is trained of a pack while it is on the denoiser."""

    insertion: adapters.Insertion
    backbone: Backbone | Conditioned
    rows: RowsOf
    encoders: list[nn.Module | None]

    def beside(self, slot: int) -> list[nn.Parameter]:
        """What a slot trains besides its design."""
        encoder = self.encoders[slot]
        return [] if encoder is None else list(encoder.parameters())

    def parameters(self, slot: int) -> list[nn.Parameter]:
        """All that a slot trains."""
        return [*self.insertion.parameters(slot), *self.beside(slot)]


@contextlib.contextmanager
def mount(part: Sequence[Ready]) -> Iterator[Mounted]:
    """Have the designs of trials on their denoiser, and what is trained beside them, while the context lasts."""
    backbone = part[0].backbone
    insertion = adapters.insert(
        backbone.denoiser,
        [each.trial.design for each in part],
        [stream(each.trial.seed, each.task.key, "init") for each in part],
        backbone.text_encoder,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(insertion.remove)
        undo.enter_context(backbone.tuned_text(insertion.tunes_text))
        encoders = [
            each.task.trainables(each.trial.seed) if insertion.parameters(slot) else None
            for slot, each in enumerate(part)
        ]
        if any(encoder is not None for encoder in encoders):
            conditioned = Conditioned(backbone, encoders, insertion.rows)
            yield Mounted(insertion, conditioned, conditioned.rows, encoders)
        else:
            yield Mounted(insertion, backbone, insertion.rows, encoders)
