"""What a report says first: the recipe that `recommend` names, and what became of it; maps from kept weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from adapters.faults import InputFault
from analysis.report import confirmed, recipe, sections
from analysis.report.blocks import Code, Details, Page, Picture, Table, Text
from study import plan
from study import recipe as recipes
from study import recommend as recommending
from study.cli import main
from study.loaded import Worker
from study.noise_difference import of_kept
from study.pack import run_pack
from study.report import content
from study.report_maps import best_kept
from study.study import Study
from tests.study import fakes, tiny
from tests.study import test_noise_difference_command as noise
from tests.study.confirmations import RECIPE, fill, of, recipe_file, tuned
from tests.study.test_recommend_command import BEST, ran

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A study whose best design is BEST, by far."""
    return ran(Study.load(fakes.study_file(tmp_path_factory.mktemp("answer"))))


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Figures take most of a page's time; other tests look at them."""
    for module in (confirmed, sections):
        monkeypatch.setattr(module, "drawn", lambda name, draw, alt, caption="": Picture(name, b"", 700, alt, caption))


def test_the_answer_is_what_recommend_names(study):
    given, found = content(study), recommending.recommend(study)
    assert found.levels == BEST
    assert recipe.lead(given).startswith("Recommended: CA_out → FFN_in, activation silu, with a mean clip_i of ")
    count = len(found.may_be_best)
    assert dict(recipe.facts(given))["may be the best on new tasks"] == f"{count} of 12"
    shown = recipe.recommended(given)
    (table,) = [block for block in shown if isinstance(block, Table)]
    assert len(table.rows) == min(8, count)
    assert (table.rows[0].cells[0], table.rows[0].cells[-1]) == ("CA_out → FFN_in, activation silu", "recommended")
    said = " ".join(block.words for block in shown if isinstance(block, Text))
    assert said.startswith("Which design is the best in clip_i (highest) on new levels of task")
    for each in found.not_tested:
        assert each.rstrip(".") in said


