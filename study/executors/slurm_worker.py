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

from study.executors.endings import how_ended
from study.executors.local import WORKER, cores, environment
from study.executors.slurm_jobs import own_job
from study.full_disk import CODE
from study.store import Store
from study.trial import Pack

NOTICE = 90
"""Seconds before the end of its time at which a job is told of it."""

WRITES = 30
"""Seconds that a job gives its worker to write checkpoints before it lets itself be ended."""

_QUIET = 3

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
        self._steps: dict[str, int] = {}
        self._worker: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the worker to its end.

        Raises
        ------
        RuntimeError
            If the worker failed.
        """
        self._begin, self._open, self._steps = time.monotonic(), self._missing(), self._checkpoints()
        # The interpreter of this node: the environment is shared, and submitit was started by it.
        command = [sys.executable if word == WORKER[0] else word for word in self.command]
        self._worker = subprocess.Popen(
            [*command, self.store, self.pack],
            stdin=subprocess.DEVNULL,
            env=environment(cores(), f"{self.logs}/{own_job()}_0_log.err"),
            preexec_fn=_go_on,
        )
        try:
            code = self._worker.wait()
        except BaseException:  # submitit leaves from within a signal's handler, and the worker must not outlive the job
            self._worker.kill()
            raise
        if code:
            how = "found no room on a disk" if code == CODE else how_ended(code)
            raise RuntimeError(f"the worker {how}")

    def checkpoint(self) -> Any:
        """Return what the job does when it is started again; None to end it: in its whole time no trial got on."""
        from submitit.helpers import DelayedSubmission

        self._let_write()
        ran = time.monotonic() - self._begin
        if ran > 60 * self.minutes - 2 * NOTICE and not self._got_on():
            log.error(
                "No trial of the pack ended, or got to another checkpoint, within the time limit of %d minutes: it "
                "needs more time (`time`, --time), or fewer trials trained together (--pack).",
                self.minutes,
            )
            return None
        return DelayedSubmission(PackJob(self.store, self.pack, self.logs, self.minutes, self.command))

    def _let_write(self) -> None:
        """Have the worker write what it trains, and wait until it has: the job is killed as soon as this one leaves."""
        if self._worker is None or not self._read().checkpoint:
            return
        seen, changes, quiet = self._checkpoints(), 0, 0
        self._worker.send_signal(signal.SIGTERM)
        for _ in range(WRITES):
            if self._worker.poll() is not None or (changes and quiet >= _QUIET):
                return
            time.sleep(1)
            now = self._checkpoints()
            changes, quiet, seen = changes + (now != seen), 0 if now != seen else quiet + 1, now

    def _got_on(self) -> bool:
        """Say whether a trial ended, or its checkpoint is of a later step than when the job began."""
        later = any(step > self._steps.get(id, 0) for id, step in self._checkpoints().items())
        return later or self._missing() < self._open

    def _missing(self) -> int:
        store = Store(Path(self.store))
        return sum(not store.has(id, attempt) for id, attempt in self._attempts())

    def _checkpoints(self) -> dict[str, int]:
        checkpoints = Store(Path(self.store)).checkpoints
        return {id: checkpoints.step(id, attempt) for id, attempt in self._attempts()}

    def _read(self) -> Pack:
        return Pack.from_json(Path(self.pack).read_text(encoding="utf-8"))

    def _attempts(self) -> list[tuple[str, int]]:
        pack = self._read()
        return [(trial.id, pack.attempts.get(trial.id, 1)) for trial in pack.trials]


def _go_on() -> None:
    """Let the worker go on while its job is being ended: a trial may still get its row before the kill.

    The worker knows by it that these signals announce an end, and writes checkpoints when it hears them.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
