"""Checkpoints of trials in training: what another process needs to go on, bit for bit, where one was killed.

One safetensors file a trial and attempt, replaced as a whole: what is trained, AdamW's moments, the scale of float16's
losses, the losses so far. A description in its header says of which trial it is, made with what, and has a digest of
all of it. What does not fit, or is torn, is ignored, and the trial begins anew. Batches need no state: the streams they
are drawn from are a function of the trial's seed and of the step (`study.randomness`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.atomic import write_file
from study.trial import Trial

if TYPE_CHECKING:
    from types import FrameType

    from torch import Tensor, nn

FORMAT = 1
_SCALE = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """The state of a trial in training.

    Attributes
    ----------
    step : steps that are done.
    seconds : that these took.
    losses : (step,) float64.
    parameters : what is trained, in the order of `Slot.every`.
    moments : what the optimiser keeps of each.
    scale : of float16's losses, as its scaler tells it; None without one.
    """

    step: int
    seconds: float
    losses: Tensor
    parameters: Sequence[Tensor]
    moments: Sequence[Mapping[str, Tensor]]
    scale: dict[str, Any] | None = None

    def fits(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Say whether it is a state of such parameters."""
        if [value.shape for value in self.parameters] != [parameter.shape for parameter in parameters]:
            return False
        for own, parameter in zip(self.moments, parameters, strict=True):
            forms = {name: (moment.shape, moment.dtype) for name, moment in own.items()}
            step = forms.pop("step", None)
            wanted = dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.shape, parameter.dtype))
            if own and (forms != wanted or step is None or step[0] != ()):
                return False
        return True


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one store."""

    folder: Path

    def file(self, id: str, attempt: int) -> Path:
        """Return the file of an attempt."""
        return self.folder / f"{id}.{attempt}.safetensors"

    def step(self, id: str, attempt: int) -> int:
        """Return the steps that an attempt's checkpoint has done, as it says; 0 if there is none that can be read."""
        description = _description(self.file(id, attempt))
        step = description.get("step") if isinstance(description, dict) else None
        return step if isinstance(step, int) else 0

    def delete(self, id: str, attempt: int) -> None:
        """Delete the checkpoint of an attempt that has its row."""
        self.file(id, attempt).unlink(missing_ok=True)

    def write(self, trial: Trial, attempt: int, state: State, made_with: Mapping[str, str]) -> None:
        """Write a trial's state in place of an earlier one.

        Parameters
        ----------
        made_with : versions and commit; who has others begins anew, so that a row has been made by one program.
        """
        from safetensors.torch import save_file

        tensors = {"losses": state.losses}
        tensors |= {f"parameter {number}": value for number, value in enumerate(state.parameters)}
        for number, moments in enumerate(state.moments):
            tensors |= {f"moment {number} {name}": value for name, value in moments.items()}
        tensors = {name: _copied(value) for name, value in tensors.items()}
        told = {"step": state.step, "seconds": state.seconds, "scale": state.scale}
        text = json.dumps({**_of(trial, attempt, made_with), **told}, sort_keys=True)
        metadata = {"description": text, "sha256": _digest(text, tensors)}
        write_file(self.file(trial.id, attempt), lambda part: save_file(tensors, part, metadata))

    def read(self, trial: Trial, attempt: int, made_with: Mapping[str, str]) -> State | None:
        """Read a trial's state; None if there is none, or none that can be used, which the log then says."""
        file = self.file(trial.id, attempt)
        if not file.exists():
            return None
        try:
            return _read(file, trial, attempt, made_with)
        except FileNotFoundError:
            return None
        except Exception as error:  # a file may hold anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            log.warning("%s begins anew: its checkpoint %s cannot be used: %s", trial.label(), file, reason)
            return None

    def orphans(self, done: Collection[tuple[str, int]]) -> list[Path]:
        """Return the files that are no checkpoint of a trial without a row.

        Parameters
        ----------
        done : the attempts that have rows.
        """
        found = []
        for file in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            id, _, attempt = file.stem.partition(".")
            waits = file.suffix == ".safetensors" and attempt.isdigit() and (id, int(attempt)) not in done
            if not waits or not self.step(id, int(attempt)):
                found.append(file)
        return found


class Notice:
    """Hears a signal that the process is about to be ended; what is in training is then written at the next step."""

    def __init__(self) -> None:
        self.heard = 0
        self._training = False
        self._ends = False

    def listen(self) -> None:
        """Hear SIGTERM from now on, and SIGUSR2 where it is ignored.

        A process that was started with SIGTERM ignored, as in a job of a cluster, goes on until it is killed: a trial
        may still get its row. Another one ends.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._ends = signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        signal.signal(signal.SIGTERM, self._hear)
        if signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN:
            signal.signal(signal.SIGUSR2, self._hear)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Have what is in training written before the process ends, while the context lasts."""
        self._training = True
        try:
            yield
        finally:
            self._training = False
            if self.heard:
                self.answer()

    def answer(self) -> None:
        """End the process if the signal was to end it; what there was to write is written."""
        number, self.heard = self.heard, 0
        if self._ends:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number
        if not self._training:
            self.answer()


def _of(trial: Trial, attempt: int, made_with: Mapping[str, str]) -> dict[str, Any]:
    """Say what a checkpoint must say to be of an attempt."""
    of_trial = {"trial": trial.id, "attempt": attempt, "seed": trial.seed, "steps": trial.protocol.steps}
    return {"format": FORMAT, **of_trial, **made_with}


def _read(file: Path, trial: Trial, attempt: int, made_with: Mapping[str, str]) -> State:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    text = metadata["description"]
    if metadata["sha256"] != _digest(text, tensors):
        raise ValueError("its content is not what was written")
    told = json.loads(text)
    for key, wanted in _of(trial, attempt, made_with).items():
        if told.get(key) != wanted:
            raise ValueError(f"its {key} is {told.get(key)!r}, expected {wanted!r}")
    step, seconds, losses = told["step"], told["seconds"], tensors.pop("losses")
    if type(step) is not int or not 0 < step < trial.protocol.steps or losses.shape != (step,):
        raise ValueError(f"it is of step {step!r} of {trial.protocol.steps}, with {losses.numel()} losses")
    if not isinstance(seconds, float) or not math.isfinite(seconds):
        raise ValueError(f"it took {seconds!r} seconds")
    scale = told["scale"]
    if scale is not None and (set(scale) != _SCALE or not all(type(value) in (int, float) for value in scale.values())):
        raise ValueError(f"its scale is {scale!r}")
    count = sum(name.startswith("parameter ") for name in tensors)
    parameters = [tensors.pop(f"parameter {number}") for number in range(count)]
    moments: list[dict[str, Tensor]] = [{} for _ in parameters]
    for name, value in tensors.items():
        _, number, what = name.split(" ")
        moments[int(number)][what] = value
    return State(step, seconds, losses, parameters, moments, scale)


def _copied(value: Tensor) -> Tensor:
    """Copy a tensor to the CPU, its numbers side by side."""
    import torch

    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())


def _description(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return json.loads((opened.metadata() or {}).get("description", "null"))
    except (OSError, SafetensorError, ValueError, RecursionError):
        return None


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of the names, forms and bytes of tensors on the CPU."""
    import torch

    total = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        total.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
