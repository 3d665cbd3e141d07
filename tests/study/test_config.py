"""Study files: what they may say, and every fault with its line in one message."""

import pytest

from adapters.faults import InputFault
from study import Study, config
from study.columns import ROW
from study.tasks.control_spec import CONTROL
from study.tuning import groups
from tests.study import fakes


def message(root, text: str) -> str:
    path = root / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputFault) as caught:
        config.read(path)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    fakes.folders(tmp_path)
    return tmp_path


HEAD = """\
name: s
backbone: pipe
tasks: [{name: rex, pictures: photos, class: dog}]
scores: {clip_i: scorer}
"""
FACTORS = """\
factors:
  input: [CA_out]
  output: [FFN_in]
fixed: {method: adapter, width: 2}
"""
NEST = "  - when:\n"
NESTED = HEAD + FACTORS + "nested:\n" + NEST
SCALE = "    factors: {scale: [1]}\n"


def test_five_faults_of_five_kinds_are_all_named_with_their_lines(root):
    told = message(
        root,
        """\
name: s
backbone: pipes
factors:
  input: [CA_outt, CA_out]
  output: all
  status: [a, b]
fixed: {method: adapter, width: 2}
tasks:
  - {name: rex, pictures: nowhere, class: dog}
scores: {clip_i: scorer}
protocol:
  steps: 10
  lerning_rate: 1e-3
""",
    )
    lines = told.splitlines()
    assert lines[0].endswith("has 5 faults:")
    expected = {2: "'pipes'", 4: "'CA_outt'", 6: "'status'", 9: "nowhere", 13: "did you mean learning_rate?"}
    assert [int(line.split(":")[0].removeprefix("  line ")) for line in lines[1:]] == list(expected)
    for line, word in zip(lines[1:], expected.values(), strict=True):
        assert word in line


@pytest.mark.parametrize(
    "text, line, word",
    [
        (HEAD + FACTORS + "scors: 1\n", 9, "did you mean scores?"),
        (HEAD + FACTORS + "confirm: {}\n", 9, "field required"),
        (HEAD + FACTORS + "strategy: optuna\n", 9, "factorial"),
        (HEAD + FACTORS + "seeds: 0\n", 9, "got 0"),
        (HEAD + FACTORS + "seeds: [1, 1]\n", 9, "each once"),
        (HEAD + FACTORS + "seeds: [1.5]\n", 9, "integer"),
        (HEAD + FACTORS + "primary: dino_i\n", 9, "one of the study's scores"),
        (HEAD + FACTORS + "protocol: {checkpoints: [10]}\n", 9, "at its end only"),
        (HEAD + FACTORS + "protocol_by: {input: {FFN_in: {steps: 2}}}\n", 9, "no design has this level"),
        (HEAD + FACTORS + "protocol_by: {input: {CA_out: {stepps: 2}}}\n", 9, "did you mean steps?"),
        (HEAD + FACTORS + "forbid: [{input: SA_in}]\n", 9, "its levels are CA_out"),
        (HEAD + FACTORS + "forbid: [{rank: 4}]\n", 9, "no factor of this study"),
        (HEAD + FACTORS + "forbid: [{input: CA_out}]\n", 5, "every cell is forbidden"),
        (HEAD + FACTORS + "nested: [{when: {method: lora}, factors: {scale: [1]}}]\n", 9, "its levels are adapter"),
        (HEAD + FACTORS + "nested: [{when: {method: []}, factors: {scale: [1]}}]\n", 9, "at least 1"),
        (HEAD + FACTORS + "nested: [{when: {rank: [4, 8]}, factors: {scale: [1]}}]\n", 9, "no factor declared before"),
        (NESTED + "      method:\n        - adapter\n        - ful\n" + SCALE, 13, "got 'ful'; its levels are adapter"),
        (NESTED + "      method: [adapter]\n" + SCALE + NEST + "      method: adapter\n" + SCALE, 15, "=adapter twice"),
        (HEAD + FACTORS + "name: t\n", 9, "a second time"),
        (HEAD + FACTORS.replace("[CA_out]", "CA_out"), 6, "expected a list of levels, or `all`"),
        (HEAD + FACTORS.replace("[CA_out]", "[CA_out, CA_out]"), 6, "given twice"),
        (HEAD + FACTORS.replace("output", "init"), 6, "needs input and output"),
        (HEAD + FACTORS.replace("[FFN_in]", "[FFN_in, SA_out]"), 7, "output=CA_in"),
        (HEAD + FACTORS.replace("[FFN_in]", "[FFN_in]\n  backbone: [a]"), 8, "under the section `backbone`"),
        (HEAD + FACTORS + "  \n", 0, ""),
        (HEAD + FACTORS.replace("width: 2", "width: 2, budget: 3%"), 8, "both width and budget"),
        (HEAD + FACTORS.replace("width: 2", "width: 2, scale: all"), 8, "scale='all'"),
        (HEAD + FACTORS.replace("method: adapter, ", ""), 8, "no method"),
        (HEAD + FACTORS.replace("adapter", "loar"), 8, "unknown method 'loar'"),
        (HEAD + FACTORS.replace("width: 2", "rank: 2, width: 2"), 8, "does not know rank"),
        (HEAD.replace("clip_i: scorer", "clip_j: scorer") + FACTORS, 4, "clip_i"),
        (HEAD.replace("photos", "pipe") + FACTORS, 3, "no picture"),
        ("a: [1\n", 2, "not YAML"),
    ],
)
def test_fault_names_its_line_and_what_to_do(root, text, line, word):
    if not word:  # the text all the others change is right
        (root / "study.yaml").write_text(text)
        assert config.read(root / "study.yaml").name == "s"
        return
    told = message(root, text)
    assert f"line {line}:" in told and word in told
    assert "1 fault" in told or "not YAML" in told


