"""The backbone as a factor: a position that one backbone lacks is a forbidden cell there, and runs on the others."""

import pytest

from adapters.faults import InputFault
from study.cli.dry_run import describe
from study.cli.power import planned
from study.study import Study
from tests.study import fakes

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
    from study.report import analyse

    study = of(root, factors={**FACTORS, "activation": ["relu", "silu"]})
    fakes.drive(str(root / "fake.yaml"), 1)
    frame = study.results()
    assert frame.groupby("backbone").size().to_dict() == {"dit": 2 * 4, "pipe": 3 * 2 * 4}
    terms = {row.term for row in analyse(study).terms}
    assert {"backbone", "activation"} <= terms
