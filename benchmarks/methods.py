"""Speed and memory of every method, trained alone on the built-in model or another backbone.

    python -m benchmarks.methods [--backbone micro-unet] [--budget 5%] [--steps 12] [--rounds 3] > methods.json

Every method runs in a process of its own, one after another, in several rounds, so that a slow moment of the machine
falls on all alike. Prints one JSON document: the machine, the versions, and for each method the trained parameters, the
median seconds of a step, the peak memory, and both over those of the first method. It compares methods and states no
absolute speed: the protocol is a small one (4 pictures and 1 class picture a step).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.common import machine, medians

SIZED = ("lora", "dora", "krona", "tlora", "tlora_star", "vpt", "loha", "lokr", "oft", "boft", "hra", "hira")
PLACED = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "init": "zero_up"}
WARM_UP = 3


def designs(budget: str) -> list[dict[str, str]]:
    """List the designs to compare: sized methods at the budget, the others at their natural size."""
    sized = [PLACED, *({"method": name} for name in ("adaptformer", "sequential", *SIZED))]
    natural = [{"method": name} for name in ("difffit", "bitfit", "ia3", "full")]
    return [*({**design, "budget": budget} for design in sized), *natural]


def measure(backbone: str, design: dict[str, str], steps: int) -> dict[str, float]:
    """Train a design for some steps in this process; give its parameters, seconds a step and peak memory."""
    import torch

    import adapters
    from study.config import Protocol
    from study.loaded import Worker
    from study.randomness import stream
    from study.tasks.specs import resolve_task
    from study.training import Slot, train

    protocol = Protocol(
        steps=steps, batch=4, prior_batch=1, prior_weight=0.05, prior_pictures=2, sampling_steps=2, guidance=4
    )
    worker = Worker()
    base = worker.backbone(backbone, protocol.precision)
    gpu = worker.device.type == "cuda"
    with tempfile.TemporaryDirectory() as store:
        task = worker.task(resolve_task("subject/boat", Path()), base, protocol, store)
    insertion = adapters.insert(base.denoiser, design, stream(0, task.key, "init"), base.text_encoder)
    moments = []

    def batches():
        for batch in task.batches(0, protocol):
            if gpu:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            yield batch

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    train(base, [Slot(insertion.parameters(), batches(), 1e-4, insertion.penalty)], steps, protocol.precision)
    taken = [after - before for before, after in zip(moments[WARM_UP:], moments[WARM_UP + 1 :], strict=False)]
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": sum(parameter.numel() for parameter in insertion.parameters()),
        "seconds_a_step": statistics.median(taken),
        "peak_bytes": peak,
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="micro-unet")
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps < WARM_UP + 2:
        parser.error(f"--steps {given.steps}: expected at least {WARM_UP + 2}, of which {WARM_UP} are warm-up")
    if given.one:
        print(json.dumps(measure(given.backbone, json.loads(given.one), given.steps)))
        return
    found = defaultdict(list)
    compared = designs(given.budget)
    for round_ in range(given.rounds):
        for index, design in enumerate(compared):
            asked = ["--backbone", given.backbone, "--steps", str(given.steps), "--one", json.dumps(design)]
            command = [sys.executable, "-m", "benchmarks.methods", *asked]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{design}: {done.stderr.strip().splitlines()[-1]}")
            found[index].append(json.loads(done.stdout))
            print(f"round {round_ + 1}: {design['method']}", file=sys.stderr)
    rows = [{"design": design, **medians(found[index])} for index, design in enumerate(compared)]
    for row in rows:
        for key in ("seconds_a_step", "peak_bytes"):
            row[f"{key}_ratio"] = row[key] / rows[0][key]
    print(json.dumps({"machine": machine(), "settings": vars(given) | {"one": None}, "methods": rows}, indent=1))


if __name__ == "__main__":
    main()
