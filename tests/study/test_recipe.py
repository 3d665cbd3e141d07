"""Recipe files: what they may say, and every fault in one message with its line."""

from pathlib import Path

import pytest
import yaml

from adapters.faults import InputFault
from study import recipe
from study.config import Protocol
from study.study import Study

ROOT = Path(__file__).resolve().parents[2]
RIGHT = """\
name: mine
backbone: micro-unet
design:
  method: adapter
  input: SA_in
  output: FFN_in
  width: 4.0
protocol:
  steps: 3
  batch: 5
evidence: {clip_i: [0.7, 0.8], note: free text}
provenance:
  study: quick
"""


def message(folder: Path, text: str) -> str:
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(InputFault) as fault:
        recipe.read(folder / "wrong.yaml")
    return str(fault.value)


def test_recipe_is_read_with_defaults_filled(tmp_path):
    (tmp_path / "right.yaml").write_text(RIGHT)
    read = recipe.read(tmp_path / "right.yaml")
    assert (read.name, read.backbone.name) == ("mine", "micro-unet")
    assert read.design == {"method": "adapter", "input": "SA_in", "output": "FFN_in", "activation": "relu",
                           "scale": 1, "init": "default", "width": 4}  # fmt: skip
    assert read.protocol == Protocol(steps=3, batch=5, prior_batch=5)


def test_design_alone_is_a_recipe_named_after_its_file(tmp_path):
    (tmp_path / "small.yaml").write_text("design: {method: full, part: all}")
    read = recipe.read(tmp_path / "small.yaml")
    assert (read.name, read.backbone.name, read.protocol) == ("small", "micro-unet", Protocol())


@pytest.mark.parametrize(
    "old, new, line, word",
    [
        ("design:", "desing:", 3, "did you mean design?"),
        ("  input: SA_in", "  input: SA_inn", 5, "no position that can be read"),
        ("  output: FFN_in", "  output: Res_out", 5, "no valid pair"),
        ("  width: 4.0", "  widht: 4", 7, "does not know widht"),
        ("  width: 4.0", "  width: .inf", 7, "no whole number"),
        ("  width: 4.0", "  width: [4]", 7, "expected a level"),
        ("  width: 4.0", "  width: 4\n  width: 5", 8, "second time"),
        ("  method: adapter\n", "", 3, "no method"),
        ("adapter\n  input: SA_in\n  output: FFN_in\n  width: 4.0", "none", 4, "trains nothing"),
        ("  steps: 3", "  stepps: 3", 9, "did you mean steps?"),
        ("  steps: 3", "  steps: 0", 9, "greater than or equal to 1"),
        ("  steps: 3", "  learning_rate: .nan", 9, "finite number"),
        ("backbone: micro-unet", "backbone: nowhere", 2, "no built-in name, no folder and no hub id"),
        ("backbone: micro-unet", "backbone: [micro-unet]", 2, "expected a name"),
        ("name: mine", "name: [mine]", 1, "valid string"),
        ("evidence: {clip_i: [0.7, 0.8], note: free text}", "evidence: good", 11, "valid dictionary"),
    ],
)
def test_fault_names_its_line_and_what_is_expected(tmp_path, old, new, line, word):
    assert RIGHT.count(old) == 1
    told = message(tmp_path, RIGHT.replace(old, new))
    (named,) = (text for text in told.splitlines() if f"  line {line}: " in text and word in text)
    assert "wrong.yaml" in told.splitlines()[0]


def test_all_faults_are_in_one_message(tmp_path):
    wrong = RIGHT.replace("SA_in", "SA").replace("4.0", "0").replace("steps: 3", "steps: x").replace("name", "nam")
    told = message(tmp_path, wrong)
    assert "4 faults" in told.splitlines()[0]
    assert [text.split(":")[0] for text in told.splitlines()[1:]] == ["  line 1", "  line 5", "  line 7", "  line 9"]


@pytest.mark.parametrize("text", ["", "- design", "design", "design: {method: adapter", "a: &x [*x]", "\x00"])
def test_what_is_no_recipe_is_one_message(tmp_path, text):
    message(tmp_path, text)


def test_folder_starts_from_the_recipe_and_another_backbone_replaces_one_that_is_not_there(tmp_path):
    (tmp_path / "r.yaml").write_text("backbone: model\ndesign: {method: full}")
    assert "line 1: backbone" in message(tmp_path, (tmp_path / "r.yaml").read_text())
    from study.backbones.names import resolve

    assert recipe.read(tmp_path / "r.yaml", resolve("micro-unet")).backbone.name == "micro-unet"


def test_unknown_name_lists_the_shipped_recipes():
    with pytest.raises(InputFault, match=r"no recipe 'positon'.*position"):
        recipe.find("positon")


@pytest.mark.parametrize("file", sorted(recipe.SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipe_is_right_and_named_as_its_file(file):
    assert recipe.read(recipe.find(file.stem)).name == file.stem


def test_position_recipe_is_a_design_of_the_quick_study_under_its_protocol():
    read, quick = recipe.read(recipe.find("position")), Study.load("quick").config
    assert read.design in quick.space.designs
    trained = {"steps", "pictures"}  # twice as long; and no picture is scored
    assert read.protocol.model_dump(exclude=trained) == quick.protocol.model_dump(exclude=trained)


def test_shipped_recipes_are_in_the_package():
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["study"]
    packed = {file for pattern in patterns for file in (ROOT / "study").glob(pattern)}
    assert set(recipe.SHIPPED.iterdir()) <= packed


def test_recipe_survives_being_written_and_read_again(tmp_path):
    first = recipe.read(recipe.find("position"))
    again = {"name": first.name, "backbone": first.backbone.name, "design": first.design,
             "protocol": first.protocol.model_dump(mode="json")}  # fmt: skip
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    assert recipe.read(tmp_path / "again.yaml") == first
