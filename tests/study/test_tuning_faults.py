"""Every fault of the section `tune` is told with its line, all in one message."""

import pytest

from adapters.faults import InputFault
from study import config
from tests.study import fakes

HEAD = """\
name: s
backbone: pipe
tasks: [{name: rex, pictures: photos, class: dog}]
scores: {clip_i: scorer}
factors:
  input: [CA_out, SA_in]
  output: [FFN_in]
fixed: {method: adapter, width: 2}
tune:
"""
TASK = "  tasks: [{name: ham, pictures: photos, class: hamster}]\n"
GRID = "  grid: {learning_rate: [1e-3, 1e-2]}\n"
SAME = (
    "  tasks:\n    - {name: ham, pictures: photos, class: hamster}\n    - {name: rex2, pictures: photos, class: dog}\n"
)


@pytest.mark.parametrize(
    "text, line, word",
    [
        (TASK, 9, "tune.grid"),
        (GRID, 9, "tune.tasks"),
        (TASK + GRID + "  colour: 1\n", 12, "expected one of by, grid, "),
        (TASK + GRID + "  sead: 1\n", 12, "did you mean seeds?"),
        (TASK + GRID + "  seeds: 0\n", 12, "got 0"),
        (TASK + GRID + "  by: [metod]\n", 12, "metod is no factor of this study; the factors are method, width, input"),
        (TASK + GRID + "  by: [method, method]\n", 12, "method is given twice"),
        (TASK + GRID + "  by: []\n", 12, "at least 1"),
        (TASK + GRID + "  by: backbone\n", 12, "leave it out"),
        (TASK + "  grid: {}\n", 11, "expected either a grid"),
        (TASK + "  grid: {learning_rate: []}\n", 11, "at least 1"),
        (TASK + "  grid:\n    lerning_rate: [1]\n", 12, "did you mean learning_rate?"),
        (
            TASK + "  grid:\n    learning_rate:\n      - 1e-3\n      - -1\n",
            14,
            "got -1: input should be greater than 0",
        ),
        (TASK + "  grid: {sampler: [ddim, heun]}\n", 11, "got 'heun'"),
        (TASK + "  grid: {learning_rate: [1e-3, 0.001]}\n", 11, "0.001 is given twice"),
        (TASK + "  grid: {checkpoints: [5]}\n", 11, "at its end only"),
        (GRID + "  tasks: [subject/nobody]\n", 11, "no subject 'nobody'"),
        (GRID + "  tasks: [{name: rex, pictures: photos, class: cat}]\n", 11, "subject/rex is a task of the study:"),
        (GRID + SAME, 13, "subject/rex2 is a task of the study by the name subject/rex"),
        (GRID + SAME.replace("rex2", "jam").replace("dog", "hamster"), 13, "subject/jam is given twice, by the name"),
        (TASK + GRID + "protocol_by: {method: {adapter: {learning_rate: 1}}}\n", 9, "nothing is left to tune"),
        (TASK + GRID + "protocol_by: {input: {CA_out: {learning_rate: 1}}}\n", 9, "name input here"),
        (TASK + GRID, 0, ""),
        (TASK + GRID + "  by: input\nprotocol_by: {input: {CA_out: {learning_rate: 1}}}\n", 0, ""),
    ],
)
def test_fault_names_its_line_and_what_to_do(tmp_path, text, line, word):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + text)
    if not word:  # the text all the others change is right
        assert config.read(path).tune is not None
        return
    with pytest.raises(InputFault) as caught:
        config.read(path)
    told = str(caught.value)
    assert f"line {line}:" in told and word in told and "1 fault" in told


def test_all_faults_of_the_section_stand_in_one_message(tmp_path):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(
        HEAD + "  tasks: [{name: rex, pictures: photos, class: dog}]\n  grid: {stepps: [1], batch: [0]}\n  by: [rank]\n"
    )
    with pytest.raises(InputFault) as caught:
        config.read(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("has 4 faults:")
    assert [line.split(":")[0] for line in lines[1:]] == ["  line 10", "  line 11", "  line 11", "  line 12"]
