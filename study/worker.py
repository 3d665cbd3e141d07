"""The worker process: runs packs and commits each trial to the store as it ends.

`python -m study.worker STORE PACK.json …` runs these packs and ends. Without packs it stays, with everything it has
loaded, reads the path of one pack a line from standard input, and ends when that closes: at once, even in the middle
of a trial, because then the process that fed it is gone.

Trials of a pack that have their row are left out, and those that another process is at. So a pack may be run again.

Standard output carries events only, one JSON object a line: `ready`; `step` {trial, step, steps}; `result` {trial,
status, scores}; `held` {trial, by}; `pack` {pack} when a pack is through; `full` {error, path} as the last one when a
disk is full. What libraries print goes to standard error, the log.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from study import tensorboard
from study.claims import Claims
from study.full_disk import CODE, is_full, where
from study.process import LOG, Judge, Process
from study.store import Store
from study.trial import Claim, Pack, Progress, Sink, Trial, TrialResult

Runtime = Callable[[Pack, Sink, Progress, Claim], None]
"""Runs the trials of a pack that it may have, and hands each result to the sink as it ends."""

log = logging.getLogger(__name__)

Emit = Callable[[dict[str, Any]], None]


def main(runtime: Callable[[str | None], Runtime], arguments: list[str] | None = None) -> None:
    """Run a worker process until its packs, or its standard input, end.

    Parameters
    ----------
    runtime : callable
        Given the name of the device, loads what is needed and returns the function that runs a pack.
    arguments : list of str, optional
        Of the command line; `sys.argv` by default.
    """
    parser = argparse.ArgumentParser(prog="python -m study.worker", description="Run packs of trials.")
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("packs", type=Path, nargs="*", metavar="PACK.json", help="packs to run; none: standard input")
    parser.add_argument("--device", help="where to train, such as cpu or cuda:1; by default a GPU if there is one")
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    emit = _events()
    busy = threading.Event()
    feed = iter(given.packs) if given.packs else _fed(busy, Claims(Store(given.store).claims))
    gc.disable()  # what is imported stays: to search it for garbage takes a fifth of the start and finds none
    run = runtime(given.device)
    gc.freeze()
    gc.enable()
    emit({"event": "ready"})
    try:
        for path in feed:
            run_file(path, Store(given.store), run, emit)
            busy.clear()
            emit({"event": "pack", "pack": path.stem})
    except Exception as error:
        if not is_full(error):
            raise
        log.error("no room is left: %s", error)
        emit({"event": "full", "error": str(error), "path": where(error)})
        sys.exit(CODE)


def run_file(path: Path, store: Store, run: Runtime, emit: Emit) -> None:
    """Run one pack; what its trials leave is in the store when this returns."""
    pack = Pack.from_json(path.read_text(encoding="utf-8"))
    claims, judge = Claims(store.claims, pack.take_over), Judge()

    def attempt(trial: Trial) -> int:
        return pack.attempts.get(trial.id, 1)

    def claim(trial: Trial) -> bool:
        holder = claims.take(trial.id, attempt(trial), judge)
        if holder is not None:
            log.info("%s is left out: %s is at it", trial.label(), holder)
            emit({"event": "held", "trial": trial.id, "by": str(holder)})
            return False
        if store.has(trial.id, attempt(trial)):
            claims.release(trial.id, attempt(trial))
            return False
        return True

    def sink(result: TrialResult) -> None:
        id = result.trial.id
        result.columns.setdefault("log", os.environ.get(LOG, ""))
        if not store.commit(result, pack.study, attempt(result.trial), pack.keep, pack.keep_pictures):
            log.warning("%s had a row already; this result is discarded", result.trial.label())
        elif pack.tensorboard:
            tensorboard.write(store.folder, result, attempt(result.trial))
        store.checkpoints.delete(id, attempt(result.trial))
        claims.release(id, attempt(result.trial))
        scores = {name: value for name, value in result.scores.items() if math.isfinite(value)}
        emit({"event": "result", "trial": id, "status": result.status, "error": result.error, "scores": scores})

    def progress(trial: Trial, step: int, steps: int) -> None:
        emit({"event": "step", "trial": trial.id, "step": step, "steps": steps})

    store.look_anew()
    left = tuple(trial for trial in pack.trials if not store.has(trial.id, attempt(trial)))
    if left:
        run(replace(pack, trials=left), sink, progress, claim)


def _events() -> Emit:
    """Keep standard output for events, and send what anything else prints there to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def emit(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    return emit


def _fed(busy: threading.Event, claims: Claims) -> Iterator[Path]:
    """Yield the packs named on standard input; end the process when it closes while a pack runs."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip():
                busy.set()
                waiting.put(line.strip())
        if busy.is_set():
            with contextlib.suppress(OSError):
                claims.free(Process.of(os.getpid()))
            os._exit(1)  # nobody is left to hear of the result, and the next run trains the trial again
        waiting.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (line := waiting.get()) is not None:
        yield Path(line)


def trained_runtime(device: str | None) -> Runtime:
    """Return the runtime that trains for real; it keeps models and prepared tasks from pack to pack."""
    # All that a trial needs is loaded before the worker says that it is ready, while there is memory for it.
    import pyarrow.parquet  # noqa: F401

    from study.backbones.loading import pipeline_class
    from study.loaded import Worker
    from study.pack import run_pack

    pipeline_class()
    worker = Worker(device)
    worker.notice.listen()
    return lambda pack, sink, progress, claim: run_pack(pack, worker, sink, progress, claim)


if __name__ == "__main__":
    main(trained_runtime)