def test_the_code_of_the_answer_runs_as_shown_and_gives_the_recommended_design(study, tmp_path):
    store = study.store.folder
    shown = content(Study.load(store.parent / "fake.yaml"), "fake.yaml").recommended
    assert [line.split()[1] for line in shown.code[0].code.splitlines()] == ["recommend", "train", "generate"]
    # The study as another folder has it; what trains and draws needs a true model.
    code = shown.code[0].code.replace("adapter-study train", "echo").replace("adapter-study generate", "echo")
    start = f'adapter-study() {{ {sys.executable} -m study.cli.main "$@"; }}\nset -e\n'
    for number, each in enumerate((code, shown.recipe.code)):
        ended = subprocess.run(
            ["bash", "-c", start + each], cwd=store.parent, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        written = (store.parent / "recipe.yaml").rename(tmp_path / f"{number}.yaml")
        data = yaml.safe_load(written.read_text())
        assert ("evidence" in data) == (number == 0)
        written.rename(store.parent / written.name)
        read = recipes.read(store.parent / written.name)
        assert {key: read.design[key] for key in BEST} == BEST and read.protocol == study.config.protocol


def test_where_nothing_can_be_recommended_the_page_says_why(tmp_path):
    order = iter(range(10_000))
    one = ran(Study.load(fakes.study_file(tmp_path)), status=lambda trial: "missing" if next(order) else "done")
    assert len(one.results()) == 1
    (said,) = recipe.recommended(content(one))
    assert isinstance(said, Text) and said.kind == "warning"
    assert said.words.startswith("Nothing can be recommended: Nothing varies")
    lost = ran(Study.load(fakes.study_file(tmp_path, store=str(tmp_path / "lost"))), status=lambda trial: "diverged")
    (said,) = recipe.recommended(content(lost))
    assert "has the primary score clip_i" in said.words


def test_a_design_with_the_best_mean_that_is_not_recommended_is_named_with_the_reason(tmp_path):
    # The silu twin of the best pair scores a little more in clip_i, and is far worse in clip_t.
    def value(trial) -> float:
        return 0.9 + 0.005 * (trial.design["activation"] == "silu") + fakes.score(trial.id) / 20

    def prompt(trial) -> float:
        return 0.8 - 0.3 * (trial.design["activation"] == "silu") + fakes.score(trial.id) / 50

    study = ran(Study.load(fakes.study_file(tmp_path)), value, clip_t=prompt)
    found = recommending.recommend(study)
    rows = found.designs.sort_values("counted", ascending=False)
    lead = recipe.lead(content(study))
    assert found.levels["activation"] == "relu"
    assert rows.iloc[0]["design"] != found.chosen
    assert f"The highest mean has {rows.iloc[0]['input']} → {rows.iloc[0]['output']}" in lead
    assert "a difference within noise, but worse in clip_t" in lead


def test_a_confirmation_is_shown_once_it_is_complete(tmp_path):
    study = tuned(tmp_path)
    ran(study, lambda trial: 0.9 - 0.1 * (trial.design["method"] != "adapter") + fakes.score(trial.id) / 50)
    file = recipe_file(tmp_path)
    waiting = confirmed.confirmation(content(study, recipe=file))
    assert waiting[0].kind == "warning" and waiting[0].words.startswith("0 of 24 trials of the confirmation of best")
    assert any(isinstance(block, Code) and f"confirm fake {file}" in block.code for block in waiting)

    confirming = of(study, tmp_path)
    fill(confirming, lambda trial: 0.7 - 0.1 * (trial.design["method"] != "adapter") + fakes.score(trial.id) / 50)
    given = content(study, recipe=file)
    shown = confirmed.confirmation(given)
    expected = confirming.analyse()
    (table,) = [block for block in shown if isinstance(block, Table)]
    names = [name for name, _ in table.columns]
    for row, (_, own) in zip(table.rows, expected.rows.iterrows(), strict=True):
        cells = dict(zip(names, row.cells, strict=True))
        assert (cells["against"], cells["parameters"]) == (own["against"], "1,000")
        assert cells["difference"] == f"{own['difference']:+.3f}" and cells["95% from"] == f"{own['lower']:+.3f}"
        assert cells["better on"] == f"{own['better']} of 3"
    said = " ".join(block.words for block in shown if isinstance(block, Text))
    # The winner's curse: what the study saw of the design beside what it is here.
    assert f"of {expected.earlier.mean:.3f} on its own tasks, here {expected.mean:.3f}" in said
    assert "expected to shrink" in said
    assert "best is non-inferior to full" in " ".join(confirmed.verdict(given))
    assert any(isinstance(block, Details) and "file says of itself" in block.summary for block in shown)


def test_a_confirmation_that_is_not_asked_for_is_pointed_at(tmp_path, study):
    plain, study = study, ran(tuned(tmp_path))
    first, code = confirmed.confirmation(content(study))
    assert "No recipe is confirmed" in first.words and "subject/owl" in first.words
    assert "adapter-study report fake --recipe recipe.yaml" in code.code
    assert content(plain).confirmed is None


def test_a_recipe_of_another_design_is_told_and_one_that_cannot_be_confirmed_is_refused(tmp_path, study):
    own = ran(tuned(tmp_path))
    given = content(own, recipe=recipe_file(tmp_path, design={**RECIPE["design"], "activation": "silu"})).confirmed
    assert "The design of best is not the one that is recommended above." in given.notes
    with pytest.raises(InputFault, match="has no section `confirm`"):
        content(study, recipe=recipe_file(tmp_path))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Study:
    """A study of tiny models that was run in this process, its adapters kept."""
    root = tmp_path_factory.mktemp("mapped")
    (root / "rex").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(root / "rex" / f"{index}.png")
    made = noise.sections(root)
    made |= {"seeds": 1, "tasks": [*made["tasks"], "subject/lamp"], "factors": {"input": ["SA_in", "CA_out"]}}
    made["fixed"] |= {"output": "FFN_in"}
    made["scores"] |= {"noise_difference": "backbone"}
    (root / "words.yaml").write_text(json.dumps(made))
    study, worker = Study.load(root / "words.yaml"), Worker("cpu")
    for pack in plan.packs(study.config, study.trials, {}, str(study.store.folder), together=2):
        run_pack(pack, worker, lambda result: study.store.commit(result, "words", keep="all"))
    assert set(study.store.rows()["status"]) == {"done"}
    return study


def test_maps_are_those_of_the_best_kept_trial_of_each_task_with_their_numbers(mapped):
    found = content(mapped, maps=True)
    rows = best_kept(mapped, mapped.results())
    for _, row in rows.iterrows():
        own = mapped.results()
        assert row["clip_i"] == own[own["task"] == row["task"]]["clip_i"].max()
    assert list(rows["task"]) == ["subject/rex", "subject/lamp"]
    assert [each.heading.split(":")[-1] for each in found.maps[:4]] == [
        " subject/rex, seed 0", " subject/lamp, seed 0"] * 2  # fmt: skip
    # Only the drawn subject's place is known.
    assert "IoU" not in found.maps[0].said and "IoU" in found.maps[1].said
    assert {"entropy", "distance"} <= set(found.maps[0].table["number"])
    # The numbers of the noise are the score that the store has, in which the trial and the untuned backbone differ.
    sizes = found.maps[2].table["size"]
    assert sizes[0] == pytest.approx(rows.iloc[0]["noise_difference"], rel=1e-3)
    worker = Worker("cpu")
    (again,) = of_kept(mapped, rows.head(1), worker)
    assert sizes[0] == pytest.approx(again.size, rel=1e-9) and len(sizes) == 2
    folded = [block.blocks[0] for block in sections._maps(found) if isinstance(block, Details)]
    assert sum(isinstance(block, Table) for block in folded) == len(found.maps) == 5


def test_the_paper_s_question_is_answered_where_the_score_is_in_the_store(mapped):
    (last,) = content(mapped).maps
    assert last.heading == "Is the noise difference larger for designs that read CA_out?"
    frame = mapped.results()
    means = frame.groupby("input")["noise_difference"].mean()
    assert last.table["estimate"][0] == pytest.approx(means["CA_out"] - means["SA_in"], rel=1e-6)


def test_without_kept_weights_or_backbone_there_are_words_instead_of_maps(study, mapped, tmp_path, monkeypatch):
    found = content(study, maps=True)
    assert found.maps == [] and "`keep: none`" in found.maps_fault

    shutil.copytree(mapped.store.folder, tmp_path / "store", ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "store" / "cache").write_text("in the way of the class pictures")
    locked = Study.load(mapped.store.folder.parent / "words.yaml", tmp_path / "store")
    assert "No attention and noise maps: [Errno" in content(locked, maps=True).maps_fault

    def gone(self, *of):
        raise InputFault("the backbone org/model is not on this machine")

    monkeypatch.setattr(Worker, "backbone", gone)
    found = content(mapped, maps=True)
    assert "No attention and noise maps: the backbone org/model is not on this machine" in found.maps_fault


def test_the_command_makes_maps_unless_told_not_to(mapped, tmp_path, monkeypatch):
    asked = []

    def built(study, address, recipe, maps, stage):
        asked.append((address, recipe, maps))
        return Page("a study", "The answer.", (), ())

    monkeypatch.setattr("study.report.built", built)
    file = str(mapped.store.folder.parent / "words.yaml")
    for options in ([], ["--no-maps", "--recipe", "best.yaml"]):
        done = CliRunner().invoke(main.build("report"), ["report", file, "-o", str(tmp_path / "page.html"), *options])
        assert done.exit_code == 0, done.output
    assert asked == [(file, None, True), (file, "best.yaml", False)]
