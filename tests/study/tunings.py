"""A study that tunes learning rates on two tasks, its truth, and results of its trials as told."""

import json
from pathlib import Path

import pytest

from study import Study
from study.trial import Trial, TrialResult
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
RATES = [3e-4, 1e-3, 3e-3, 1e-2]
BEST = {"adapter": 3e-3, "full": 1e-3}
"""The truth that the fake runtime's scores are made from."""
TASKS = [
    {"name": "ham", "pictures": "photos", "class": "hamster"},
    {"name": "ant", "pictures": "photos", "class": "insect"},
]
CHANGES = {
    "factors": {"method": ["adapter", "full"]},
    "nested": [
        {
            "when": {"method": "adapter"},
            "factors": {"input": ["SA_in", "CA_out"], "output": ["FFN_in"], "activation": ["relu"], "width": [2, 4]},
        }
    ],
    "fixed": {},
    "tune": {"tasks": TASKS, "grid": {"learning_rate": RATES}},
}
TUNE = 2 * 4 * 2
"""Two groups (adapter and full), four rates, two tasks, one seed."""


def find_the_packages_and_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes find the packages, and the best rates that scores are made from."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_RATES", json.dumps(BEST))


def study_of(root: Path, **changes) -> Study:
    return Study.load(fakes.study_file(root, **{**CHANGES, **changes}))


def tune(**changes) -> dict:
    return {**CHANGES["tune"], **changes}


def commit(study: Study, trial: Trial, score: float | None, status: str = "done") -> None:
    """Store a result as a worker would."""
    scores = {} if score is None else {"clip_i": score}
    study.store.commit(TrialResult(trial, status, "" if status == "done" else "as told", scores), "fake")


def fill(study: Study, score) -> None:
    """Store a result of every tune trial; `score` is called with it, and None stands for divergence."""
    for trial in study.tune_trials:
        value = score(trial)
        commit(study, trial, value, "done" if value is not None else "diverged")


def truth(trial: Trial) -> float:
    return fakes.score_at(trial.protocol.learning_rate, BEST[trial.design["method"]])


def chosen(study: Study) -> dict[str, float]:
    frame = study.tuned()
    return {row["method"]: row["learning_rate"] for _, row in frame[frame["chosen"]].iterrows()}
