"""What evaluating trials together gains, and where its time goes.

    python -m benchmarks.evaluation [--device cpu] [--packs 1 2 4 8 16] [--rounds 3] > evaluation.json

The quick study's evaluation on the built-in model: 8 pictures a trial, 12 steps with guidance, decoded, encoded by both
judges, and the held-out loss. Prints one JSON document: for each size of pack the median seconds a trial, in all and of
each part, and all over that of one trial at a time. Sizes take turns, round after round, in one process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.common import machine
from benchmarks.packing import Bench, mixes

PARTS = ("sample", "decode", "encode", "held_out")


@contextmanager
def timed(bench: Bench) -> Iterator[dict[str, float]]:
    """Time the parts of an evaluation while the context lasts."""
    from study import evaluation

    seconds = dict.fromkeys(PARTS, 0.0)
    backbone: Any = bench.backbone
    originals = evaluation.sample, backbone.decode, evaluation.encode, evaluation._held_out_losses

    def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    evaluation.sample = watched("sample", originals[0])
    backbone.decode = watched("decode", originals[1])
    evaluation.encode = watched("encode", originals[2])
    evaluation._held_out_losses = watched("held_out", originals[3])
    try:
        yield seconds
    finally:
        evaluation.sample, _, evaluation.encode, evaluation._held_out_losses = originals
        del backbone.decode


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    bench = Bench("micro-unet", given.device, "float32")
    designs = mixes()["pairs"]
    bench.evaluate(designs[:1])
    seen: dict[int, list[dict[str, float]]] = {size: [] for size in given.packs}
    for _ in range(given.rounds):
        for size in given.packs:
            with timed(bench) as seconds:
                whole = bench.evaluate(designs[:size])["seconds"]
            seen[size].append({"whole": whole / size, **{part: value / size for part, value in seconds.items()}})
    middle = {
        size: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for size, runs in seen.items()
    }
    first = middle[min(middle)]["whole"]
    packs = {str(size): {**each, "speedup": first / each["whole"]} for size, each in middle.items()}
    print(json.dumps({"machine": machine(), "seconds_a_trial": packs}, indent=1))


if __name__ == "__main__":
    main()
