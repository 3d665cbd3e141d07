"""Run a pack of trials in a worker: train, evaluate, hand each result to a sink as it ends.

The trials are trained one after another, each with the denoiser to itself. A trial that fails, diverges or does not fit
into memory is a result like any other and leaves nothing behind for the next.
"""

import contextlib
import json
import logging
import math
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adapters
from adapters.faults import InputFault
from study.backbones.loading import Backbone, load
from study.backbones.names import WORLD
from study.config import Protocol
from study.randomness import stream
from study.scoring import AnyScorer, TrueColours, load_scorer
from study.tasks.specs import TaskSpec
from study.tasks.subject import SubjectTask, prepare
from study.training import PRECISIONS, Trained, autocast, train
from study.trial import Pack, Progress, Sink, Trial, TrialResult

PACKAGES = ("adapter-study", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")

log = logging.getLogger(__name__)


class Worker:
    """What stays loaded between packs: backbones, prepared tasks, scorers.

    Parameters
    ----------
    device : where to train; None takes the GPU if there is one, else the CPU.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda":
            # The same pack on the same device is to give the same bits.
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
        self._backbones: dict[tuple[str, torch.dtype], Backbone] = {}
        self._tasks: dict[str, SubjectTask] = {}
        self._scorers: dict[str, AnyScorer] = {}
        self._provenance: dict[str, Any] = {}

    def backbone(self, name: str | dict[str, Any], precision: str) -> Backbone:
        """Give a backbone by name, in the type its weights have under a precision."""
        key = json.dumps(name, sort_keys=True), PRECISIONS[precision]
        if key not in self._backbones:
            self._backbones[key] = load(name, self.device, PRECISIONS[precision])
        return self._backbones[key]

    def scorer(self, name: str | dict[str, Any]) -> AnyScorer:
        """Give a scorer by name."""
        key = json.dumps(name, sort_keys=True)
        if key not in self._scorers:
            self._scorers[key] = TrueColours() if name == WORLD else load_scorer(name, self.device)
        return self._scorers[key]

    def task(self, spec: TaskSpec, backbone: Backbone, protocol: Protocol, store: str) -> SubjectTask:
        """Give a task prepared for a backbone; the denoiser must be without adapters."""
        prior = [protocol.prior_weight > 0, protocol.prior_batch > 0, protocol.prior_pictures]
        sampling = [protocol.sampler, protocol.sampling_steps, protocol.guidance, protocol.precision]
        key = json.dumps([spec.to_json(), spec.content_hash(), backbone.hash, str(backbone.dtype), prior, sampling])
        if key not in self._tasks:
            self._tasks[key] = prepare(spec, backbone, protocol, Path(store) / "cache")
        return self._tasks[key]

    def provenance(self) -> dict[str, Any]:
        """Columns that say with what the results were made: versions, commit, device."""
        if not self._provenance:
            gpu = self.device.type == "cuda"
            self._provenance = {
                "versions_json": json.dumps(_versions(), sort_keys=True),
                "commit": _commit(),
                "device": torch.cuda.get_device_name(self.device) if gpu else f"cpu ({platform.machine()})",
            }
        return self._provenance


def run_pack(pack: Pack, worker: Worker, sink: Sink, progress: Progress | None = None) -> None:
    """Train and score the trials of a pack; each result goes to `sink` as soon as it is there.

    Whatever goes wrong within a trial becomes its status (`diverged`, `out_of_memory`, `failed`) with the reason; what
    the sink raises, and an interruption, goes through.

    Parameters
    ----------
    progress : called with (trial, step, steps) now and then while a trial trains.
    """
    for trial in pack.trials:
        start = time.perf_counter()
        if worker.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(worker.device)
        try:
            result = _run(trial, pack, worker, progress)
        except Exception as error:
            result = TrialResult(trial, "out_of_memory" if is_out_of_memory(error) else "failed", _reason(error))
            if not isinstance(error, InputFault):
                log.warning("%s failed", trial.label(), exc_info=error)
        if result.status == "out_of_memory" and worker.device.type == "cuda":
            torch.cuda.empty_cache()
        result.columns |= {
            **worker.provenance(),
            "pack_size": 1,  # trained alone: the other trials of the pack shared no step with it
            "slot": 0,
            "pack_seconds": time.perf_counter() - start,
            "peak_bytes": _peak_bytes(worker.device),
        }
        sink(result)


def _run(trial: Trial, pack: Pack, worker: Worker, progress: Progress | None) -> TrialResult:
    protocol = trial.protocol
    spec = pack.tasks[trial.task]
    backbone = worker.backbone(pack.backbone, protocol.precision)
    _check_unchanged(trial, spec, backbone)
    scorers = {name: worker.scorer(scorer) for name, scorer in pack.scores.items()}
    task = worker.task(spec, backbone, protocol, pack.store)
    result = TrialResult(trial, "done")
    result.columns = {**_size(backbone, trial), "scorer_hashes_json": _scorer_hashes(scorers)}
    untuned = _first_prediction(backbone, task, trial)
    insertion = adapters.insert(
        backbone.denoiser, trial.design, stream(trial.seed, task.key, "init"), backbone.text_encoder
    )
    with contextlib.ExitStack() as undo:
        undo.callback(insertion.remove)
        undo.enter_context(backbone.tuned_text(insertion.tunes_text))
        start_change = (_first_prediction(backbone, task, trial) - untuned).abs().max() / untuned.abs().max()
        result.columns["start_change"] = float(start_change)
        trained = train(
            backbone,
            insertion.parameters(0),
            task.batches(trial.seed, protocol),
            protocol.steps,
            protocol.learning_rate,
            protocol.precision,
            None if progress is None else lambda step: progress(trial, step, protocol.steps),
            lambda: insertion.penalty(0),
        )
        _record(result, trained)
        if result.status == "done":
            start = time.perf_counter()
            evaluation = task.evaluate(trial.seed, protocol, scorers)
            result.scores, result.images, result.pictures = evaluation.scores, evaluation.images, evaluation.pictures
            result.columns["eval_seconds"] = time.perf_counter() - start
            if pack.keep != "none":
                result.adapter = insertion.state(0) or None
    return result


@torch.no_grad()
def _first_prediction(backbone: Backbone, task: SubjectTask, trial: Trial) -> Tensor:
    """Predict on the first batch of a trial, in float32: what a method that starts at identity leaves as it is."""
    batch = next(task.batches(trial.seed, trial.protocol))
    noisy = backbone.noised(batch.latents, batch.noise, batch.timesteps)
    with autocast(backbone.device, trial.protocol.precision):
        return backbone.predict(noisy, batch.timesteps, batch.context).float()


def _record(result: TrialResult, trained: Trained) -> None:
    result.curves = list(trained.curve)
    result.columns |= {"final_loss": trained.final_loss, "train_seconds": trained.seconds}
    if trained.diverged:
        result.status, result.error = "diverged", trained.diverged


def _check_unchanged(trial: Trial, spec: TaskSpec, backbone: Backbone) -> None:
    for what, planned, found in (
        (f"the pictures or prompts of {trial.task}", trial.task_hash, spec.content_hash()),
        (f"the backbone {trial.backbone}", trial.backbone_hash, backbone.hash),
    ):
        if planned != found:
            raise InputFault(f"{what} changed after the study was planned; run the study again")


def _size(backbone: Backbone, trial: Trial) -> dict[str, Any]:
    count = adapters.count(backbone.denoiser, trial.design, backbone.text_encoder)
    return {
        "parameters": count.trainable,
        "ratio": count.ratio,
        "log_parameters": math.log(count.trainable) if count.trainable else float("nan"),
        "width_resolved": ",".join(str(width) for width in sorted(set(count.widths)))
        or ",".join(f"{key}={size}" for key, size in count.resolved.items()),
        "budget_met": count.budget_met,
    }


def _scorer_hashes(scorers: dict[str, AnyScorer]) -> str:
    return json.dumps({name: scorer.hash for name, scorer in scorers.items()}, sort_keys=True)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out, on a GPU or on the CPU."""
    # torch's CPU allocator raises a plain RuntimeError.
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, InputFault) else f"{type(error).__name__}: {text}"


def _peak_bytes(device: torch.device) -> int:
    """Peak memory: of the trial on a GPU; on the CPU of the process so far, which the system counts no finer."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str:
    """The commit of the checkout this runs from; empty when it is installed without one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()
