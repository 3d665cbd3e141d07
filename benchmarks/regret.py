"""How good is what the recipe names: replays of the quick study with planted truth, at its measured variance.

    python -m benchmarks.regret [--replays 10000] [--tasks 2,4,8] [--through 10]

A replay is the quick study's design (the 20 valid pairs, two seeds) on 2, 4 or 8 tasks. Its truth is drawn: the means
of the pairs, how much each differs from task to task, and the noise of seeds, with the SDs of the quick study's results
(CLIP-I on the built-in model):

    adapter-study variance runs/quick --response clip_i --factors input,output --blocks task,task:seed

What the rule of `analysis.recommend` names, with standard errors from the tasks, is held to the truth on new tasks.
Regret is how much lower the true mean of the named pair is than the truly best one's. "holds the lead" is the share of
replays in which Hsu's interval holds the true lead of the named pair over the best other one. The set on these tasks is
held to the truth on the tasks of the replay.

Where all pairs have one size, as in the quick study, the rule names the best mean ("regret"). Beside it ("sizes vary"),
each pair has 1, 2, 4 or 8 units of parameters, drawn without regard to its quality, so that the regret shows what the
preference for small designs costs; and beside that, what taking the smallest of the set whatever its mean would cost.

On balanced rows the rule has a closed form, which serves here, since it is a thousand times as fast. The first replays
of each kind (`--through`) go through `analysis.recommend` itself; one that it answers otherwise ends the program.
One JSON document is printed.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from adapters import PAIRS
from analysis.multiplicity import LargestT
from analysis.recommend_rule import SAME_SIZE, recommend
from benchmarks.common import machine

PAIR_SD, PAIR_TASK_SD, TRIAL_SD = 0.0126, (0.0, 0.0119), 0.0163
"""Of the pairs' true means; of how much a pair differs from task to task; of a trial about its pair's mean on its task.

The second is estimated as 0 by two tasks; beside it stands the upper end of its 95 % interval.
"""
TASK_SD, SEED_SD, SEEDS = 0.1, 0.02, 2
"""What all pairs of a task or of a seed share cancels in every comparison; its size is of no matter."""
LEVEL, COUNT = 0.95, len(PAIRS)


@dataclass(frozen=True)
class Replays:
    """Truths and studies of them.

    Attributes
    ----------
    truth : array (replays, pairs)
        True means on new tasks.
    here : array (replays, pairs)
        True means on the tasks of the replay.
    score : array (replays, pairs, tasks, seeds)
    size : int array (replays, pairs)
    """

    truth: np.ndarray
    here: np.ndarray
    score: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Named:
    """What the rule says of each replay: the sets (bool), Hsu's bounds (both (replays, pairs)), the named pairs."""

    inside: np.ndarray
    here: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    leader: np.ndarray
    small: np.ndarray
    smallest: np.ndarray


def draw(replays: int, tasks: int, pair_task_sd: float) -> Replays:
    """Draw truths and studies."""
    rng = np.random.default_rng([tasks, round(1e4 * pair_task_sd)])
    truth = PAIR_SD * rng.normal(size=(replays, COUNT))
    by_task = pair_task_sd * rng.normal(size=(replays, COUNT, tasks))
    shared = TASK_SD * rng.normal(size=(replays, 1, tasks, 1)) + SEED_SD * rng.normal(size=(replays, 1, tasks, SEEDS))
    noise = TRIAL_SD * rng.normal(size=(replays, COUNT, tasks, SEEDS))
    score = truth[:, :, None, None] + by_task[:, :, :, None] + shared + noise
    return Replays(truth, truth + by_task.mean(axis=2), score, rng.choice([1, 2, 4, 8], size=(replays, COUNT)))


def apply(drawn: Replays) -> Named:
    """Give what the rule says, in closed form."""
    y, size = drawn.score, drawn.size
    tasks, rows = y.shape[2], y.shape[2] * SEEDS
    pair, pair_task = y.mean(axis=(2, 3), keepdims=True), y.mean(axis=3, keepdims=True)
    task, task_seed = y.mean(axis=(1, 3), keepdims=True), y.mean(axis=1, keepdims=True)
    grand = y.mean(axis=(1, 2, 3), keepdims=True)

    def mean_square(left: np.ndarray, df: int, times: int = 1) -> np.ndarray:
        return times * np.square(left).sum(axis=(1, 2, 3)) / df

    by_task_df, residual_df = (COUNT - 1) * (tasks - 1), (COUNT - 1) * (rows - 1)
    by_task = mean_square(pair_task - pair - task + grand, by_task_df, SEEDS)
    residual = mean_square(y - pair - task_seed + grand, residual_df)
    trial_sd = np.sqrt(mean_square(y - pair_task - task_seed + task, (COUNT - 1) * tasks * (SEEDS - 1)))
    mean = pair[:, :, 0, 0]
    reach = _reach(by_task, by_task_df, rows)
    inside = _ahead(mean) + reach > 0
    alone = inside.sum(axis=1, keepdims=True) == 1
    lead = _ahead(np.where(inside, mean, -np.inf), mean)
    lower = np.where(alone & inside, 0.0, np.minimum(0, lead - reach))
    near = inside & (mean >= mean.max(axis=1, keepdims=True) - trial_sd[:, None])
    few = near & (size <= (1 + SAME_SIZE) * np.where(near, size, np.inf).min(axis=1, keepdims=True))
    fewest = inside & (size == np.where(inside, size, np.inf).min(axis=1, keepdims=True))
    return Named(
        inside=inside,
        here=_ahead(mean) + _reach(residual, residual_df, rows) > 0,
        lower=lower,
        upper=np.maximum(0, _ahead(mean) + reach),
        leader=mean.argmax(axis=1),
        small=np.where(few, mean, -np.inf).argmax(axis=1),
        smallest=np.where(fewest, mean, -np.inf).argmax(axis=1),
    )


