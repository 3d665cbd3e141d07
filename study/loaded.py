"""What a worker process keeps loaded from pack to pack."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from study.backbones.loading import Backbone, load
from study.backbones.names import OWN, SEGMENTER, WORLD
from study.checkpoints import Notice
from study.config import Protocol
from study.packing import Packing
from study.saving import Saving
from study.scoring import AnyScorer, PartReader, PredictedNoise, TrueColours, load_scorer
from study.tasks.specs import TaskSpec
from study.tasks.task import Task, prepare
from study.training import PRECISIONS


class Worker:
    """What stays loaded between packs: backbones, prepared tasks, scorers; and how many trials are trained together.

    Parameters
    ----------
    device : where to train; None takes the GPU if there is one, else the CPU.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda":
            _reproducible()
        self.saving = Saving.of_environment()
        self.packing = Packing(self.device)
        self.beat: Callable[[], object] = silent
        self.notice = Notice()
        self._backbones: dict[tuple[str, torch.dtype], Backbone] = {}
        self._tasks: dict[str, Task[Any]] = {}
        self._scorers: dict[str, AnyScorer | PredictedNoise] = {}

    def backbone(self, name: str | dict[str, Any], precision: str) -> Backbone:
        """Give a backbone by name, in the type its weights have under a precision."""
        key = json.dumps(name, sort_keys=True), PRECISIONS[precision]
        if key not in self._backbones:
            self._backbones[key] = load(name, self.device, PRECISIONS[precision], self.saving)
            self._backbones[key].denoiser.register_forward_pre_hook(lambda *_: self._tell())
        return self._backbones[key]

    def _tell(self) -> None:
        self.beat()  # whoever uses the denoiser: what draws for an hour must not look as if it hung

    def scorer(self, name: str | dict[str, Any]) -> AnyScorer | PredictedNoise:
        """Give a scorer by name."""
        key = json.dumps(name, sort_keys=True)
        if key not in self._scorers:
            self._scorers[key] = _load_scorer(name, self.device)
        return self._scorers[key]

    def task(self, spec: TaskSpec, backbone: Backbone, protocol: Protocol, store: str) -> Task[Any]:
        """Give a task prepared for a backbone; the denoiser must be without adapters."""
        prior = [protocol.prior_weight > 0, protocol.prior_batch > 0, protocol.prior_pictures]
        sampling = [protocol.sampler, protocol.sampling_steps, protocol.guidance, protocol.precision]
        key = json.dumps([spec.to_json(), spec.content_hash(), backbone.hash, str(backbone.dtype), prior, sampling])
        if key not in self._tasks:
            self._tasks[key] = prepare(spec, backbone, protocol, Path(store) / "cache")
        return self._tasks[key]


def silent() -> None:
    """Tell nothing."""


def _reproducible() -> None:
    """Make a GPU give the same bits for the same pack, and float32 what it says: TensorFloat-32 has 10 bits."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _load_scorer(name: str | dict[str, Any], device: torch.device) -> AnyScorer | PredictedNoise:
    if name == WORLD:
        return TrueColours()
    if name == SEGMENTER:
        return PartReader()
    return PredictedNoise() if name == OWN else load_scorer(name, device)
