"""What a study of 100,000 trials costs its driver: planning, `status`, `results()`, going on after an interruption.

    python -m benchmarks.scale [--scales 5] [--tasks 100] [--seeds 10] [--loose 10000] [--missing 10] [--rounds 5]

A study of 20 position pairs × scales, on folders of five photographs (noise, 512 pixels wide), is declared on
micro-unet, and its rows are written as a run writes them, without training: 10 trials have none yet. Three stores are
looked at: `compacted`, as `adapter-study compact` leaves it; `loose`, where the last 10,000 rows are a file each; and
`empty`.

Every number comes from a fresh process, one after another, in several rounds. Prints one JSON document of medians; each
entry has the wall-clock seconds, the seconds of CPU time (the same on a machine with nothing else to do, less where
others keep it busy), and the peak memory of the process in MB:

- plan: `Study.load` and all trials with their ids, without the start of Python; `dry run` is the whole command.
- status, run: the whole commands, imports included; `run` until its first pack is written for a worker, then it is
  ended.
- results: `Study.results()`, the first of its process, without the start, the import of pandas and `Study.load`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.common import machine
from study import sealed
from study.columns import ROW
from study.config import SECTIONS
from study.result_files import row_of
from study.store import Store
from study.study import Study
from study.tables import table_of, write_table
from study.trial import Trial, TrialResult

PICTURES, EDGE = 5, 512
STORES = ("compacted", "loose", "empty")
COMMANDS = {"status": ["status"], "dry run": ["run", "--dry-run"]}


def declare(root: Path, scales: int, tasks: int, seeds: int) -> Path:
    """Write a study and its photographs."""
    generator = np.random.default_rng(0)
    for task in range(tasks):
        folder = root / "photos" / f"s{task:03d}"
        folder.mkdir(parents=True)
        for index in range(PICTURES):
            coarse = Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8))
            coarse.resize((EDGE, EDGE), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)
    kinds = ("robot", "lamp", "kite", "boat", "cake")
    declared: dict[str, Any] = {
        "name": "scale",
        "backbone": "micro-unet",
        "factors": {"input": "all", "output": "all", "scale": [2.0**power for power in range(scales)]},
        "fixed": {"method": "adapter", "activation": "relu", "init": "zero_up", "budget": "5%"},
        "tasks": [
            {"kind": "subject", "name": f"s{task:03d}", "pictures": f"photos/s{task:03d}", "class": kinds[task % 5]}
            for task in range(tasks)
        ],
        "seeds": seeds,
        "store": str(root / "empty"),
    }
    assert set(declared) <= set(SECTIONS)
    file = root / "scale.yaml"
    file.write_text(json.dumps(declared), encoding="utf-8")
    return file


def result(trial: Trial, place: int) -> TrialResult:
    """What a trial might have left, of the columns that a run on this machine fills."""
    score = (place * 2654435761 % 2**32) / 2**32
    versions = json.dumps({"adapter-study": "0.1.0", "torch": "2.13.0+cpu", "diffusers": "0.37.0", "numpy": "2.4.0"})
    return TrialResult(
        trial,
        "done",
        scores={"clip_i": score, "clip_t": score / 2, "dino_i": score / 3, "diversity": 0.3, "loss_heldout": 0.1},
        columns={
            "final_loss": 0.1 * score, "parameters": 61_440, "ratio": 0.0125, "log_parameters": 4.788,
            "width_resolved": "32", "budget_met": True, "start_change": 0.0, "pack_size": 8, "pack_asked": 8,
            "slot": place % 8, "pack_seconds": 49.5 + score, "train_seconds": 20.0, "eval_seconds": 29.5,
            "peak_bytes": 1_600_000_000, "versions_json": versions, "commit": "0" * 40,
            "scorer_hashes_json": json.dumps({"micro-clip": "1" * 64, "micro-dino": "2" * 64}), "device": "cpu",
            "log": f"logs/worker-{place % 20}-1.log",
        },
    )  # fmt: skip


def fill(file: Path, missing: int, loose: int) -> int:
    """Write the stores of a study; return how many trials it has."""
    trials = Study.load(file).trials
    _fill(file.parent, trials[: len(trials) - missing], loose)
    return len(trials)


def _fill(root: Path, trials: Sequence[Trial], loose: int) -> None:
    """Write the rows of all trials in one file; and the last ones a file each."""
    results = [result(trial, place) for place, trial in enumerate(trials)]
    for name, apart in (("compacted", 0), ("loose", loose)):
        store = Store(root / name)
        first = len(results) - apart
        rows = [row_of(each, "scale", 1) for each in results[:first]]
        write_table(store.folder / "trials" / f"merged-{'0' * 32}.parquet", table_of(rows, ROW))
        (store.folder / "compacted").touch()
        for each in results[first:]:  # as `commit` does, without waiting for the disk ten thousand times
            row = table_of([row_of(each, "scale", 1)], ROW)
            sealed.write(store.folder / "trials" / f"{each.trial.id}.1.parquet", row)


def measured(command: Sequence[str]) -> dict[str, float]:
    """Run a command to its end."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, code, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return {"wall": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def first_pack(command: Sequence[str], store: Path) -> dict[str, float]:
    """Run a command until the store has a pack for a worker, then end it."""
    packs = store / "packs"
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        told = psutil.Process(process.pid)
        while not any(packs.glob("*.json")):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended without a pack: {process.communicate()[1]}")
            time.sleep(0.01)
        seconds, used = time.perf_counter() - start, told.cpu_times()
        time.sleep(3)  # until it has handed out all it will, and waits for its workers
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        process.terminate()
        process.communicate()
    return {"wall": seconds, "cpu": used.user + used.system, "peak_mb": peak / 1024}


