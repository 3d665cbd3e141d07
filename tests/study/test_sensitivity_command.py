"""`adapter-study sensitivity`: tables, JSON and faults of the command."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from study.cli.main import guarded
from study.cli.sensitivity import command
from study.config import Protocol
from study.store import Store
from study.trial import Trial, TrialResult


@pytest.fixture
def results(tmp_path):
    """A CSV in which bitfit has no rank."""
    rows = [
        (method, lr, rank, task, seed)
        for method, ranks in (("lora", (2, 8)), ("bitfit", ("",)))
        for lr, rank, task, seed in product((1e-4, 1e-3, 1e-2), ranks, "xyz", (0, 1))
    ]
    frame = pd.DataFrame(rows, columns=["method", "lr", "rank", "task", "seed"])
    frame["score"] = 0.2 * np.log10(frame["lr"]) + 0.05 * np.random.default_rng(0).normal(size=len(frame))
    path = tmp_path / "results.csv"
    frame.to_csv(path, index=False)
    return path


def call(*words: str) -> Result:
    """Run the command in this process."""
    app = typer.Typer()
    app.command()(guarded(command))
    return CliRunner().invoke(app, [*words, "--draws", "50", "--evaluator-draws", "3"])


def test_json_holds_each_method_with_its_own_hyper_parameters(results):
    done = call(str(results), "--response", "score", "--settings", "lr,rank", "--within", "0.05", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    lora, bitfit = document["methods"]
    assert (lora["method"], lora["settings"], lora["best"]["lr"]) == ("lora", 6, "0.01")
    assert [h["name"] for h in bitfit["importances"]] == ["lr"]
    assert document["within"] == 0.05
    assert "54 rows, 0 without score" in done.stderr


def test_the_tables_for_people_name_methods_and_hyper_parameters(results):
    done = call(str(results), "--response", "score", "--settings", "lr,rank")
    assert done.exit_code == 0, done.stderr
    for words in (
        "spread over the settings of each method",
        "which hyper-parameter matters",
        "lora",
        "bitfit",
        "lr=0.01",
    ):
        assert words in " ".join(done.stdout.split()), words


def test_lower_is_better_and_all_rows_together(results):
    done = call(str(results), "--response", "score", "--settings", "lr", "--by", "", "--lower-is-better", "--json")
    assert done.exit_code == 0, done.stderr
    (alone,) = json.loads(done.stdout)["methods"]
    assert (alone["method"], alone["best"]) == ("all", {"lr": "0.0001"})


def test_methods_are_compared_with_one_of_them_task_by_task_and_drawn(results, tmp_path):
    figure = tmp_path / "near.png"
    words = ["--response", "score", "--settings", "lr,rank", "--within", "0.1", "--against", "bitfit"]
    words += ["-o", str(figure)]
    done = call(str(results), *words, "--json")
    assert done.exit_code == 0, done.stderr
    compared = json.loads(done.stdout)["near_best"]
    assert (compared["against"], compared["within"], compared["tasks"]) == ("bitfit", 0.1, ["x", "y", "z"])
    assert {row["method"]: row["settings"] for row in compared["rows"]} == {"lora": 6, "bitfit": 3}
    assert figure.read_bytes().startswith(b"\x89PNG")
    told = call(str(results), *words)
    assert told.exit_code == 0, told.stderr
    for said in ("share of settings within 0.1", "less bitfit, paired by task", "lora less bitfit", str(figure)):
        assert " ".join(said.split()) in " ".join(told.stdout.split()), said


def _tuned(folder: Path) -> Path:
    """A store of two methods tuned over three rates on three tasks, and what was chosen run on a fourth."""
    store = Store(folder / "store")
    for method, size in (("lora", {"rank": 2}), ("krona", {"a1": 2, "a2": 2})):
        for k, (rate, task) in enumerate([*product((1e-4, 1e-3, 1e-2), "xyz"), (1e-3, "w")]):
            design, role = {"method": method, **size}, "study" if task == "w" else "tune"
            trial = Trial("b", design, task, 0, Protocol(learning_rate=rate), role, backbone_hash="b", task_hash=task)
            score = 0.5 - 0.1 * abs(np.log10(rate) + 3) + 0.01 * np.sin(k)
            store.commit(TrialResult(trial, "done", scores={"clip_i": float(score)}), "fake")
    return store.folder


def test_the_grid_of_a_tuning_is_read_from_its_store(tmp_path):
    store = _tuned(tmp_path)
    words = ["--response", "clip_i", "--settings", "protocol.learning_rate", "--blocks", "task", "--within", "0.05"]
    done = call(str(store), *words, "--against", "lora", "--tuning", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["n"] == 18 and [row["method"] for row in document["near_best"]["rows"]] == ["lora", "krona"]
    rates = {setting["setting"]["protocol.learning_rate"] for setting in document["methods"][0]["means"]}
    assert rates == {"0.0001", "0.001", "0.01"}
    own = call(str(store), *words)  # the study's own rows have one rate
    assert own.exit_code == 2 and "do not differ in protocol.learning_rate; --tuning takes" in own.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--settings", "nope"], "no column 'nope'"),
        (["--settings", "lr,"], "empty name"),
        (["--settings", "lr", "--within", "-1"], "distance of 0 or more"),
        (["--settings", "lr", "--by", "lr"], "told apart by"),
        (["--settings", "lr,rank", "--against", "dora", "--within", "0.1"], "has lora, bitfit"),
        (["--settings", "lr", "--by", "", "--against", "lora"], "--by must name"),
        (["--settings", "lr", "-o", "figure.gif"], "expected .png"),
        (["--settings", "lr", "--tuning"], "is a file"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(results, words, said):
    done = call(str(results), "--response", "score", *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr
