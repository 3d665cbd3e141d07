"""How often do searches find what the full factorial finds, with half its trials? Replays on a finished store.

    python -m benchmarks.search [--study STUDY] [--store DIR] [--replays 20] [--share 0.5] [--start 3]

Nothing is trained: the strategies of `study.strategies` plan as in a run, and are told the rows of a store that holds
the whole factorial. Replays of `optuna` differ in the sampler's seed; those of `refine` in the order of the tasks; the
baseline, `random`, draws as many designs as `optuna` has and runs each on every task.

What the searches are held to is what `analysis.recommend` says of all rows: the set of designs that may be the best,
the design with the best mean in it, and the means, of the additive model and as observed. Of a search's rows it says
the same (for `refine` the set is the last of its nested sets, and what it names the best mean in it). "named in the
set" is a hit; "best in the search's set" says whether what the full factorial names first was kept; "recall" and
"precision" compare the two sets; "regret" is by how much the full factorial's mean of what is named is below its best
one's.
One JSON document is printed.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.recommend_rule import recommend
from analysis.recommended import EXCLUDED
from benchmarks.common import machine
from study import Study
from study.canonical import canonical_json
from study.columns import SCORES, higher_is_better
from study.report_rows import results, terms
from study.strategies.ask_tell import Sampler, Settings
from study.strategies.optuna import Optuna
from study.strategies.refine import Refine
from study.strategies.search import Cell, Problem

SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "qmc")
ERROR = "residual"
"""On these tasks: all that replays on one store can be held to."""


@dataclass(frozen=True)
class Answer:
    """What the rule says of some rows.

    Attributes
    ----------
    inside : set of str
        Designs that may be the best, as JSON.
    first : str
        That of them with the best mean.
    means, observed : mapping of str to float
        Design → its mean in the model and over its rows.
    """

    inside: set[str]
    first: str
    means: Mapping[str, float]
    observed: Mapping[str, float]


class Store:
    """A finished store, as the searches and the rule see it."""

    def __init__(self, study: Study) -> None:
        self.frame, self.study = results(study), study
        self.primary = study.config.primary
        self.higher = higher_is_better(self.primary)
        self.factors, self.blocks, self.pair = terms(study)
        self.designs = study.config.space.designs
        self.keys = [canonical_json(design) for design in self.designs]
        self.replicates = [(task.name, seed) for seed in study.config.seeds for task in study.config.tasks]
        key = zip(self.frame["design_json"], self.frame["task"], self.frame["seed"], strict=True)
        self.rows = {(design, task, int(seed)): place for place, (design, task, seed) in enumerate(key)}
        missing = len(self.designs) * len(self.replicates) - len(self.rows)
        assert not missing, f"{missing} trials of the factorial are not in the store"

    def problem(self, replicates: list[tuple[str, int]]) -> Problem:
        """Return what a search is given, with the replicates in some order."""
        scores = self.frame[list(SCORES)].to_dict("records")
        varying = self.study.config.space.varying

        def outcome(cell: Cell) -> Mapping[str, float]:
            return {str(name): value for name, value in scores[self.place(cell, replicates)].items()}

        better = {score: higher_is_better(score) for score in SCORES}
        return Problem(self.designs, replicates, varying, self.factors, self.pair, self.primary, better, outcome)

    def place(self, cell: Cell, replicates: list[tuple[str, int]]) -> int:
        """Return the place of a cell's row."""
        return self.rows[(self.keys[cell[0]], *replicates[cell[1]])]

    def answer(self, rows: pd.DataFrame) -> Answer:
        """Apply the rule, without other scores, sizes and failures, of which the searches know nothing."""
        found = recommend(
            rows, self.primary, self.factors, self.blocks, self.pair, ERROR, self.higher, tests=False
        ).to_frame()
        keys = {tuple(str(row[f]) for f in self.factors): row["design_json"] for row in rows.to_dict("records")}
        found["key"] = [keys[tuple(str(row[f]) for f in self.factors)] for row in found.to_dict("records")]
        inside = found[found["verdict"] != EXCLUDED]
        best = inside["mean"].idxmax() if self.higher else inside["mean"].idxmin()
        means, observed = (dict(zip(found["key"], found[name], strict=True)) for name in ("mean", "observed"))
        return Answer(set(inside["key"]), str(found.loc[best, "key"]), means, observed)


