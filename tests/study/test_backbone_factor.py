"""The backbone as a factor: a position that one backbone lacks is a forbidden cell there, and runs on the others."""

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from adapters.faults import InputFault
from analysis.report import recipe
from analysis.report.blocks import Code, Table
from study import recipe as recipes
from study.cli import anova as anova_command
from study.cli import recommend as recommend_command
from study.cli.dry_run import describe
from study.cli.main import guarded
from study.cli.power import planned
from study.recommend import recipe as recipe_of
from study.recommend import recommend
from study.report import analyse, content
from study.study import Study
from tests.study import fakes
from tests.study.test_recommend_command import ran

# Res_in→Res_in, Res_in→Res_out and SA_in→FFN_in are the valid pairs; a transformer has the last of them.
FACTORS = {"input": ["Res_in", "SA_in"], "output": ["Res_in", "Res_out", "FFN_in"]}


@pytest.fixture
def root(tmp_path):
    fakes.folders(tmp_path)
    fakes.pipeline(tmp_path / "dit", "PixArtAlphaPipeline")
    return tmp_path


def of(root, backbone=("pipe", "dit"), **changes):
    backbone = backbone if isinstance(backbone, str) else list(backbone)
    return Study.load(fakes.study_file(root, **{"backbone": backbone, "factors": FACTORS, **changes}))


def test_each_backbone_runs_the_pairs_that_it_has(root):
    study = of(root)
    own = [(t.backbone, t.design["input"], t.design["output"]) for t in study.trials if t.role == "study"]
    pairs = {("pipe", "Res_in", "Res_in"), ("pipe", "Res_in", "Res_out"), ("pipe", "SA_in", "FFN_in"),
             ("dit", "SA_in", "FFN_in")}  # fmt: skip
    assert set(own) == pairs and len(own) == 4 * 2 * 2  # tasks, seeds
    assert sum(t.role == "reference" for t in study.trials) == 2 * 2 * 2
    assert study.status()["by_factor"]["backbone"]["dit"]["planned"] == 4
    assert len(planned(study, ["backbone", "input", "output"])) == 4


def test_a_dry_run_tells_what_is_left_out_and_why(root):
    told = list(describe(of(root)))
    assert "  2: dit has no ResNet blocks" in told
    counted = "trials: 16 (3 designs on pipe + 1 design on dit, each × 2 tasks × 2 seeds), and 8 of the untuned"
    assert any(line.startswith(counted) for line in told)


def test_pairs_that_no_backbone_has_are_no_designs(root):
    study = of(root, "dit")
    assert [(d["input"], d["output"]) for d in study.config.space.designs] == [("SA_in", "FFN_in")]
    assert study.config.left_out == {
        "the method has no such pair of input and output": 3,
        "dit has no ResNet blocks": 2,
    }


@pytest.mark.parametrize(
    ("backbone", "told"),
    [("dit", "every cell is forbidden .dit has no ResNet blocks"),
     (["pipe", "dit"], "nothing is left to run on dit: dit has no ResNet blocks")],
)  # fmt: skip
def test_a_backbone_that_has_no_pair_of_a_study_is_a_fault(root, backbone, told):
    with pytest.raises(InputFault, match=told):
        of(root, backbone, factors={"input": ["Res_in"], "output": ["Res_in", "Res_out"]})


def test_a_group_is_tuned_on_each_backbone_by_its_first_design_there(root):
    tune = {"tasks": [{"name": "bob", "pictures": "photos", "class": "cow"}], "grid": {"learning_rate": [1e-3, 1e-2]}}
    study = of(root, tune=tune)
    found = {(trial.backbone, trial.design["input"]) for trial in study.tune_trials}
    assert found == {("pipe", "Res_in"), ("dit", "SA_in")} and len(study.tune_trials) == 2 * 2
    # by input, the transformer has nothing to tune for Res_in
    study = of(root, tune={**tune, "by": ["input"]})
    found = {(trial.backbone, trial.design["input"]) for trial in study.tune_trials}
    assert found == {("pipe", "Res_in"), ("pipe", "SA_in"), ("dit", "SA_in")} and len(study.tune_trials) == 3 * 2
    assert "tune trials: 6 (6 grid points on 2 backbones × 1 task × 1 seed)" in list(describe(study))


def test_results_of_both_are_analysed_together(root):
    study = of(root, factors={**FACTORS, "activation": ["relu", "silu"]})
    fakes.drive(str(root / "fake.yaml"), 1)
    frame = study.results()
    assert frame.groupby("backbone").size().to_dict() == {"dit": 2 * 4, "pipe": 3 * 2 * 4}
    terms = {row.term for row in analyse(study).terms}
    assert {"backbone", "activation"} <= terms


