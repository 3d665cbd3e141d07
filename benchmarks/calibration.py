"""Whether the tests keep their promise: null studies of the paper's design, and the share of them called significant.

    python -m benchmarks.calibration [--studies 10000] [--with-effects 2000] [--json]

A study is 20 pairs × 4 activations × 5 tasks. Nothing has an effect; what varies is the residual (SD 1), the tasks,
and, by scenario, how much pairs, outputs and activations differ from task to task. With failures, a tenth of the trials
is missing, each time another tenth of twenty. Printed is the share of studies in which a term's p is below 5 %, for p
as it is and for the p that decides (the lower bound where ε is unknown), each ± 1.96 binomial standard errors.

In studies with effects (of pairs, SD 0.5, on top of equal variances by task), printed is how many of the 95 % intervals
of pairs' differences to the first one hold the true difference, and how often the truly best pair is in Hsu's set.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from adapters import PAIRS
from analysis.anova_fit import COMPONENT, Comparisons
from analysis.compare import best, pairwise
from analysis.components import connect
from analysis.declared import Declared, declared
from analysis.model import Design, Term
from benchmarks.common import machine

PAIR = ("input", "output")
TASKS, ACTIVATIONS = 5, ("relu", "sigmoid", "silu", "identity")
MASKS = 20
_CHUNK = 500

SDS = {
    "no variance by task": {},
    "equal variances": {"pair": 0.5, "activation": 0.5},
    "output varies too": {"pair": 0.5, "output": 0.5, "activation": 0.5},
    "two positions vary more": {"pair": 0.25, "loud": 1.0, "activation": 0.5},
}
"""By scenario the SD from task to task of pairs, of all pairs of an output, of activations; `loud`: of two inputs."""


def cells() -> pd.DataFrame:
    """All rows of a study."""
    rows = [(i, o, a, f"t{t}") for i, o in PAIRS for a in ACTIVATIONS for t in range(TASKS)]
    return pd.DataFrame(rows, columns=[*PAIR, "activation", "task"])


def drawn(frame: pd.DataFrame, sds: dict[str, float], rng: np.random.Generator) -> Callable[[], np.ndarray]:
    """Return what draws the response of a study without effects."""

    def groups(*columns: str) -> np.ndarray:
        return frame.groupby(list(columns)).ngroup().to_numpy()

    loud = frame["input"].isin(["SA_in", "CA_in"]).to_numpy()
    parts: list[tuple[np.ndarray, float | np.ndarray]] = [(groups("task"), 2.0)]
    for columns, kind in ((PAIR, "pair"), (("output",), "output"), (("activation",), "activation")):
        if kind in sds:
            parts.append((groups(*columns, "task"), sds[kind]))
    if "loud" in sds:
        parts.append((groups("input", "task"), np.where(loud, sds["loud"], 0.0)))

    def draw() -> np.ndarray:
        y = rng.normal(size=len(frame))
        for codes, sd in parts:
            y = y + sd * rng.normal(size=codes.max() + 1)[codes]
        return y

    return draw


def designs(failures: bool, seed: int) -> Iterator[tuple[pd.DataFrame, Design, Declared]]:
    """Give the rows, design and model of studies: all rows, or each time another tenth of them missing."""
    frame, plan = cells(), declared(["activation"], ["task"], pair=PAIR)
    rng = np.random.default_rng(seed)
    for _ in range(MASKS if failures else 1):
        kept = frame[rng.random(len(frame)) > 0.1] if failures else frame
        sample = plan.read(kept.assign(y=0.0), "y")
        split = connect(sample, *PAIR)
        names = tuple(component.name for component in split.components)
        codes, levels = {**sample.codes, COMPONENT: split.of_row}, {**sample.levels, COMPONENT: names}
        yield kept, Design(replace(sample, codes=codes, levels=levels)), plan


def count(scenario: str, failures: bool, block: Term | None, studies: int, seed: int) -> dict[str, np.ndarray]:
    """Count studies: for each term those tested, those with p < 5 %, those in which the p that decides is."""
    found: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(seed)
    made = list(designs(failures, seed))
    for kept, design, plan in made:
        draw = drawn(kept, SDS[scenario], rng)
        for _ in range(studies // len(made)):
            test = Comparisons(design.with_response(draw()), plan, 2, block)
            for row in test.rows(PAIR, PAIR):
                if row.role == "block":
                    continue
                own = found.setdefault(row.term, np.zeros(3))
                if row.p is not None and row.p_decisive is not None:
                    own += [1, row.p < 0.05, row.p_decisive < 0.05]
    return found


def cover(failures: bool, error: str, studies: int, seed: int) -> np.ndarray:
    """Count over studies with effects.

    Intervals, those that hold the truth; studies, those whose set holds the best; the pairs in these sets.
    """
    rng = np.random.default_rng(10_000 + seed)
    frame = cells()
    counts = np.zeros(5)
    for _ in range(studies):
        kept = frame[rng.random(len(frame)) > 0.1] if failures else frame
        truth = {pair: 0.5 * rng.normal() for pair in PAIRS}
        draw = drawn(kept, SDS["equal variances" if error == "task" else "no variance by task"], rng)
        effect = np.array([truth[pair] for pair in zip(kept["input"], kept["output"], strict=True)])
        rows = kept.assign(y=effect + draw())
        given = rows, "y", list(PAIR), [*PAIR, "activation"], ["task"], ["input:output"]
        found = pairwise(*given, error=error, adjust="none", reference=PAIRS[0]).to_frame()
        true = np.array([truth[_pair(label)] - truth[PAIRS[0]] for label in found["first"]])
        held = (found["lower"] <= true) & (true <= found["upper"])
        chosen = [_pair(label) for label in best(*given, error=error).may_be_best]
        counts += [len(held), held.sum(), 1, max(truth, key=truth.__getitem__) in chosen, len(chosen)]
    return counts


def _pair(label: str) -> tuple[str, str]:
    read, write = label.split(":")
    return read, write


def measure_cover(studies: int) -> list[dict[str, Any]]:
    """Run studies with effects on all cores; one row an error term, with and without failures."""
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for error in ("residual", "task"):
            for failures in (False, True):
                parts = [_CHUNK // 10] * (studies * 10 // _CHUNK)
                found = sum(pool.map(partial(cover, failures, error), parts, range(len(parts))), np.zeros(5))
                rows.append({
                    "error": error, "failures": failures, "studies": int(found[2]), "intervals": int(found[0]),
                    "hold the truth": found[1] / found[0], "sets with the best": found[3] / found[2],
                    "pairs in a set": found[4] / found[2],
                })  # fmt: skip
                print(f"effects, {error}, {'with' if failures else 'without'} failures: done", file=sys.stderr)
    return rows


def measure(studies: int) -> list[dict[str, Any]]:
    """Run all scenarios on all cores; one row a scenario and term."""
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for scenario in SDS:
            for failures in (False, True):
                block = None if scenario == "no variance by task" else ("task",)
                parts = [_CHUNK] * (studies // _CHUNK)
                run = partial(count, scenario, failures, block)
                totals: dict[str, np.ndarray] = {}
                for found in pool.map(run, parts, range(len(parts))):
                    for term, counts in found.items():
                        totals[term] = totals.get(term, np.zeros(3)) + counts
                for term, (tested, below, decided) in totals.items():
                    share, decisive = below / tested, decided / tested
                    rows.append({
                        "scenario": scenario, "failures": failures, "error": "task" if block else "residual",
                        "term": term, "studies": int(tested), "below": share, "decided": decisive,
                        "margin": 1.96 * float(np.sqrt(share * (1 - share) / tested)),
                    })  # fmt: skip
                print(f"{scenario}, {'with' if failures else 'without'} failures: done", file=sys.stderr)
    return rows


def main() -> None:
    """Run the simulation and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--with-effects", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows, covered = measure(given.studies), measure_cover(given.with_effects)
    if given.json:
        print(json.dumps({"rows": rows, "with effects": covered, "machine": machine()}, indent=1))
        return
    frame = pd.DataFrame(rows)
    for column in ("below", "decided", "margin"):
        frame[column] = (100 * frame[column]).round(2)
    print(frame.to_string(index=False))
    print(pd.DataFrame(covered).to_string(index=False))


if __name__ == "__main__":
    main()
