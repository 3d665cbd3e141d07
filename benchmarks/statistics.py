"""How fast the analysis of variance is and how much memory it takes, with statsmodels beside it.

    python -m benchmarks.statistics [--rounds 3] [--without-statsmodels]

Every measurement is a process of its own: seconds are of the analysis alone (reading the data and importing aside),
memory is the peak of the process beyond what it held before. The design is the paper's: 20 pairs of positions × 4
activations × 4 scales × 5 tasks; statsmodels fits the same terms with all cells of input × output filled, as it needs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import product
from typing import Any

from benchmarks.common import machine

FACTORS = ["input", "output", "activation", "scale"]
CASES = {
    "20,000 rows, two-way": (20_000, 2),
    "20,000 rows, three-way": (20_000, 3),
    "1,000,000 rows, two-way": (1_000_000, 2),
}


def frame_of(rows: int, filled: bool) -> Any:
    """Return rows of the design in random order, or of one with as many cells and none empty."""
    import numpy as np
    import pandas as pd

    from adapters import PAIRS

    rng = np.random.default_rng(0)
    pairs = list(product("abcde", "uvwx")) if filled else list(PAIRS)
    cells = [(*pair, a, s, t) for pair in pairs for a in "rsti" for s in (0.5, 1.0, 2.0, 4.0) for t in range(5)]
    design = pd.DataFrame(cells, columns=[*FACTORS, "task"])
    return design.iloc[rng.integers(0, len(design), rows)].reset_index(drop=True).assign(y=rng.normal(size=rows))


def measure(rows: int, order: int, library: str) -> dict[str, float]:
    """Analyse once, in this process."""
    from itertools import combinations

    crossed = [":".join(c) for k in range(2, order + 1) for c in combinations(FACTORS, k)]
    frame = frame_of(rows, filled=library == "statsmodels")
    if library == "ours":
        from analysis import anova

        anova(frame.head(3000), "y", ["activation"])
        held = _peak()
        start = time.perf_counter()
        anova(frame, "y", FACTORS, ["task"], crossed, error="residual")
    else:
        import statsmodels.formula.api as smf
        from statsmodels.stats.anova import anova_lm

        terms = " + ".join(["C(task)", *(f"C({f})" for f in FACTORS)])
        terms += "".join(" + " + ":".join(f"C({f})" for f in c.split(":")) for c in crossed)
        held = _peak()
        start = time.perf_counter()
        anova_lm(smf.ols(f"y ~ {terms}", frame).fit(), typ=2)
    return {"seconds": time.perf_counter() - start, "megabytes": (_peak() - held) / 2**20}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Run all cases in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-statsmodels", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(int(given.one[0]), int(given.one[1]), given.one[2])))
        return
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for case, (rows, order) in CASES.items():
            for library in ("ours", "statsmodels"):
                if library == "statsmodels" and (given.without_statsmodels or rows > 100_000):
                    continue  # a million dense rows are more than most machines hold
                command = [sys.executable, "-m", "benchmarks.statistics", "--one", str(rows), str(order), library]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seen.setdefault((case, library), []).append(json.loads(done.stdout))
                print(case, library, seen[case, library][-1], file=sys.stderr)
    found: dict[str, Any] = {}
    for (case, library), runs in seen.items():
        own = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        found.setdefault(case, {})[library] = own
    print(json.dumps({"cases": found, "rounds": given.rounds, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
