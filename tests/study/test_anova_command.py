"""`adapter-study anova`: numbers, JSON, conditions and faults of the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.faults import InputFault
from study.cli import anova as command
from study.cli import rows
from study.cli.main import build

ROOT = Path(__file__).parents[2]
FAILED = ROOT / "tests" / "data" / "anova_oracles" / "adapter_failed.csv"


def call(*words: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(build("anova"), ["anova", *words])


def test_one_json_document_on_stdout_equal_to_r_and_without_torch():
    code = (
        "import sys; from study.cli import anova; from pathlib import Path;"
        f"anova.command(Path({str(FAILED)!r}), response='score', factors='in_pos,out_pos,form', blocks='task',"
        "interactions='all', error='residual', as_json=True); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["n"], document["n_missing"]) == (495, 45)
    known = json.loads(FAILED.with_suffix(".json").read_text())["expected"]["type2_car"]
    for term, row in zip(document["terms"], known, strict=False):
        assert (term["term"], term["df"]) == (row["term"], row["Df"])
        assert (term["sum_sq"], term["p"]) == pytest.approx((row["Sum Sq"], row["Pr(>F)"]), rel=1e-9)
    assert "495 rows" in done.stderr


def test_the_table_for_people_has_every_term_and_the_words():
    done = call(str(FAILED), "--response", "score", "--factors", "in_pos,out_pos", "--blocks", "task",
                "--interactions", "in_pos:out_pos", "--error", "residual")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    for words in ("in_pos:out_pos", "6 of 16", "residual", "not on new tasks", "45 rows without a score"):
        assert words in " ".join(done.stdout.split()), words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--response", "nope", "--factors", "form"], "no column 'nope'"),
        (["--response", "status", "--factors", "form"], "'ok' in row 1"),
        (["--response", "score", "--factors", "form,"], "empty name"),
        (["--response", "score", "--factors", "form", "--where", "task"], "COLUMN=VALUE"),
        (["--response", "score", "--factors", "form", "--where", "task=T9"], "T1, T2, T3, T4"),
        (["--response", "score", "--factors", "params", "--type", "7"], "1, 2 or 3"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(words, said):
    done = call(str(FAILED), *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["garbage.parquet", "garbage.csv", "absent.csv", "results.txt"])
def test_garbage_is_one_message_and_exit_code_2(tmp_path, name):
    path = tmp_path / name
    if name != "absent.csv":
        path.write_bytes(bytes(range(128, 256)) * 4)
    done = call(str(path), "--response", "y", "--factors", "a")
    assert done.exit_code == 2 and name in done.stderr and "Traceback" not in done.stderr


def test_every_value_is_a_level_and_na_is_one(tmp_path, capsys):
    path = tmp_path / "r.csv"
    path.write_text("a,b,y\nNA,1,1\nNA,2,2\n1.0,1,4\n1.0,2,NA\n1,1,3\n1,2,\n1,2,7\n")
    command.command(path, response="y", factors="a,b", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["n"], document["n_missing"]) == (5, 2)
    assert {t["term"]: t["df"] for t in document["terms"]} == {"a": 2, "b": 1}


def test_parquet_gives_what_csv_gives(tmp_path, capsys):
    frame = pd.read_csv(FAILED)
    frame.to_parquet(tmp_path / "r.parquet")
    tables = []
    for path in (FAILED, tmp_path / "r.parquet"):
        command.command(path, response="score", factors="form,params", blocks="task", as_json=True)
        tables.append(json.loads(capsys.readouterr().out))
    assert tables[0] == tables[1]


def test_where_keeps_rows_by_value():
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "z"]})
    assert rows.select(frame, ["a=1,3", "b=z"])["b"].tolist() == ["z"]


def _store_rows(**changes) -> pd.DataFrame:
    rows = pd.DataFrame({
        "design_json": "{}", "role": "study", "backbone": "micro-unet", "backbone_hash": "0", "method": ["a", "b"] * 2,
        "protocol_json": '{"steps":60}',
    })  # fmt: skip
    return rows.assign(**changes)


def test_rows_that_cannot_be_compared_are_refused_with_the_way_to_choose():
    rows.check_comparable(rows.with_protocol(_store_rows()), ["method"])
    for changes, said in (
        ({"role": ["study", "study", "confirm", "confirm"]}, "--where role=study"),
        ({"backbone": ["one", "one", "two", "two"]}, "--where backbone=one"),
        ({"protocol_json": ['{"steps":60}'] * 2 + ['{"steps":90}'] * 2}, "--where protocol.steps=60"),
    ):
        frame = rows.with_protocol(_store_rows(**changes))
        with pytest.raises(InputFault, match=said):
            rows.check_comparable(frame, ["method"])
        column, value = said.removeprefix("--where ").split("=")
        rows.check_comparable(rows.select(frame, [f"{column}={value}"]), ["method"])


def test_a_protocol_that_a_factor_tells_apart_is_no_fault():
    frame = _store_rows(protocol_json=['{"steps":60}', '{"steps":90}'] * 2)
    rows.check_comparable(rows.with_protocol(frame), ["method"])


def test_the_pair_is_made_of_input_and_output(tmp_path, capsys):
    pairs = [("A", "B"), ("A", "C"), ("D", "E")]
    rows = [(i, o, s, (k * 5 + s * s) % 7) for k, (i, o) in enumerate(pairs) for s in range(4)]
    path = tmp_path / "r.csv"
    pd.DataFrame(rows, columns=["input", "output", "seed", "y"]).to_csv(path, index=False)
    command.command(path, response="y", factors="pair", blocks="seed", as_json=True)
    terms = {t["term"]: t["df"] for t in json.loads(capsys.readouterr().out)["terms"]}
    assert terms == {"seed": 3, "pair": 2, "component": 1, "input": 0, "output": 1, "input:output": 0}
