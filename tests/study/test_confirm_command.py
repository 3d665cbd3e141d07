"""The command `confirm`: what it prints and exits with, faults of its section, and a tiny model from end to end."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from adapters.faults import InputFault
from study import config
from study.cli import main
from tests.study import fakes, tiny
from tests.study.confirmations import PLANNED, commit, fill, of, prepared, recipe_file, section, study_of, tuned

HEAD = """\
name: s
backbone: pipe
tasks: [{name: rex, pictures: photos, class: dog}]
scores: {clip_i: scorer}
factors:
  input: [CA_out, SA_in]
  output: [FFN_in]
fixed: {method: adapter, width: 2}
tune: {tasks: [{name: ham, pictures: photos, class: hamster}], grid: {learning_rate: [1e-3, 1e-2]}}
confirm:
"""
TASK = "  tasks: [{name: owl, pictures: photos, class: owl}]\n"


@pytest.fixture(autouse=True)
def the_command_is_known_and_processes_find_the_packages(monkeypatch, tmp_path):
    yield from prepared(monkeypatch, tmp_path)


def command(*words: object):
    called = ["confirm", *map(str, words)]
    return CliRunner().invoke(main.build("confirm"), called)


def test_the_command_prints_the_table_and_one_json_document(tmp_path):
    study = tuned(tmp_path)
    confirming = of(study, tmp_path)
    file, recipe = tmp_path / "fake.yaml", tmp_path / "recipe.yaml"
    dry = command(file, recipe, "--dry-run")
    assert dry.exit_code == 0, dry.output
    for words in (
        "tasks: subject/owl, subject/elk, subject/eel",
        "margin to full tuning: 0.02 clip_i",
        "learning rate 0.003 (tuned by fake)",
        "learning rate 0.02 (declared in `confirm.learning_rates`)",
        "best: adapter input SA_in",
        "trials: 24 (4 compared × 3 tasks × 2 seeds)",
        "estimated time: unknown",
    ):
        assert words in dry.stdout, words
    assert confirming.status()["missing"] == PLANNED, "a dry run runs nothing"
    fill(confirming)
    shown = command(file, recipe)
    assert shown.exit_code == 0, shown.output
    assert "clip_i: best less each other method, paired by task" in shown.stdout and "bitfit" in shown.stdout
    assert "own evidence (chosen because it was the best: expected to shrink): clip_i 0.9." in shown.stdout
    assert f"trials of the confirmation: {PLANNED} done" in shown.stderr and "warning: 3 tasks" in shown.stderr
    data = json.loads(command(file, recipe, "--json").stdout)
    assert data["trials"]["done"] == PLANNED and data["evidence"] == {"clip_i": 0.9}
    assert [entry["name"] for entry in data["compared"]] == ["best", "lora", "bitfit", "full"]
    assert data["compared"][1]["learning_rate"] == 3e-3 and data["compared"][1]["parameters"] == 1000
    assert data["result"] == json.loads(confirming.analyse().to_json())


def test_faults_of_the_command_are_one_message_and_exit_code_2(tmp_path):
    tuned(tmp_path, confirm=section(against=["dora"], margin=None, learning_rates={}))
    recipe_file(tmp_path)
    for words, told in (
        (("fake.yaml", "recipe.yaml"), "no learning rate for dora"),
        (("fake.yaml", "nowhere.yaml"), "nowhere.yaml"),
        (("nowhere.yaml", "recipe.yaml"), "nowhere.yaml"),
        (("fake.yaml", "recipe.yaml", "--pack", "0"), "--pack 0"),
        (("fake.yaml", "recipe.yaml", "--address", "auto"), "--executor ray"),
    ):
        ended = command(*words)
        assert ended.exit_code == 2 and told in ended.stderr and ended.stdout == "", ended.output


def test_failed_trials_are_named_with_exit_code_1(tmp_path):
    confirming = of(tuned(tmp_path), tmp_path)
    fill(confirming)
    trial = confirming.trials[0]
    (confirming.study.store.folder / "trials" / f"{trial.id}.1.parquet").unlink()
    commit(confirming.study, trial, None, "failed")
    ended = command(tmp_path / "fake.yaml", tmp_path / "recipe.yaml")
    assert ended.exit_code == 1 and f"failed: {trial.label()} ({trial.id[:12]}): as told" in ended.stderr
    assert "--only failed" in ended.stderr and "1 of 24 trials have no clip_i" in ended.stdout


def test_planning_a_confirmation_never_imports_torch(tmp_path):
    fill(of(tuned(tmp_path), tmp_path))
    code = (
        "import sys\nfrom study import Study\nfrom study.confirm import Confirming\n"
        f"confirming = Confirming(Study.load({str(tmp_path / 'fake.yaml')!r}), {str(tmp_path / 'recipe.yaml')!r})\n"
        "confirming.describe(), confirming.warnings(), confirming.analyse().explain()\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "text, line, word",
    [
        ("  margin: 0.02\n", 10, "confirm.tasks"),
        (TASK, 10, "no margin: say how much worse"),
        (TASK + "  margin: 0\n", 12, "greater than 0"),
        (TASK + "  margin: .inf\n", 12, "finite"),
        (TASK + "  margin: 0.1\n  sead: 1\n", 13, "did you mean seeds?"),
        (TASK + "  margin: 0.1\n  seeds: 0\n", 13, "got 0"),
        (TASK + "  margin: 0.1\n  against: [lora, vpt, full]\n", 13, "got 'vpt': input should be 'lora', 'dora'"),
        (TASK + "  margin: 0.1\n  against: [full, full]\n", 13, "full is given twice"),
        (TASK + "  margin: 0.1\n  against: lora\n", 12, "`against` leaves out"),
        (TASK + "  margin: 0.1\n  learning_rates:\n    lora: -1\n", 14, "greater than 0"),
        (TASK + "  margin: 0.1\n  learning_rates:\n    vpt: 1\n", 14, "'vpt'"),
        (TASK + "  margin: 0.1\n  against: full\n  learning_rates: {lora: 1}\n", 14, "leaves this method out"),
        ("  margin: 0.1\n  tasks: [{name: rex, pictures: photos, class: cat}]\n", 12, "rex is a task of the study:"),
        ("  margin: 0.1\n  tasks: [{name: rat, pictures: photos, class: dog}]\n", 12, "study by the name subject/rex"),
        ("  margin: 0.1\n  tasks: [{name: ham, pictures: photos, class: x}]\n", 12, "is a task of the tuning"),
        (
            "  margin: 0.1\n  tasks:\n    - {name: owl, pictures: photos, class: owl}\n"
            "    - {name: owl2, pictures: photos, class: owl}\n", 14, "owl2 is given twice, by the name subject/owl",
        ),
        ("  margin: 0.1\n  tasks: [subject/nobody]\n", 12, "no subject 'nobody'"),
        (TASK + "  margin: 0.1\n", 0, ""),
        (TASK + "  against: lora\n", 0, ""),
    ],
)  # fmt: skip
def test_fault_of_the_section_names_its_line_and_what_to_do(tmp_path, text, line, word):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + text)
    if not word:  # the text all the others change is right
        assert config.read(path).confirm.seeds == (0, 1)
        return
    with pytest.raises(InputFault) as caught:
        config.read(path)
    told = str(caught.value)
    assert f"line {line}:" in told and word in told and "1 fault" in told, told


def test_colours_are_known_of_the_tasks_to_confirm_on_too(tmp_path):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    text = HEAD.replace("[{name: rex, pictures: photos, class: dog}]", "[subject/robot]")
    text = text.replace("[{name: ham, pictures: photos, class: hamster}]", "[subject/lamp]")
    path.write_text(text.replace("scorer}", "scorer, colour: world}") + TASK + "  margin: 0.1\n")
    with pytest.raises(InputFault, match="subject/owl is a folder of photographs"):
        config.read(path)


@pytest.mark.slow
def test_a_tiny_model_is_trained_by_the_recipe_and_by_what_it_is_compared_with(tmp_path):
    """True workers, packs and scores: ten trials of two steps."""
    model, scorer = tiny.pipeline_folder(tmp_path), tiny.clip_folder(tmp_path)
    fakes.folders(tmp_path)
    short = {"steps": 2, "batch": 1, "prior_pictures": 2, "sampling_steps": 2, "pictures": 2, "guidance": 3}
    tasks = [{"name": name, "pictures": "photos", "class": "robot", "token": name} for name in ("one", "two", "three")]
    confirm = {"tasks": tasks, "seeds": 1, "margin": 0.5, "against": ["lora", "full"]}
    study = study_of(
        tmp_path, backbone=model.name, scores={"clip_i": scorer.name}, protocol=short,
        factors={"input": ["SA_in", "CA_out"], "output": ["FFN_in"]}, nested=[],
        fixed={"method": "adapter", "width": 3},
        tune=None, confirm={**confirm, "learning_rates": {"lora": 1e-2, "full": 1e-3}},
    )  # fmt: skip
    design = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "width": 3}
    confirming = of(study, tmp_path, backbone=model.name, design=design, protocol={**short, "learning_rate": 1e-2})
    outcome = confirming.run(workers=1)
    assert outcome.counts == {"done": 9}, outcome.failed
    sizes = confirming.parameters()
    # A LoRA of rank 1 is the smallest there is on this model.
    assert sizes["full"] > 20 * sizes["best"] and sizes["best"] < sizes["lora"] < 3 * sizes["best"]
    found = confirming.analyse()
    assert found.rows["tasks"].tolist() == [3, 3] and found.rows["difference"].notna().all()
    assert os.listdir(study.store.folder / "trials") and not (study.store.folder / "adapters").exists()