def inside(part: str, file: str, store: str) -> dict[str, float]:
    """Measure what needs no command, in this process."""
    import pandas  # noqa: F401

    loaded = Study.load(file, store) if part == "results" else None
    start, used = time.perf_counter(), time.process_time()
    found = len({trial.id for trial in Study.load(file, store).trials} if loaded is None else loaded.results())
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"found": found, "wall": seconds, "cpu": used, "peak_mb": peak}


def round_of(file: Path) -> dict[str, dict[str, float]]:
    """Measure everything once."""
    found = {}
    program = [sys.executable, "-m", "study.cli.main"]
    for name in STORES:
        store = file.parent / name
        where = [str(file), "--store", str(store)]
        for part in ("plan",) if name == "empty" else ("results",):
            own = [sys.executable, "-m", "benchmarks.scale", "--part", part, *where]
            done = subprocess.run(own, capture_output=True, text=True, check=True)
            found[f"{part}, {name}"] = json.loads(done.stdout)
        for command, words in COMMANDS.items():
            found[f"{command}, {name}"] = measured([*program, *words, *where])
        found[f"run, {name}"] = first_pack([*program, "run", *where], store)
        print(f"  {name}", file=sys.stderr)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"scales": 5, "tasks": 100, "seeds": 10, "loose": 10_000, "missing": 10, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("study", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(inside(given.part, given.study, given.store)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = declare(root, given.scales, given.tasks, given.seeds)
        # In a process of its own: the peak memory of a command begins with that of the process that starts it.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            trials = pool.submit(fill, file, given.missing, given.loose).result()
        print("written", file=sys.stderr)
        load = psutil.getloadavg()[0]
        rounds = []
        for number in range(given.rounds):
            rounds.append(round_of(file))
            print(f"round {number + 1}", file=sys.stderr)
    medians = {
        name: {key: round(statistics.median(each[name][key] for each in rounds), 3) for key in rounds[0][name]}
        for name in rounds[0]
    }
    settings = {"trials": trials, "loose": given.loose, "missing": given.missing, "rounds": given.rounds}
    print(json.dumps({"machine": machine(), "settings": {**settings, "load_before": load}, **medians}, indent=1))


if __name__ == "__main__":
    main()
