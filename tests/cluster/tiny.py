"""What the tests of all clusters share: studies on micro-unet, one of five trials, and how their end is checked."""

import subprocess
import sys
import time
from pathlib import Path

import yaml

from study.config import SHIPPED
from study.study import Study

ROOT = Path(__file__).resolve().parents[2]
STUDY = {
    "name": "tiny",
    "backbone": "micro-unet",
    "factors": {"input": ["CA_out", "FFN_in"], "output": ["FFN_in", "Trans_out"]},
    "fixed": {"method": "adapter", "width": 2},
    "tasks": ["subject/robot"],
    "protocol": {"steps": 3, "batch": 1, "prior_pictures": 1, "sampling_steps": 2, "pictures": 1},
    "scores": {"clip_i": "micro-clip"},
}
QUICK_SECONDS = 5400
TRIALS = 5
"""Four valid pairs and the untuned backbone."""


def study_file(folder: Path, **changes: object) -> Path:
    """Write the study's file, with some sections changed."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "store": str(folder / "store"), **changes}, sort_keys=False))
    return file


def quick_file(folder: Path, **changes: object) -> Path:
    """Write the shipped study `quick`, with some sections changed."""
    file = folder / "quick.yaml"
    quick = yaml.safe_load((SHIPPED / "quick.yaml").read_text())
    file.write_text(yaml.safe_dump({**quick, "store": str(folder / "store"), **changes}, sort_keys=False))
    return file


def check_quick(file: Path, *flags: str) -> None:
    """Run the study `quick` to its end on a cluster, and find each of its trials done once and scored."""
    driver = adapter_study("run", file, *flags)
    said = driver.communicate(timeout=QUICK_SECONDS)
    assert driver.returncode == 0, said
    check_once(file)
    rows = Study.load(file).store.rows()
    assert rows[["clip_i", "clip_t", "dino_i"]].notna().all(axis=None)
    assert "input" in said[0] and "output" in said[0], "the analysis of variance is printed"


def adapter_study(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "study.cli.main", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_until(condition, seconds: float = 240):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)
    return found


def check_once(study: Path, status: str = "done") -> None:
    """Every trial has its row, once, at its first attempt, and nothing is left over."""
    loaded = Study.load(study)
    attempts = loaded.store.attempts()
    assert sorted(attempts["id"]) == sorted(trial.id for trial in loaded.trials)
    assert set(attempts["status"]) == {status} and set(attempts["attempt"]) == {1}
    assert list(loaded.store.packs.iterdir()) == []
    assert all((loaded.store.folder / log).is_file() for log in attempts["log"])
