"""Studies whose designs have factors of their own are analysed by the design as a whole."""

import pytest

from study.executors.local import LocalExecutor
from study.report import analyse, page, results, terms
from study.study import Study
from tests.study import fakes

NESTED = {
    "factors": {"method": ["adapter", "lora", "full"]},
    "nested": [
        {"when": {"method": ["adapter", "lora"]}, "factors": {"budget": ["1%", "5%"]}},
        {"when": {"method": "adapter"}, "factors": {"input": ["SA_in"], "output": ["FFN_in"]}},
    ],
    "fixed": {},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("designs")
    loaded = Study.load(fakes.study_file(root, **NESTED))
    loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    return loaded


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
