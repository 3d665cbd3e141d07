"""The worker process: runs packs and commits each trial to the store as it ends.

`python -m study.worker STORE PACK.json …` runs these packs and ends. Without packs it stays, with everything it has
loaded, reads the path of one pack a line from standard input, and ends when that closes: at once, even in the middle
of a trial, because then the process that fed it is gone.

Standard output carries events only, one JSON object a line: `ready`; `step` {trial, step, steps}; `result` {trial,
status, scores}; `pack` {pack} when a pack is through. What libraries print goes to standard error, the log.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from study.store import Store
from study.trial import Pack, Progress, Sink, Trial, TrialResult

Runtime = Callable[[Pack, Sink, Progress], None]
"""Runs the trials of a pack and hands each result to the sink as it ends."""

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
    feed = iter(given.packs) if given.packs else _fed(busy)
    gc.disable()  # what is imported stays: to search it for garbage takes a fifth of the start and finds none
    run = runtime(given.device)
    gc.freeze()
    gc.enable()
    emit({"event": "ready"})
    for path in feed:
        run_file(path, Store(given.store), run, emit)
        busy.clear()
        emit({"event": "pack", "pack": path.stem})


def run_file(path: Path, store: Store, run: Runtime, emit: Emit) -> None:
    """Run one pack; what its trials leave is in the store when this returns."""
    pack = Pack.from_json(path.read_text(encoding="utf-8"))

    def sink(result: TrialResult) -> None:
        id = result.trial.id
        store.commit(result, pack.study, pack.attempts.get(id, 1), pack.keep)
        scores = {name: value for name, value in result.scores.items() if math.isfinite(value)}
        emit({"event": "result", "trial": id, "status": result.status, "error": result.error, "scores": scores})

    def progress(trial: Trial, step: int, steps: int) -> None:
        emit({"event": "step", "trial": trial.id, "step": step, "steps": steps})

    run(pack, sink, progress)


def _events() -> Emit:
    """Keep standard output for events, and send what anything else prints there to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def emit(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    return emit


def _fed(busy: threading.Event) -> Iterator[Path]:
    """Yield the packs named on standard input; end the process when it closes while a pack runs."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip():
                busy.set()
                waiting.put(line.strip())
        if busy.is_set():
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
    from study.pack import Worker, run_pack

    pipeline_class()
    worker = Worker(device)
    return lambda pack, sink, progress: run_pack(pack, worker, sink, progress)


if __name__ == "__main__":
    main(trained_runtime)