def _ahead(rivals: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """How far each of (replays, pairs) is ahead of the best other one."""
    ordered = np.sort(rivals, axis=1)
    best_other = np.where(np.arange(COUNT) == rivals.argmax(axis=1)[:, None], ordered[:, -2:-1], ordered[:, -1:])
    return (rivals if own is None else own) - best_other


def _reach(mean_square: np.ndarray, df: int, rows: int) -> np.ndarray:
    """Hsu's critical value times the standard error of a difference, (replays, 1)."""
    critical = LargestT(np.full((COUNT - 1, COUNT - 1), 0.5) + 0.5 * np.eye(COUNT - 1), df).critical(LEVEL)
    return critical * np.sqrt(2 * mean_square / rows)[:, None]


def check(drawn: Replays, named: Named, number: int) -> None:
    """Raise AssertionError unless `analysis.recommend` says the same of a replay."""
    tasks = drawn.score.shape[2]
    cells = [(i, o, f"t{t}", s) for i, o in PAIRS for t in range(tasks) for s in range(SEEDS)]
    rows = pd.DataFrame(cells, columns=["input", "output", "task", "seed"]).assign(score=drawn.score[number].ravel())
    for size, chosen in ((np.ones(COUNT), named.leader), (drawn.size[number], named.small)):
        rows["parameters"] = np.repeat(size, tasks * SEEDS)
        given = rows, "score", ["input", "output"], ["task", "task:seed"], ("input", "output")
        found = recommend(*given, parameters="parameters", tests=False)
        place = {":".join(pair): k for k, pair in enumerate(PAIRS)}
        assert place[found.chosen] == chosen[number], (number, found.chosen)
        assert {place[name] for name in found.may_be_best} == set(np.flatnonzero(named.inside[number])), number
        assert {place[name] for name in found.on_these_tasks} == set(np.flatnonzero(named.here[number])), number
        bounds = found.sets[0].rows.set_index(found.sets[0].rows["level"].map(place)).loc[list(range(COUNT))]
        np.testing.assert_allclose(bounds["lower"], named.lower[number], atol=1e-9)
        np.testing.assert_allclose(bounds["upper"], named.upper[number], atol=1e-9)


def summary(drawn: Replays, named: Named) -> dict[str, float]:
    """Hold what is named to the truth."""
    every = np.arange(len(drawn.truth))
    best, best_here, top = drawn.truth.argmax(axis=1), drawn.here.argmax(axis=1), drawn.truth.max(axis=1)
    lead = _ahead(drawn.truth)

    def holds(chosen: np.ndarray) -> float:
        at = every, chosen
        return float(((named.lower[at] <= lead[at]) & (lead[at] <= named.upper[at])).mean())

    def regret(chosen: np.ndarray) -> np.ndarray:
        return np.asarray(top - drawn.truth[every, chosen])

    return {
        "regret": float(regret(named.leader).mean()),
        "regret in SDs of a trial": float(regret(named.leader).mean()) / TRIAL_SD,
        "regret, 95th percentile": float(np.quantile(regret(named.leader), 0.95)),
        "names the best": float((named.leader == best).mean()),
        "set": float(named.inside.sum(axis=1).mean()),
        "best in the set": float(named.inside[every, best].mean()),
        "holds the lead": holds(named.leader),
        "set on these tasks": float(named.here.sum(axis=1).mean()),
        "best on these tasks in it": float(named.here[every, best_here].mean()),
        "regret, sizes vary": float(regret(named.small).mean()),
        "holds the lead, sizes vary": holds(named.small),
        "size, sizes vary": float(drawn.size[every, named.small].mean()),
        "regret of the smallest in the set": float(regret(named.smallest).mean()),
        "regret of a random pair": float((top - drawn.truth.mean(axis=1)).mean()),
    }


def main() -> None:
    """Run the replays and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=10_000)
    parser.add_argument("--tasks", default="2,4,8")
    parser.add_argument("--through", type=int, default=10)
    given = parser.parse_args()
    rows = []
    for tasks, sd in product(map(int, given.tasks.split(",")), PAIR_TASK_SD):
        drawn = draw(given.replays, tasks, sd)
        named = apply(drawn)
        for number in range(given.through):
            check(drawn, named, number)
        rows.append({"tasks": tasks, "pair:task SD": sd, "replays": given.replays, **summary(drawn, named)})
    planted = {"pair SD": PAIR_SD, "pair:task SD": list(PAIR_TASK_SD), "trial SD": TRIAL_SD, "pairs": COUNT}
    print(json.dumps({"planted": planted, "seeds": SEEDS, "rows": rows, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
