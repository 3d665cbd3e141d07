"""Trials that are trained for real and scored on their way: which end there, and that nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from study import Study, plan
from study.columns import SCORES
from study.loaded import Worker
from study.pack import run_pack
from study.store import Known
from study.trial import Pack, Trial, TrialResult
from tests.study import tiny

STRATEGY = {
    "kind": "optuna", "trials": 9, "batch": 3,
    "pruner": {"kind": "median", "at": [0.25, 0.5], "pictures": 2, "startup_trials": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("way")
    tiny.photographs(root)
    tiny.pipeline_folder(root)
    tiny.clip_folder(root)
    return root


@pytest.fixture(scope="module")
def worker():
    return Worker("cpu")


def study(root: Path, name: str) -> Study:
    # float64, where packs agree to rounding that turns no decision; a rate at which scores of designs differ.
    protocol = {"steps": 8, "learning_rate": 0.1, "sampling_steps": 2, "pictures": 3, "prior_pictures": 2, "batch": 1,
                "precision": "float64"}  # fmt: skip
    factors = {"input": ["SA_in", "CA_out", "FFN_in"], "output": ["SA_in", "FFN_in"],
               "activation": ["relu", "silu", "sigmoid"]}  # fmt: skip
    return Study(
        root, root / name, name="way", backbone="tiny-epsilon-0", factors=factors,
        fixed={"method": "adapter", "width": 2}, tasks=[{"name": "rex", "pictures": "rex", "class": "robot"}],
        strategy=STRATEGY, protocol=protocol,
        scores={"clip_i": "clip-1"},
    )  # fmt: skip


def packs(own: Study, trials: list[Trial], together: int) -> list[Pack]:
    attempts = Known.of(own.store.attempts()).attempts
    found = plan.packs(own.config, trials, attempts, str(own.store.folder), together=together)
    return [Pack.from_json(pack.to_json()) for pack in found]


def searched(own: Study, worker: Worker, together: int) -> Study:
    """Run a search in this process."""
    while True:
        over = {*own.store.rows()["id"], *own.pruned()["id"]}
        wanted = [trial for trial in own.trials if trial.id not in over]
        if not wanted:
            return own
        for pack in packs(own, wanted, together):
            run_pack(pack, worker, lambda result: own.store.commit(result) or pytest.fail("a row twice"))


@pytest.fixture(scope="module")
def alone(root, worker):
    return searched(study(root, "alone"), worker, 1)


def table(own: Study) -> pd.DataFrame:
    return own.store.attempts().set_index("id").sort_index()


def test_packs_of_one_and_of_four_prune_the_same_trials_at_the_same_steps(root, worker, alone):
    one, four = table(alone), table(searched(study(root, "four"), worker, 4))
    assert one["status"].value_counts().to_dict() == four["status"].value_counts().to_dict()
    assert (one["status"] == "pruned").sum() >= 1 and (one["status"] == "done").sum() >= 4
    for column in ("status", "steps_done", "error"):
        assert one[column].equals(four[column])
    pd.testing.assert_frame_equal(one[list(SCORES)], four[list(SCORES)], rtol=1e-9)
    assert four["pack_size"].max() > 1


def test_a_trial_that_is_not_pruned_has_the_numbers_it_has_without_bit_for_bit(alone, worker):
    whole = {trial.id: trial for trial in alone.trials if trial.pruning is not None}
    rows, curves = alone.results().set_index("id"), alone.store.curves()
    some = [replace(whole[id], pruning=None) for id in list(rows.index[-3:])]
    results: list[TrialResult] = []
    for pack in packs(alone, some, 1):
        run_pack(pack, worker, results.append)
    assert [result.status for result in results] == ["done"] * 3
    for result in results:
        id = result.trial.id
        assert {name: rows[name][id] for name in result.scores} == result.scores
        assert curves[curves["id"] == id]["loss"].tolist() == [point["loss"] for point in result.curves]
        assert rows["final_loss"][id] == result.columns["final_loss"]
        assert rows["intermediate_json"][id] and "intermediate_json" not in result.columns


def test_a_pruned_trial_has_what_it_scored_on_its_way_and_no_score(alone):
    lost, done = alone.pruned(), alone.results()
    for row in lost.to_dict("records"):
        told = json.loads(row["intermediate_json"])
        last = max(map(int, told["values"]))
        assert told["score"] == "clip_i" and told["pictures"] == 2
        assert row["steps_done"] == 8 * last // 100 and row["error"] == f"pruned after {row['steps_done']} of 8 steps"
    scores = [name for name in (*SCORES, "final_loss") if name in lost]
    assert lost[scores].isna().all(axis=None) and set(done["steps_done"]) == {8}
    assert not set(lost["id"]) & set(alone.store.images()["id"])
    # The first generation has none to be compared with.
    first = {trial.id for trial in alone.trials if trial.pruning and not trial.pruning.evidence.past}
    assert len(first) == 3 and first <= set(done["id"])
