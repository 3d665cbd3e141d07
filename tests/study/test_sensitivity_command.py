"""`adapter-study sensitivity`: tables, JSON and faults of the command."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from study.cli.main import guarded
from study.cli.sensitivity import command


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--settings", "nope"], "no column 'nope'"),
        (["--settings", "lr,"], "empty name"),
        (["--settings", "lr", "--within", "-1"], "distance of 0 or more"),
        (["--settings", "lr", "--by", "lr"], "told apart by"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(results, words, said):
    done = call(str(results), "--response", "score", *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr
