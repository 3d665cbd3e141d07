"""How much memory trials need when they are trained together.

    python -m benchmarks.memory [--backbone micro-unet] [--device cpu] [--packs 1 2 4 8 16] > memory.json

Every pack trains and is evaluated in a process of its own: position adapters of the quick study, or LoRA. Prints one
JSON document: peak bytes with the backbone only, of a training and of an evaluation for each size of pack, and what one
trial more takes. On the CPU it is the peak of the whole process, on a GPU that of torch's memory.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.common import machine

KINDS = {
    "position": {"method": "adapter", "input": "SA_in", "output": "FFN_in", "init": "zero_up", "budget": "5%"},
    "lora": {"method": "lora", "budget": "5%"},
}


def measure(backbone: str, device: str, precision: str, kind: str, size: int) -> dict[str, float]:
    """Train and evaluate a pack in this process; give its peaks."""
    from benchmarks.packing import Bench
    from study.packing import peak_bytes, reset_peak

    bench = Bench(backbone, device, precision)
    found = {"loaded": peak_bytes(bench.worker.device)}
    if size:
        designs = [KINDS[kind]] * size
        found["training"] = bench.train(designs)["peak_bytes"]
        reset_peak(bench.worker.device)
        bench.evaluate(designs)
        found["evaluation"] = peak_bytes(bench.worker.device)
    return found


def main() -> None:
    """Run all sizes and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="micro-unet")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    where = [given.backbone, given.device, given.precision]
    if given.one:
        print(json.dumps(measure(*where, given.one[0], int(given.one[1]))))
        return

    def run(kind: str, size: int) -> dict[str, float]:
        from study.executors.local import MEMORY

        command = [sys.executable, "-m", "benchmarks.memory", "--backbone", where[0], "--device", where[1]]
        command += ["--precision", where[2], "--one", kind, str(size)]
        environment = {**os.environ, "GLIBC_TUNABLES": MEMORY}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"{kind}, {size} together: {done.stderr.strip().splitlines()[-1]}")
        print(f"{kind}, {size} together: done", file=sys.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    loaded = run("position", 0)["loaded"]
    found: dict[str, Any] = {"machine": machine(), "loaded_bytes": loaded}
    for kind in KINDS:
        peaks = {size: run(kind, size) for size in given.packs}
        least, most = min(peaks), max(peaks)
        more = (peaks[most]["training"] - peaks[least]["training"]) / (most - least) if most > least else None
        found[kind] = {"packs": {str(size): peak for size, peak in peaks.items()}, "bytes_a_trial": more}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
