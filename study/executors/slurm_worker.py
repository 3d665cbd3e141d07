"""What a SLURM job does: runs a worker on one pack, and goes back into the queue when its time is up.

submitit starts it on the node, and calls `checkpoint` when SLURM has announced the end of the time or a preemption.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.executors.local import WORKER, cores, environment, how_ended
from study.executors.slurm_jobs import own_job
from study.store import Store
from study.trial import Pack

NOTICE = 90
"""Seconds before the end of its time at which a job is told of it."""

log = logging.getLogger("submitit")


class PackJob:
    """Runs one pack.

    Parameters
    ----------
    store, pack : str
        Absolute paths of the store's folder and the pack's file.
    logs : str
        The folder of the job's logs, from the store's.
    minutes : int
        The job's time limit.
    command : sequence of str
        Starts a worker.
    """

    def __init__(self, store: str, pack: str, logs: str, minutes: int, command: Sequence[str] = WORKER) -> None:
        self.store = store
        self.pack = pack
        self.logs = logs
        self.minutes = minutes
        self.command = tuple(command)
        self._begin = 0.0
        self._open = 0

    def __call__(self) -> None:
        """Run the worker to its end.

        Raises
        ------
        RuntimeError
            If the worker failed.
        """
        self._begin, self._open = time.monotonic(), self._missing()
        # The interpreter of this node: the environment is shared, and submitit was started by it.
        command = [sys.executable if word == WORKER[0] else word for word in self.command]
        code = subprocess.run(
            [*command, self.store, self.pack],
            stdin=subprocess.DEVNULL,
            env=environment(cores(), f"{self.logs}/{own_job()}_0_log.err"),
            preexec_fn=_go_on,
            check=False,
        ).returncode
        if code:
            raise RuntimeError(f"the worker {how_ended(code)}")

    def checkpoint(self) -> Any:
        """Return what the job does when it is started again; None to end it: in its whole time no trial had ended."""
        from submitit.helpers import DelayedSubmission

        ran = time.monotonic() - self._begin
        if ran > 60 * self.minutes - 2 * NOTICE and self._missing() == self._open:
            log.error(
                "No trial of the pack ended within the time limit of %d minutes: it needs more time (`time`, --time), "
                "or fewer trials trained together (--pack).",
                self.minutes,
            )
            return None
        return DelayedSubmission(PackJob(self.store, self.pack, self.logs, self.minutes, self.command))

    def _missing(self) -> int:
        store, pack = Store(Path(self.store)), Pack.from_json(Path(self.pack).read_text(encoding="utf-8"))
        return sum(not store.has(trial.id, pack.attempts.get(trial.id, 1)) for trial in pack.trials)


def _go_on() -> None:
    """Let the worker go on while its job is being ended: a trial may still get its row before the kill."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