def test_several_wrong_fixed_levels_are_all_named(root):
    told = message(root, HEAD + FACTORS.replace("width: 2", "width: 0, scale: -1, activation: tanh, init: odd"))
    for word in ("width=0", "scale=-1", "activation='tanh'", "init='odd'"):
        assert word in told


@pytest.mark.parametrize("name", [name for name in ROW if name != "backbone"])
def test_column_of_the_store_is_no_factor_name(root, name):
    nested = f"nested: [{{when: {{method: adapter}}, factors: {{{name}: [1]}}}}]\n"
    assert f"{name!r} is a column" in message(root, HEAD + FACTORS + nested)


def test_document_that_refers_to_itself_is_refused(root):
    assert "refers to itself" in message(root, "name: &a [*a]\n")


def test_missing_sections_are_named_together(root):
    told = message(root, "name: s\n")
    assert all(f"{name}: is missing" in told for name in ("backbone", "factors", "tasks"))


def test_unknown_study_lists_the_shipped_ones():
    with pytest.raises(InputFault, match=r"paper, paper-micro, quick"):
        config.find("quik")


def test_sections_given_in_python_are_checked_the_same(root):
    with pytest.raises(InputFault, match="2 faults(.|\n)*unknown section(.|\n)*no class|class is missing"):
        Study(root, **{**fakes.SECTIONS, "tasks": [{"name": "rex", "pictures": "photos"}], "scors": 1})
    assert len(Study(root, **fakes.SECTIONS).trials) == fakes.PLANNED + fakes.REFERENCES


def test_nested_factor_may_exist_under_several_levels(root):
    sections = """\
factors: {method: [adapter, full, none]}
nested:
  - when: {method: [adapter]}
    factors: {input: [CA_out], output: [FFN_in], width: [2, 4]}
  - when: {width: [2, 4]}
    factors: {scale: [1, 2]}
"""
    (root / "study.yaml").write_text(HEAD + sections)
    designs = config.read(root / "study.yaml").space.designs
    assert [(d["method"], d.get("width"), d.get("scale")) for d in designs] == [
        *(("adapter", width, scale) for width in (2, 4) for scale in (1, 2)),
        ("full", None, None),
        ("none", None, None),
    ]


def test_numbers_without_a_point_are_numbers(root):
    (root / "study.yaml").write_text(HEAD + FACTORS + "protocol: {learning_rate: 5e-4, batch: 3}\n")
    protocol = config.read(root / "study.yaml").protocol
    assert protocol.learning_rate == 0.0005
    assert protocol.prior_batch == 3, "the prior batch follows the batch unless it is given"


def test_protocol_by_changes_the_protocol_of_its_level_only(root):
    text = HEAD + FACTORS.replace("[FFN_in]", "[FFN_in, Trans_out]") + "protocol_by: {output: {FFN_in: {steps: 7}}}\n"
    (root / "study.yaml").write_text(text)
    study = Study.load(root / "study.yaml")
    steps = {trial.design.get("output"): trial.protocol.steps for trial in study.trials}
    assert steps == {"FFN_in": 7, "Trans_out": 200, None: 200}


def test_shipped_studies_are_right_and_as_large_as_declared(monkeypatch, root):
    monkeypatch.setattr("study.backbones.names.BUILTIN", root)
    (root / "pipe").rename(root / "micro-unet")
    for scorer in ("micro-clip", "micro-dino"):
        (root / scorer).mkdir()
        for file in ("config.json", "model.safetensors"):
            (root / scorer / file).write_bytes((root / "scorer" / file).read_bytes())
    fakes.pipeline(root / "micro-dit", "PixArtAlphaPipeline")
    transfer = config.read(config.find("transfer"))
    assert [len(transfer.designs_on(source)) for source in transfer.backbones] == [20, 17]  # 3 pairs are of ResNets
    sizes = {name: config.read(config.find(name)) for name in ("quick", "paper", "paper-micro")}
    designs = {name: len(study.space.designs) for name, study in sizes.items()}
    # 20 pairs; 20 x 4 activations x 4 scales; 18 pairs x 4 activations, and two pairs x 4 activations x 4 scales.
    assert designs == {"quick": 20, "paper": 320, "paper-micro": 18 * 4 + 2 * 4 * 4}
    assert len(sizes["paper"].tasks) == len(sizes["paper-micro"].tasks) == 8
    assert len(sizes["quick"].tasks) >= 2 and len(sizes["quick"].seeds) >= 2
    sensitivity = config.read(config.find("sensitivity"))
    # Four methods at two sizes, each a group of its own, so that the grid (two numbers of steps, five rates) is whole.
    assert [len(group.points) for group in groups(sensitivity)] == [2 * 5] * 8


def test_the_shipped_study_of_control_maps_has_a_rate_for_every_method():
    study = config.read(config.find("control"))
    assert [task.name for task in study.tasks] == ["control/edges", "control/segmentation", "control/landmarks"]
    # Chosen by the study `methods` (docs/findings.md); DoRA's a third of it, the recipe's own.
    rates = {design["method"]: study.protocol_of(design).learning_rate for design in study.space.designs}
    assert rates == {"lora": 3e-3, "dora": 1e-2, "oft": 1e-3, "boft": 3e-3, "tlora": 1e-2, "tlora_star": 3e-3,
                     "adapter": 5e-3}  # fmt: skip
    assert study.primary == "edge_error" and set(study.scores) == {*CONTROL, "clip_t"}
