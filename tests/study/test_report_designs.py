"""Studies whose designs have factors of their own are analysed by the design as a whole."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.executors.local import LocalExecutor
from study.report import analyse, content, page, results, terms
from study.study import Study
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
NESTED = {
    "factors": {"method": ["adapter", "lora", "full"]},
    "nested": [
        {"when": {"method": ["adapter", "lora"]}, "factors": {"budget": ["1%", "5%"]}},
        {"when": {"method": "adapter"}, "factors": {"input": ["SA_in"], "output": ["FFN_in"]}},
    ],
    "fixed": {},
}


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    root = tmp_path_factory.mktemp("designs")
    loaded = Study.load(fakes.study_file(root, **NESTED))
    loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    return root


@pytest.fixture(scope="module")
def study(nested):
    return Study.load(nested / "fake.yaml")


def test_the_design_is_the_factor(study):
    assert terms(study) == (["design"], ["task", "task:seed"], None)
    frame = results(study)
    names = {"adapter budget 1%", "adapter budget 5%", "lora budget 1%", "lora budget 5%", "full"}
    assert set(frame["design"]) == names
    # every design once for each task and seed
    assert (frame.groupby("design").size() == 4).all()
    assert analyse(study)["design"].df == 4


def test_the_page_ranks_every_design(study):
    text = page(study)
    for name in ("adapter budget 1%", "lora budget 5%", "full"):
        assert name in text


def test_a_crossed_study_keeps_its_factors(tmp_path):
    crossed = Study.load(fakes.study_file(tmp_path))
    assert terms(crossed)[0] == ["input", "output", "activation"]
    assert terms(crossed)[2] == ("input", "output")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    root = tmp_path_factory.mktemp("crossed")
    loaded = Study.load(fakes.study_file(root))
    loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    return root


def snippets(root, language):
    """The code of a report that was asked for in the study's folder."""
    found = content(Study.load(root / "fake.yaml"), "fake.yaml").reuse
    return [snippet.code for snippet in found if snippet.language == language]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["crossed", "nested"])
def test_the_code_on_the_page_runs_as_shown(which, request):
    root = request.getfixturevalue(which)
    # The command of this source tree, by its own name.
    shown = f'adapter-study() {{ {sys.executable} -m study.cli.main "$@"; }}\nset -e\n'
    (python,) = snippets(root, "python")
    ended = subprocess.run([sys.executable, "-c", python], cwd=root, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "makes a difference" in ended.stdout or "shows no clear difference" in ended.stdout
    assert "Hsu's comparisons with the best" in ended.stdout
    for code in snippets(root, "shell"):
        # What draws needs a true model.
        code = code.replace("adapter-study generate", "echo")
        ended = subprocess.run(
            ["bash", "-c", shown + code], cwd=root, env=environment(), capture_output=True, text=True
        )
        assert ended.returncode == 0, (code, ended.stderr)


def test_another_store_is_named_in_the_commands(crossed, tmp_path):
    elsewhere = tmp_path / "else where"
    shutil.copytree(crossed / "store", elsewhere)
    found = content(Study.load(crossed / "fake.yaml", elsewhere), "fake.yaml").reuse
    assert f"adapter-study run fake.yaml --store '{elsewhere}'" in found[0].code
    python = next(s.code for s in found if s.language == "python")
    ended = subprocess.run([sys.executable, "-c", python], cwd=crossed, env=environment(), capture_output=True)
    assert ended.returncode == 0


def test_coverage_is_that_of_the_plan(crossed):
    study = Study.load(crossed / "fake.yaml")
    found = content(study).coverage.set_index(["factor", "level"])
    # Six pairs, two activations, two tasks, two seeds.
    assert found.loc[("activation", "relu"), "planned"] == fakes.PLANNED // 2
    assert (found["done"] == found["planned"]).all()


def report(root, *words):
    command = [sys.executable, "-m", "study.cli.main", "report", "fake.yaml", *words]
    return subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)


def test_markdown_lies_beside_its_figures(crossed):
    ended = report(crossed, "-o", "page.md", "--figures", "figures")
    assert ended.returncode == 0, ended.stderr
    text = (crossed / "page.md").read_text()
    linked = re.findall(r"\]\((page_files/[^)]+)\)", text)
    assert linked and all((crossed / file).stat().st_size > 1000 for file in linked)
    assert sorted(p.name for p in (crossed / "figures").iterdir()) == sorted(f.split("/")[1] for f in linked)
    assert not list(crossed.rglob("*.part"))


def test_a_report_of_another_kind_or_in_the_way_of_a_file_is_refused(crossed):
    ended = report(crossed, "-o", "page.pdf")
    assert ended.returncode == 2 and "ends in .html or .md" in ended.stderr
    (crossed / "taken_files").write_text("mine")
    ended = report(crossed, "-o", "taken.md")
    assert ended.returncode == 2 and "taken_files is a file" in ended.stderr
    assert not (crossed / "taken.md").exists() and (crossed / "taken_files").read_text() == "mine"


def test_a_partial_study_has_a_partial_report(crossed, tmp_path):
    shutil.copytree(crossed, tmp_path, dirs_exist_ok=True)
    fakes.study_file(tmp_path)
    lost = [trial for trial in Study.load(tmp_path / "fake.yaml").trials if trial.role == "study"][-5:]
    for trial in lost:
        (tmp_path / "store" / "trials" / f"{trial.id}.1.parquet").unlink()
    text = page(Study.load(tmp_path / "fake.yaml"))
    assert f"5 of {fakes.PLANNED} planned trials have not been run yet" in text


def test_pictures_in_a_column_start_from_the_same_noise(crossed):
    study = Study.load(crossed / "fake.yaml")
    frame = study.results()
    for gallery in content(study).galleries:
        own = frame[(frame["task"] == gallery.task) & (frame["seed"] == 0)]
        scores = sorted(own["clip_i"], reverse=True)
        shown = [row.score for row in gallery.rows if row.label != "untuned backbone"]
        assert shown == sorted(shown, reverse=True) and shown[:2] == scores[:2] and set(shown) <= set(scores)