def replay(store: Store, kind: str, number: int, budget: int, start: int) -> tuple[int, Answer]:
    """Search once; return the trials it took, and what the rule says of them."""
    rng = np.random.default_rng(number)
    replicates = list(store.replicates)
    if kind == "refine":
        replicates = [replicates[k] for k in rng.permutation(len(replicates))]
        problem = store.problem(replicates)
        strategy = Refine(start, budget, ERROR)
        cells = [cell for generation in strategy.grow(problem).generations for cell in generation]
        answer = store.answer(store.frame.iloc[[store.place(cell, replicates) for cell in cells]])
        left = set(store.keys)
        for at in range(start, len(replicates) + 1):  # what the strategy saw at each look, so that the sets are nested
            seen = [cell for cell in cells if cell[1] < at]
            left &= {store.keys[design] for design in strategy.possible(problem, seen)}
            if at == max(cell[1] for cell in cells) + 1:
                break
        kept = left & answer.inside or answer.inside
        first = (max if store.higher else min)(kept, key=lambda key: answer.means[key])
        return len(cells), Answer(kept, first, answer.means, answer.observed)
    if kind == "random":
        count = budget // len(replicates)
        drawn = [int(design) for design in rng.choice(len(store.designs), count, replace=False)]
        cells = [(design, at) for design in drawn for at in range(len(replicates))]
    else:
        sampler = next(name for name in SAMPLERS if kind == f"optuna, {name}")
        grown = Optuna(budget, Settings(sampler, number)).grow(store.problem(replicates))
        cells = [cell for generation in grown.generations for cell in generation]
    return len(cells), store.answer(store.frame.iloc[[store.place(cell, replicates) for cell in cells]])


def held(store: Store, full: Answer, kind: str, replays: int, budget: int, start: int) -> dict[str, object]:
    """Hold the replays of one kind to the full factorial."""
    sign = 1 if store.higher else -1
    begun, rows = time.process_time(), []
    best_seen = sign * max(sign * value for value in full.observed.values())
    for number in range(replays):
        trials, own = replay(store, kind, number, budget, start)
        rows.append({
            "trials": trials,
            "hit": own.first in full.inside,
            "kept": full.first in own.inside,
            "same": own.first == full.first,
            "equal": own.inside == full.inside,
            "recall": len(own.inside & full.inside) / len(full.inside),
            "precision": len(own.inside & full.inside) / len(own.inside),
            "size": len(own.inside),
            "regret": sign * (full.means[full.first] - full.means[own.first]),
            "observed": sign * (best_seen - full.observed[own.first]),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    return {
        "kind": kind,
        "trials, at most": int(frame["trials"].max()),
        "named in the set": int(frame["hit"].sum()),
        "missed": int((~frame["hit"]).sum()),
        "best in the search's set": int(frame["kept"].sum()),
        "names the same design": int(frame["same"].sum()),
        "sets are equal": int(frame["equal"].sum()),
        "recall": float(frame["recall"].mean()),
        "precision": float(frame["precision"].mean()),
        "size of the set": float(frame["size"].mean()),
        "regret": float(frame["regret"].mean()),
        "regret, worst": float(frame["regret"].max()),
        "regret, observed means": float(frame["observed"].mean()),
        "seconds a replay": (time.process_time() - begun) / replays,
    }


def main() -> None:
    """Run the replays and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="paper-micro")
    parser.add_argument("--store", default="docs/examples/paper-micro")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.5, help="of the factorial's trials")
    parser.add_argument("--start", type=int, default=3, help="replicates that refine gives every design")
    parser.add_argument("--kinds", default=";".join(["random", *(f"optuna, {name}" for name in SAMPLERS), "refine"]))
    given = parser.parse_args()
    store = Store(Study.load(given.study, given.store))
    full, trials = store.answer(store.frame), len(store.frame)
    budget = int(given.share * trials)
    kinds = given.kinds.split(";")
    print(
        json.dumps(
            {
                "study": given.study, "trials": trials, "budget": budget, "replays": given.replays,
                "start of refine": given.start, "error": ERROR, "designs": len(store.designs),
                "set of the full factorial": len(full.inside), "its best": full.first,
                "regret of a design drawn from all": float(
                    np.mean([abs(full.means[full.first] - value) for value in full.means.values()])
                ),
                "rows": [held(store, full, kind, given.replays, budget, given.start) for kind in kinds],
                "machine": machine(),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