CROSSED = {"input": ["SA_in"], "output": ["FFN_in", "Trans_out"], "activation": ["relu", "silu"]}
SEVERAL = {"tasks": [{"name": name, "pictures": "photos", "class": "dog"} for name in ("rex", "tom", "bob", "ann")]}


def scored(root, best):
    """A study whose best activation on each backbone is known, scored without training."""
    study = of(root, factors=CROSSED, **SEVERAL)

    def value(trial):
        return 0.4 + 0.3 * (trial.design["activation"] == best[trial.backbone]) + fakes.score(trial.id) / 50

    return ran(study, value)


def test_a_crossover_gives_each_backbone_its_own_recipe(root):
    study = scored(root, {"pipe": "relu", "dit": "silu"})
    found = recommend(study)
    assert found.apart and found.best_differs and "activation:backbone" in found.interacting
    for name, activation in (("pipe", "relu"), ("dit", "silu")):
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(guarded(recommend_command.command))
        file = str(root / f"{name}.yaml")
        done = CliRunner().invoke(app, [str(root / "fake.yaml"), "-o", file, "--backbone", name])
        assert done.exit_code == 0, done.stderr
        assert f"is for {name}; --backbone" in done.stdout
        read = recipes.read(root / f"{name}.yaml")
        assert read.design["activation"] == activation and read.backbone.path == (root / name).resolve()
        evidence = yaml.safe_load((root / f"{name}.yaml").read_text())["evidence"]
        assert evidence["across_backbones"]["one_for_each"] and evidence["confidence"] == 0.975
    given = content(study)
    lead = recipe.lead(given)
    assert lead.startswith("Effects are shown to depend on the backbone (activation × backbone")
    assert "Recommended on pipe: " in lead and "Recommended on dit: " in lead
    assert [name for name, _ in recipe.facts(given)] == ["recommended on pipe", "recommended on dit"]
    table = next(block for block in recipe.recommended(given) if isinstance(block, Table))
    assert [row.cells[0] for row in table.rows] == ["pipe", "dit"]


def test_effects_that_are_alike_give_one_design_and_a_recipe_for_each_backbone(root):
    study = scored(root, {"pipe": "silu", "dit": "silu"})
    found = recommend(study)
    assert not found.apart and found.average.levels["activation"] == "silu"
    own = {name: recipe_of(study, found, name) for name in ("pipe", "dit")}
    assert own["pipe"]["design"] == own["dit"]["design"] and own["pipe"]["name"] != own["dit"]["name"]
    assert Path(own["dit"]["backbone"]).name == "dit" and recipe_of(study, found) == own["pipe"]
    assert own["dit"]["evidence"]["across_backbones"]["on_this_backbone"]["verdict"] != "excluded"
    given = content(study)
    assert recipe.lead(given).startswith("Recommended on every backbone, by the mean over them: ")
    assert "does not show that they do not" in recipe.lead(given)
    codes = [block.code for block in recipe.recommended(given) if isinstance(block, Code)]
    assert [f"--backbone {name}" in code for name, code in zip(("pipe", "dit"), codes, strict=True)] == [True, True]


def test_a_backbone_that_the_study_has_not_or_has_no_results_on_is_a_fault(root):
    study = of(root, factors=CROSSED, **SEVERAL)
    ran(study, status=lambda trial: "done" if trial.backbone == "pipe" else "missing")
    found = recommend(study)
    assert any("other backbones than pipe" in each for each in found.not_tested)
    assert Path(recipe_of(study, found)["backbone"]).name == "pipe"
    with pytest.raises(InputFault, match="only pipe has results yet"):
        recipe_of(study, found, "dit")
    with pytest.raises(InputFault, match="--backbone other: fake has pipe, dit"):
        recipe_of(study, found, "other")


def test_the_default_model_has_each_factors_interaction_with_the_backbone(root):
    study = scored(root, {"pipe": "relu", "dit": "silu"})
    table = analyse(study)
    assert table["activation:backbone"].p < 0.001 and table["output:backbone"].p > 0.001
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(anova_command.command)
    words = [str(study.store.folder), "--response", "clip_i", "--factors", "output,activation,backbone", "--json"]
    for more, expected in (([], True), (["--interactions", "none"], False)):
        done = CliRunner().invoke(app, [*words, *more])
        terms = {row["term"] for row in json.loads(done.stdout)["terms"]}
        assert ({"output:backbone", "activation:backbone"} <= terms) == expected
