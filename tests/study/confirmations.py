"""A study to confirm recipes with: tuned, its section `confirm`, and results of its trials as told."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from study import Study
from study.confirm import Confirming
from study.trial import Trial, TrialResult
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
BEST = {"adapter": 1e-3, "lora": 3e-3, "full": 1e-3}
"""The rates that the tune trials of this file favour."""
RATES = [3e-4, 1e-3, 3e-3, 1e-2]
NEW = [{"name": name, "pictures": "photos", "class": name} for name in ("owl", "elk", "eel")]
CHANGES = {
    "factors": {"method": ["adapter", "lora", "full"]},
    "nested": [
        {
            "when": {"method": "adapter"},
            "factors": {"input": ["SA_in", "CA_out"], "output": ["FFN_in"], "activation": ["relu"], "budget": ["5%"]},
        },
        {"when": {"method": "lora"}, "factors": {"budget": ["5%", "1%"]}},
    ],
    "fixed": {},
    "seeds": 1,
    "tune": {"tasks": [{"name": "ham", "pictures": "photos", "class": "hamster"}], "grid": {"learning_rate": RATES}},
    "confirm": {
        "tasks": NEW,
        "seeds": 2,
        "margin": 0.02,
        "against": ["lora", "bitfit", "full"],
        "learning_rates": {"bitfit": 0.02},
    },
}
RECIPE = {
    "name": "best",
    "backbone": "pipe",
    "design": {"method": "adapter", "input": "SA_in", "output": "FFN_in", "activation": "relu", "budget": "5%"},
    "protocol": {"steps": 3, "pictures": 2, "learning_rate": 5e-3},
    "evidence": {"clip_i": 0.9},
}
PLANNED = 4 * 3 * 2
"""The recipe and three methods, three tasks, two seeds."""


def prepared(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Let processes find the packages, work in the folder, and in the end take the command's handler back."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def study_of(root: Path, **changes) -> Study:
    """The study with some sections changed; None leaves one out."""
    sections = {**CHANGES, **changes}
    return Study.load(fakes.study_file(root, **{name: value for name, value in sections.items() if value is not None}))


def section(**changes) -> dict:
    return {**CHANGES["confirm"], **changes}


def recipe_file(root: Path, **changes) -> Path:
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def commit(study: Study, trial: Trial, score: float | None, status: str = "done", **columns) -> None:
    scores = {} if score is None else {"clip_i": score}
    result = TrialResult(trial, status, "" if status == "done" else "as told", scores, columns)
    study.store.commit(result, study.config.name)


def tuned(root: Path, **changes) -> Study:
    """A study whose tuning has ended: each method's best rate is that of BEST."""
    study = study_of(root, **changes)
    for trial in study.tune_trials:
        commit(study, trial, fakes.score_at(trial.protocol.learning_rate, BEST[trial.design["method"]]))
    return study


def of(study: Study, root: Path, **changes) -> Confirming:
    return Confirming(study, recipe_file(root, **changes))


def fill(confirming: Confirming, score=None) -> None:
    """Store a result of every trial; None stands for divergence."""
    numbers = np.random.default_rng(0)
    for trial in confirming.trials:
        value = score(trial) if score else float(numbers.normal(0.5, 0.1))
        commit(confirming.study, trial, value, "diverged" if value is None else "done", parameters=1000)
