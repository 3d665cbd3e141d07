"""`adapter-study variance`: numbers, JSON, pictures of a store and faults of the command."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adapters.faults import InputFault
from analysis.variance import variance_components
from study.cli import variance
from study.config import Protocol
from study.store import Store
from study.trial import Trial, TrialResult

ROOT = Path(__file__).parents[2]
FAILED = ROOT / "tests" / "data" / "anova_oracles" / "adapter_failed.csv"


def test_one_json_document_on_stdout_without_torch():
    code = (
        "import sys; from study.cli import variance; from pathlib import Path;"
        f"variance.command(Path({str(FAILED)!r}), response='score', factors='in_pos,out_pos,form', as_json=True);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    known = variance_components(pd.read_csv(FAILED), "score", ["in_pos", "out_pos", "form"])
    assert (document["n"], document["n_missing"], document["designs"]) == (495, 45, 44)
    assert [row["variance"] for row in document["components"]] == pytest.approx(
        [row.variance for row in known.components]
    )
    assert [row["buy"] for row in document["budget"]] == ["as run", "task", "seed"]
    assert "495 rows" in done.stderr


def test_the_table_for_people_has_every_component_and_the_words(capsys):
    variance.command(FAILED, response="score", factors="form", blocks="task,task:seed,task:in_pos")
    said = " ".join(capsys.readouterr().out.split())
    for words in ("design:task:in_pos", "of a difference", "Twice as many tasks", "45 rows without a score"):
        assert words in said, words


@pytest.fixture
def store(tmp_path) -> Path:
    """Two designs, two tasks, two seeds; four pictures of two prompts each, one trial without any."""
    rng = np.random.default_rng(0)
    own = Store(tmp_path / "store")
    for k, (position, task, seed) in enumerate(
        (p, t, s) for p in ("SA_in", "CA_out") for t in ("a", "b") for s in (0, 1)
    ):
        design = {"method": "adapter", "input": position, "output": "FFN_in", "width": 2}
        trial = Trial("b", design, f"subject/{task}", seed, Protocol(), backbone_hash="b", task_hash=task)
        images = [
            {"prompt": f"{task} {n % 2}", "prompt_index": n % 2, "picture_seed": n, "clip_i": float(rng.normal())}
            for n in range(4)
        ]
        done = k > 0
        score = float(np.mean([image["clip_i"] for image in images])) if done else math.nan
        own.commit(
            TrialResult(trial, "done" if done else "diverged", scores={"clip_i": score}, images=images if done else [])
        )
    return own.folder


def test_pictures_of_a_store_are_rows_with_prompts_of_their_own(store, capsys):
    variance.command(store, response="clip_i", factors="input", pictures=True, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["n"] == 7 * 4 and document["units"]["prompt"] == 2 and document["units"]["picture"] == 2
    assert {"task:prompt", "design:task:prompt"} <= {row["component"] for row in document["components"]}
    assert document["evaluation"]["rows"] == pytest.approx(4)
    variance.command(store, response="clip_i", factors="input", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["n"], document["n_missing"], document["evaluation"]) == (7, 1, None)


def test_pictures_of_a_file_are_refused():
    with pytest.raises(InputFault, match="--pictures needs a store"):
        variance.command(FAILED, response="score", factors="form", pictures=True)
