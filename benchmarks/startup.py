"""How long a worker takes until it trains, and how long the command line takes to answer.

    python -m benchmarks.startup [--rounds 5] > startup.json

Everything runs in fresh processes, one after another, in several rounds. Prints one JSON document of median seconds:

- stages: the parts of a start, each by itself, in a process that does nothing else: interpreter, torch, our own
  modules, the libraries that models are loaded with, the backbone, the scorers, the first training step; and their sum.
- worker: a worker process as every executor starts it, with one trial of one step and one picture: from its start until
  it is ready, has trained, has stored the result, has ended.
- command_line: `adapter-study --help`, and `adapter-study status quick` on an empty store.

The first start after an installation, or after a long pause, takes longer, as files are read from disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import psutil

from benchmarks.common import machine, medians

BACKBONE = "micro-unet"
DESIGN = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "init": "zero_up", "budget": "5%"}
TASK = "subject/boat"
PROTOCOL = {"steps": 1, "batch": 4, "prior_weight": 0, "sampling_steps": 1, "pictures": 1}
SCORES = {"clip_i": "micro-clip", "clip_t": "micro-clip", "dino_i": "micro-dino"}
COMMANDS = {"help": ["--help"], "status quick": ["status", "quick"]}


def stages(began: float) -> dict[str, float]:
    """Go through a start in this process, which was started at the time `began`; give the seconds of its stages."""
    seconds = {"interpreter": time.time() - began}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("torch"):
        import_module("torch")
    with stage("modules"):
        import adapters
        from study.backbones.loading import pipeline_class
        from study.config import Protocol
        from study.loaded import Worker
        from study.randomness import stream
        from study.tasks.specs import resolve_task
        from study.training import Slot, train
    with stage("libraries"):
        pipeline_class()
    protocol = Protocol(**PROTOCOL)
    worker = Worker()
    with stage("backbone"):
        base = worker.backbone(BACKBONE, protocol.precision)
    with stage("scorers"):
        for name in dict.fromkeys(SCORES.values()):
            worker.scorer(name)
    with stage("first step"), tempfile.TemporaryDirectory() as store:
        task = worker.task(resolve_task(TASK, Path()), base, protocol, store)
        insertion = adapters.insert(base.denoiser, DESIGN, stream(0, task.key, "init"), base.text_encoder)
        train(base, [Slot(insertion.parameters(), task.batches(0, protocol), 1e-3)], 1, protocol.precision)
    return {**seconds, "total": sum(seconds.values())}


def worker() -> dict[str, float]:
    """Start a worker on one small trial; give the seconds from its start to each first event, and to its end."""
    from study.plan import packs
    from study.study import Study

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "start.yaml")
        varied = {"input": [DESIGN["input"]]}
        fixed = {key: value for key, value in DESIGN.items() if key not in varied}
        declared = {"name": "start", "backbone": BACKBONE, "factors": varied, "fixed": fixed, "tasks": [TASK]}
        declared |= {"seeds": 1, "protocol": PROTOCOL, "scores": SCORES, "primary": "clip_i", "store": folder}
        file.write_text(json.dumps(declared), encoding="utf-8")
        study = Study.load(str(file))
        trials = [trial for trial in study.trials if trial.role == "study"]
        (pack,) = packs(study.config, trials, {}, folder)
        file = Path(folder, "pack.json")
        file.write_text(pack.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "study.worker", folder, str(file)]
        log = Path(folder, "log")
        start = time.perf_counter()
        with (
            log.open("w") as told,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                seconds.setdefault(event["event"], time.perf_counter() - start)
                if event.get("error"):
                    sys.exit(f"the worker failed: {event['error']}")
        seconds["end"] = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"the worker failed: {log.read_text().strip().splitlines()[-1]}")
    return {name: seconds[name] for name in ("ready", "step", "result", "end")}


def command_line() -> dict[str, float]:
    """Give the seconds that commands take."""
    seconds = {}
    with tempfile.TemporaryDirectory() as store:
        for name, words in COMMANDS.items():
            rest = ["--store", store] if "status" in words else []
            command = [sys.executable, "-m", "study.cli.main", *words, *rest]
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name] = time.perf_counter() - start
    return seconds


def fresh() -> dict[str, float]:
    """Run `stages` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.startup", "--began", repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.began is not None:
        print(json.dumps(stages(given.began)))
        return
    load = psutil.getloadavg()[0]
    runs: dict[str, list[dict[str, float]]] = {"stages": [], "worker": [], "command_line": []}
    for round_ in range(given.rounds):
        runs["stages"].append(fresh())
        runs["worker"].append(worker())
        runs["command_line"].append(command_line())
        print(f"round {round_ + 1}", file=sys.stderr)
    settings = {"backbone": BACKBONE, "rounds": given.rounds, "load_before": load}
    found = {name: medians(each) for name, each in runs.items()}
    print(json.dumps({"machine": machine(), "settings": settings, **found}, indent=1))


if __name__ == "__main__":
    main()
