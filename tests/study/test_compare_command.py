"""`adapter-study means` and `compare`: numbers, JSON, words and faults of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from study.cli import compare, means
from study.cli.main import guarded

ROOT = Path(__file__).parents[2]
ORACLES = ROOT / "tests" / "data" / "anova_oracles"
FAILED = str(ORACLES / "adapter_failed.csv")
MODEL = ("--response", "score", "--factors", "in_pos,out_pos,form", "--blocks", "task", "--error", "residual")


def call(command, *words: str) -> Result:
    """Run a command in this process."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(command.command))
    return CliRunner().invoke(app, [str(word) for word in words])


def known(name: str) -> dict:
    return json.loads((ORACLES / f"{name}.json").read_text())["expected"]


def test_means_are_one_json_document_equal_to_r_and_without_torch():
    code = (
        "import sys; from study.cli import means; from pathlib import Path;"
        f"means.command(Path({FAILED!r}), response='score', factors='in_pos,out_pos,form', of='form', blocks='task',"
        "error='residual', over='levels', as_json=True); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["n"], document["n_missing"], document["error"]) == (495, 45, "residual")
    ours = {row["form"]: row for row in document["means"]}
    for row in known("adapter_failed")["additive"]["emm_form"]["means"]:
        own = ours[row["form"]]
        assert (own["mean"], own["se"], own["lower"]) == pytest.approx((row["emmean"], row["SE"], row["lower.CL"]))
    assert "495 rows" in done.stderr


def test_the_best_pairs_for_people_and_as_json():
    words = (FAILED, *MODEL, "--of", "in_pos,out_pos", "--method", "best")
    done = call(compare, *words)
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "5 may be the best in score" in said and "45 rows without a score were left out" in said
    document = json.loads(call(compare, *words, "--json").stdout)
    expected = {row["level"] for row in known("adapter_failed_mcb")["cell_in_out"] if row["could_be_best"]}
    assert set(document["may_be_best"]) == expected


def test_tukey_is_what_is_done_when_nothing_is_said_and_dunnett_with_a_reference():
    document = json.loads(call(compare, FAILED, *MODEL, "--of", "form", "--json").stdout)
    assert document["adjust"] == "tukey"
    p = sorted(row["p_adjusted"] for row in document["contrasts"])
    assert p == pytest.approx(
        sorted(row["p.value"] for row in known("adapter_failed")["additive"]["emm_form"]["tukey"]), rel=1e-6, abs=1e-9
    )
    document = json.loads(call(compare, FAILED, *MODEL, "--of", "form", "--reference", "linear", "--json").stdout)
    assert (document["adjust"], [row["second"] for row in document["contrasts"]]) == ("dunnett", ["linear"] * 2)


@pytest.mark.parametrize("method", ["games-howell", "welch"])
def test_one_way_methods_say_what_they_ignore(method):
    done = call(compare, FAILED, *MODEL, "--of", "form", "--method", method)
    assert done.exit_code == 0, done.stderr
    assert "blocks, other factors and the error term are ignored" in " ".join(done.stdout.split())


def test_pair_is_input_and_output_and_numbers_have_a_trend(tmp_path):
    rows = ["input,output,scale,task,y"]
    pairs = [("SA_in", "SA_in"), ("SA_in", "CA_in"), ("CA_c", "CA_c")]
    for k, (i, o) in enumerate(pairs):
        rows += [f"{i},{o},{s},{t},{k + s + (k + s * t) % 4 / 10}" for s in (1, 2, 4) for t in (1, 2, 3)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(rows))
    model = ("--response", "y", "--factors", "pair,scale", "--blocks", "task", "--json")
    document = json.loads(call(compare, path, *model, "--of", "pair", "--method", "best").stdout)
    assert document["of"] == ["input", "output"]
    assert [row["level"] for row in document["levels"]] == ["SA_in:SA_in", "SA_in:CA_in", "CA_c:CA_c"]
    document = json.loads(call(means, path, *model, "--of", "pair").stdout)
    assert [row["estimable"] for row in document["means"]] == [True] * 3
    words = (*model, "--of", "scale", "--method", "trend", "--scale", "linear", "--degree", "1")
    (row,) = json.loads(call(compare, path, *words).stdout)["contrasts"]
    assert (row["contrast"], row["df"]) == ("linear", 2)
    assert row["estimate"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (compare, ["--of", "form", "--method", "scheffe"], "expected one of tukey, holm"),
        (compare, ["--of", "form", "--method", "best", "--reference", "linear"], "goes with --method dunnett or holm"),
        (compare, ["--of", "form,in_pos", "--method", "trend"], "one factor"),
        (compare, ["--of", "seed"], "not among the factors"),
        (means, ["--of", "seed"], "not among the factors"),
        (means, ["--of", "form", "--over", "rows"], "'cells' or 'levels'"),
    ],
)
def test_wrong_words_are_one_message_and_exit_code_2(command, words, said):
    done = call(command, FAILED, *MODEL, *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
