"""`adapter-study power`: the study's own design, variances given or from a pilot, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from adapters.positions import PAIRS
from analysis import anova
from analysis.power_design import power
from study.cli import power as command
from study.cli.main import guarded
from study.study import Study

ROOT = Path(__file__).parents[2]
POSITIONS = pd.DataFrame(PAIRS, columns=["input", "output"])
QUICK = {"cells": POSITIONS, "factors": ["input", "output"], "pair": ("input", "output")}


def call(*words: str) -> Result:
    """Run the command in this process."""
    app = typer.Typer()
    app.command()(guarded(command.command))
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def pilot(tmp_path):
    """Results of three tasks and two seeds, as a CSV; and the frame."""
    rng = np.random.default_rng(0)
    frame = POSITIONS.merge(pd.DataFrame({"task": list("xyz")}), how="cross").merge(
        pd.DataFrame({"seed": [0, 1]}), how="cross"
    )
    frame["clip_i"] = 0.7 + rng.normal(0, 0.02, len(frame)) + rng.normal(0, 0.02, (60, 1)).repeat(2, axis=1).ravel()
    frame["other"] = 10 * frame["clip_i"]
    frame.to_csv(tmp_path / "pilot.csv", index=False)
    return tmp_path / "pilot.csv", frame


def test_one_json_document_on_stdout_without_torch():
    code = (
        "import sys; from study.cli import power;"
        "power.command('quick', sd=0.02, sd_task=0.01, difference=0.1, as_json=True, tasks=6, seeds=3);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads(json.dumps(power(**QUICK, tasks=6, seeds=3, sd=0.02, sd_task=0.01, difference=0.1)
                                             .to_dict()))  # fmt: skip
    assert (document["designs"], document["trials"], document["error"]) == (20, 360, "task")


def test_tasks_and_seeds_are_the_study_s_own():
    document = json.loads(call("quick", "--sd", "0.02", "--sd-task", "0.01", "--json").stdout)
    assert (document["tasks"], document["seeds"], document["trials"]) == (2, 2, 80)
    assert [term["term"] for term in document["terms"]] == ["pair", "component", "input", "output", "input:output"]
    alone = json.loads(call("quick", "--sd", "0.02", "--tasks", "1", "--json").stdout)
    assert (alone["tasks"], alone["error"]) == (1, "residual")


def test_designs_that_are_told_apart_only_as_wholes_are_one_factor():
    document = json.loads(call("methods", "--sd", "0.02", "--sd-task", "0.01", "--json").stdout)
    (term,) = document["terms"]
    assert term["term"] == "design" and term["df"] == document["designs"] - 1


def test_a_pilot_gives_the_variances_of_the_primary_score(pilot):
    path, frame = pilot
    document = json.loads(call("quick", "--pilot", str(path), "--tasks", "3", "--json").stdout)
    table = anova(frame, "clip_i", ["input", "output"], ["task", "task:seed"], pair=("input", "output"))
    for term in document["terms"]:
        assert term["error_sd"] ** 2 == pytest.approx(table[term["term"]].error.mean_sq, rel=1e-9)
    assert "a pilot of 120 rows" in document["source"]
    other = json.loads(call("quick", "--pilot", str(path), "--response", "other", "--tasks", "3", "--json").stdout)
    assert other["terms"][0]["smallest"] == pytest.approx(10 * document["terms"][0]["smallest"], rel=1e-6)
    fewer = json.loads(call("quick", "--pilot", str(path), "--where", "task=x,y", "--json").stdout)
    assert "a pilot of 80 rows" in fewer["source"]


def test_a_store_s_pilot_tells_whole_designs_apart_by_their_keys(tmp_path):
    """Designs of several methods have protocols of their own, which is no fault in a store of them."""
    designs = command.planned(Study.load("gate"), ["design"])["design"]
    frame = pd.DataFrame([(d, t, s) for d in designs for t in "xyz" for s in (0, 1)],
                         columns=["design_json", "task", "seed"])  # fmt: skip
    number = frame["design_json"].map({d: k for k, d in enumerate(designs)})
    frame = frame.assign(role="study", protocol_json=[f'{{"steps":{60 + k}}}' for k in number])
    frame["clip_i"] = np.random.default_rng(1).normal(number, 0.1)
    frame.to_parquet(tmp_path / "pilot.parquet")
    done = call("gate", "--pilot", str(tmp_path / "pilot.parquet"), "--json")
    assert done.exit_code == 0, done.stderr
    (term,) = json.loads(done.stdout)["terms"]
    assert (term["term"], term["df"]) == ("design", len(designs) - 1) and term["error_sd"] > 0


def test_the_text_for_people_has_the_table_and_the_words():
    done = call("quick", "--sd", "0.02", "--sd-task", "0.01", "--tasks", "12", "--difference", "0.05")
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    for said in ("7 of 9", "power of 0.05", "input: two levels must differ by", "80% needs", "by Bonferroni"):
        assert said in words, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --sd and --sd-task, or earlier results with --pilot"),
        (("--sd", "0.02"), "give --sd-task"),
        (("--error", "residual"), "give --sd,"),
        (("--sd", "0.02", "--sd-task", "0.01", "--error", "seed"), "'auto', 'residual' or 'task'"),
        (("--sd", "0.02", "--sd-task", "0.01", "--tasks", "0"), "0 tasks"),
        (("--sd", "0.02", "--sd-task", "0.01", "--interactions", "input:"), "interaction"),
        (("--pilot", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(words, said):
    done = call("quick", *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_pilot_of_one_task_is_refused_with_the_ways_out(pilot):
    done = call("quick", "--pilot", str(pilot[0]), "--where", "task=x")
    assert done.exit_code == 2 and "pilot has 1 task" in done.stderr and "--error residual" in done.stderr
    alone = call("quick", "--pilot", str(pilot[0]), "--where", "task=x", "--error", "residual")
    assert alone.exit_code == 0, alone.stderr


def test_an_unknown_study_is_refused():
    done = call("quik", "--sd", "1")
    assert done.exit_code == 2 and "quick" in done.stderr
