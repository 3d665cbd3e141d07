"""Logs for TensorBoard, where they are asked for: what a trial has left. Nothing here reads them."""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.faults import InputFault
from study.full_disk import is_full
from study.trial import TrialResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

INSTALL = "logs for TensorBoard need its package: pip install 'adapter-study[tensorboard]'"

log = logging.getLogger(__name__)


def check() -> None:
    """Raise InputFault, which says how to install it, where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputFault(INSTALL)


def folder_of(store: Path, result: TrialResult, attempt: int) -> Path:
    """Return the folder of an attempt's log; TensorBoard shows its name, so it says which trial it is."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", result.trial.label()).strip("-.")[:100]
    return store / "tensorboard" / f"{label}-{result.trial.id[:12]}{f'-{attempt}' if attempt > 1 else ''}"


def write(store: Path, result: TrialResult, attempt: int = 1) -> None:
    """Write the losses and learning rate of a trial by step, and its scores at the last one."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # installed where the run was started, and not here
        log.warning(INSTALL)
        return
    try:
        _fill(SummaryWriter(str(folder_of(store, result, attempt))), result)
    except OSError as error:
        if is_full(error):
            raise
        log.warning("the log for TensorBoard of %s could not be written: %s", result.trial.label(), error)


def _fill(opened: SummaryWriter, result: TrialResult) -> None:
    trial = result.trial
    with opened as writer:
        writer.add_text("trial", f"{trial.label()}: {result.status} {result.error}".strip(), 0)
        for point in result.curves:
            writer.add_scalar("loss", point["loss"], point["step"])
            writer.add_scalar("learning_rate", trial.protocol.learning_rate, point["step"])
        for name, score in result.scores.items():
            if math.isfinite(score):
                writer.add_scalar(f"scores/{name}", score, trial.protocol.steps)
