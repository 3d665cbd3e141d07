"""From a study file to a page, with the built-in model trained for real and processes killed for real."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from study.study import Study
from tests.study.test_kills import wait_until, workers_of

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "dreambooth" / "robot_toy"
COMMAND = (sys.executable, "-m", "study.cli.main")
QUICK = yaml.safe_load((ROOT / "study" / "studies" / "quick.yaml").read_text())
SHORT = {"steps": 6, "sampling_steps": 3, "pictures": 2, "prior_pictures": 4}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(autouse=True)
def processes_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def study_file(folder: Path, store: str, **changes) -> Path:
    protocol = QUICK["protocol"] | changes.get("protocol", {})
    sections = {**QUICK, **changes, "protocol": protocol, "store": str(folder / store)}
    file = folder / f"{store}.yaml"
    file.write_text(yaml.safe_dump(sections))
    return file


def run(file: Path) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, "run", str(file)], cwd=file.parent, capture_output=True, text=True)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
def test_killed_at_any_moment_the_study_ends_with_the_rows_and_numbers_of_one_that_was_left_alone(tmp_path):
    scores = {"clip_i": "micro-clip", "clip_t": "micro-clip", "dino_i": "micro-dino", "colour": "world"}
    whole = study_file(tmp_path, "whole", protocol=SHORT, tasks=["subject/robot"], scores=scores)
    assert run(whole).returncode == 0
    expected = Study.load(whole).store.rows().set_index("id").sort_index()
    assert len(expected) == 20 * 2 + 2

    broken = study_file(tmp_path, "broken", protocol=SHORT, tasks=["subject/robot"], scores=scores)
    store = (tmp_path / "broken").resolve()
    chance, left = random.Random(3), []
    for _ in range(4):
        driver = subprocess.Popen([*COMMAND, "run", str(broken)], cwd=tmp_path, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(chance.uniform(6, 25))
        for worker in workers_of(store)[: chance.randrange(3)]:
            os.kill(worker, signal.SIGKILL)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert wait_until(lambda: not workers_of(store), 30), "workers outlived their driver"
        left.append(len(Study.load(broken).store.rows()))
    assert left == sorted(left) and left[0] < len(expected), "no kill came while trials were running"
    ended = run(broken)
    assert ended.returncode == 0, ended.stderr

    loaded = Study.load(broken)
    attempts = loaded.store.attempts()
    assert not attempts["id"].duplicated().any()
    found = attempts.set_index("id").sort_index()
    assert list(found.index) == list(expected.index)
    # What was left of a pack is trained as another one: within a tenth of the seed-to-seed SD, as packs may differ.
    for score in scores:
        spread = expected.groupby(["input", "output"], dropna=False)[score].var().mean() ** 0.5
        assert (found[score] - expected[score]).abs().max() <= spread / 10, score
    alone = expected["method"] == "none"
    assert found.loc[alone, list(scores)].equals(expected.loc[alone, list(scores)])  # which are in no pack
    loaded.store.gc()
    assert len(loaded.store.images()) == 2 * len(expected)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"the photographs are not in {PHOTOGRAPHS}")
def test_three_pairs_on_real_photographs_reach_scores_an_anova_and_a_page(tmp_path):
    toy = {"kind": "subject", "name": "toy", "pictures": str(PHOTOGRAPHS), "class": "robot"}
    factors = {"input": ["SA_in", "CA_in", "CA_out"], "output": ["FFN_in"]}
    file = study_file(tmp_path, "toy", factors=factors, tasks=[toy], protocol=SHORT)
    ended = run(file)
    assert ended.returncode == 0, ended.stderr
    frame = Study.load(file).results()
    assert len(frame) == 3 * 2 and frame[["clip_i", "dino_i", "clip_t"]].notna().all(axis=None)
    told = subprocess.run([*COMMAND, "anova", "toy", "--response", "clip_i", "--factors", "input", "--blocks",
                           "task:seed", "--json"], cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert told.returncode == 0, told.stderr
    # Three pairs, two seeds as blocks: 2 and 2 degrees of freedom.
    (term,) = (t for t in json.loads(told.stdout)["terms"] if t["term"] == "input")
    assert (term["df"], term["error"]["df"]) == (2, 2)
    page = tmp_path / "toy.html"
    subprocess.run([*COMMAND, "report", str(file), "-o", str(page)], cwd=tmp_path, check=True)
    assert "<img" in page.read_text()


def test_the_methods_study_tunes_trains_and_reports_every_method(tmp_path):
    """The shipped study on one subject, a few steps each: what is chosen is what is then trained with."""
    shipped = yaml.safe_load((ROOT / "study" / "studies" / "methods.yaml").read_text())
    shipped["protocol"] |= SHORT
    shipped["tune"] |= {"tasks": ["subject/boat"], "grid": {"learning_rate": [1e-3, 1e-2]}}
    file = tmp_path / "methods.yaml"
    file.write_text(yaml.safe_dump({**shipped, "tasks": ["subject/robot"], "store": str(tmp_path / "methods")}))
    ended = run(file)
    assert ended.returncode == 0, ended.stderr
    study = Study.load(file)
    frame, tuned = study.results(), study.tuned()
    assert set(frame["method"]) == set(shipped["factors"]["method"]) and (frame["status"] == "done").all()
    assert frame[["clip_i", "clip_t", "dino_i", "colour"]].notna().all(axis=None)
    picked = tuned[tuned["chosen"]].set_index(["method", "part"])["learning_rate"].to_dict()
    assert len(picked) == len(tuned) / 2
    for _, row in frame.iterrows():
        part = row["part"] if isinstance(row["part"], str) else "absent"
        assert json.loads(row["protocol_json"])["learning_rate"] == picked[row["method"], part]
    # Every method but prompt tokens starts as the backbone; float32 rounding.
    started = frame.set_index("method")["start_change"]
    assert started.drop("vpt").max() < 1e-4 < started["vpt"].min()
    command = [*COMMAND, "report", str(file), "-o", "page.html"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    text = (tmp_path / "page.html").read_text()
    assert "What was tuned first" in text and "On the front of score against size" in text and "krona budget 5%" in text
