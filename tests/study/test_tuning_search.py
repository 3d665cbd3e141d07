"""Tuning by search: ranges in place of a grid."""

import json
from pathlib import Path

import optuna
import pytest

from adapters.faults import InputFault
from study import Study, config
from study.cli.dry_run import describe
from study.executors.local import LocalExecutor
from study.tuning_search import Range
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
BEST = {"adapter": 3e-3, "full": 1e-3}
"""The truth that the fake runtime's scores are made from: the score falls with the distance in orders of magnitude."""
RANGE = {"low": 1e-4, "high": 1e-1, "log": True}
TUNE = {
    "tasks": [{"name": "ham", "pictures": "photos", "class": "hamster"}],
    "ranges": {"learning_rate": RANGE, "sampler": ["ddim", "dpmsolver++"]},
    "strategy": {"kind": "optuna", "trials": 16, "batch": 4},
}
CHANGES = {
    "factors": {"method": ["adapter", "full"]},
    "nested": [
        {"when": {"method": "adapter"}, "factors": {"input": ["SA_in"], "output": ["FFN_in"], "width": [2, 4]}},
    ],
    "fixed": {},
}


@pytest.fixture(autouse=True)
def workers_find_the_packages_and_the_truth(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_RATES", json.dumps(BEST))


def driven(path: Path, limit: int | None = None, workers: int = 1) -> Study:
    study = Study.load(path)
    study.run(limit=limit, executor=LocalExecutor(study.store, ["cpu"] * workers, command=fakes.COMMAND))
    return study


def test_search_finds_rates_near_the_best_and_the_same_ones_after_interruptions(tmp_path):
    whole = driven(fakes.study_file(tmp_path, **CHANGES, tune=TUNE, store=str(tmp_path / "one")))
    tuned = whole.tuned()
    assert tuned.groupby("method")["planned"].sum().to_dict() == {"adapter": 16, "full": 16}
    chosen = tuned[tuned["chosen"]].set_index("method")
    for method, rate in BEST.items():
        assert rate / 3 < chosen.loc[method, "learning_rate"] < 3 * rate
    assert not chosen["at_edge"].any()
    path = fakes.study_file(tmp_path, **CHANGES, tune=TUNE, store=str(tmp_path / "two"))
    driven(path, limit=5)
    parts = driven(path, workers=2)
    assert set(parts.store.rows()["id"]) == set(whole.store.rows()["id"])
    assert parts.status()["tune"] == whole.status()["tune"]
    told = "\n".join(describe(parts))
    assert "learning_rate 0.0001 to 0.1 (log); sampler ddim, dpmsolver++" in told and "2 groups × 16 points" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"learning_rate": [1e-3]}}, "expected either a grid"),
        ({"strategy": None}, "expected either a grid"),
        ({"strategy": {"kind": "optuna", "trials": 1}}, "expected at least 2"),
        ({"ranges": {"learning_rate": {"low": 1e-1, "high": 1e-4}}}, "expected low to be less"),
        ({"ranges": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "ranges.learning_rate"),
        ({"ranges": {"steps": {"low": 1.5, "high": 9}}}, "ranges.steps.low"),
        ({"ranges": {"sampler": {"low": 1, "high": 2}}}, "this is no number"),
        ({"ranges": {"learning_rate": 1e-3}}, "or {low: …, high: …}"),
        ({"ranges": {"lerning_rate": RANGE}}, "did you mean learning_rate?"),
        ({"ranges": {"learning_rate": {**RANGE, "hihg": 1}}}, "did you mean high?"),
        ({"ranges": {"learning_rate": []}}, "got [], expected values to try"),
        ({"ranges": {"steps": {"low": 50, "high": 400, "step": 60}}}, "the last before 400 is 350"),
        ({"ranges": {"guidance": {"low": 1, "high": 2, "step": 3}}}, "the last before 2 is 1"),
        ({"ranges": {"steps": {"low": 1, "high": 1e300}}}, "less than 1000000000000000"),
        ({"strategy": {"kind": "optuna", "trials": 16, "scores": ["clip_i"]}}, "one of batch, kind, sampler, seed"),
    ],
)
def test_what_cannot_be_searched_is_told_with_its_key(tmp_path, changes, words):
    with pytest.raises(InputFault) as caught:
        config.read(fakes.study_file(tmp_path, **CHANGES, tune={**TUNE, **changes}))
    assert "tune" in str(caught.value) and words in str(caught.value)


def test_numbers_in_steps_stand_on_them_and_reach_the_end():
    # By definition low + k step: 0.1, 0.1005, … 0.102, which three digits would not tell apart.
    fine = Range(0.1, 0.102, step=0.0005)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = {fine.suggest(study.ask(), "guidance") for _ in range(100)}
    assert found == {0.1, 0.1005, 0.101, 0.1015, 0.102}
