"""The strategy `subset`: which designs a study runs, and what it says of them."""

import random

import numpy as np
import pandas as pd
import pytest
import yaml

from adapters.faults import InputFault
from adapters.positions import PAIRS, READS, WRITES
from study import Study, config
from study import space as spaces
from study.canonical import canonical_json, digest
from study.cli.dry_run import describe
from study.space import Factor, Space, text
from study.strategies import subset as subsets
from study.strategies.subset import Subset
from tests.study import fakes

EIGHT = {"kind": "subset", "size": 8}
POSITIONS = (Factor("input", READS), Factor("output", WRITES))
FIXED = {"method": "adapter", "budget": "3%"}
PAPER = (*POSITIONS, Factor("activation", ("relu", "sigmoid", "silu", "identity")), Factor("scale", (0.5, 1, 2, 4)))


def texts(designs: list[dict]) -> set[str]:
    return {canonical_json(design) for design in designs}


def told(study: Study) -> str:
    return "\n".join(describe(study))


def test_trials_are_those_of_the_chosen_designs_with_the_ids_they_always_had(tmp_path):
    every = Study.load(fakes.study_file(tmp_path)).trials
    study = Study.load(fakes.study_file(tmp_path, strategy=EIGHT))
    own = [trial for trial in study.trials if trial.role == "study"]
    assert len(study.config.space.designs) == 8 and len(own) == 8 * 2 * 2
    assert len(study.trials) == len(own) + fakes.REFERENCES
    kept = {trial.id for trial in study.trials}
    assert [trial.id for trial in study.trials] == [trial.id for trial in every if trial.id in kept]
    assert texts([trial.design for trial in own]) == texts(study.config.space.designs)
    status = study.status()
    assert (status["planned"], status["reference"]["planned"]) == (32, fakes.REFERENCES)


def test_only_the_subset_is_run_and_analysed(tmp_path):
    from study.executors.local import LocalExecutor
    from study.report import analyse

    study = Study.load(fakes.study_file(tmp_path, strategy=EIGHT))
    study.run(executor=LocalExecutor(study.store, ["cpu"], command=fakes.COMMAND))
    rows = study.results()
    assert len(rows) == 32 and set(rows["design_json"]) == texts(study.config.space.designs)
    table = {row.term: row.df for row in analyse(study).terms}
    # As with all designs: 3 inputs, 2 outputs, 2 activations; all 6 pairs are valid.
    assert [table[name] for name in ("input", "output", "activation", "pair")] == [2, 1, 1, 5]


@pytest.mark.parametrize("seed", range(3))
def test_choice_does_not_depend_on_the_order_of_factors_or_levels(seed):
    chosen = texts(Space(PAPER, FIXED, strategy=Subset(40)).designs)
    shuffle = random.Random(seed).sample
    turned = tuple(Factor(f.name, tuple(shuffle(f.levels, len(f.levels)))) for f in shuffle(PAPER, len(PAPER)))
    assert texts(Space(turned, FIXED, strategy=Subset(40)).designs) == chosen


FROZEN = "e5cc424f80fe84b390ae1ea30fa82340f37a2eb24c815655f4ef5e7e644e4d6f"


def test_choice_is_frozen():
    """What a study runs must not change under its results; a change here orphans rows of every such study."""
    chosen = Space(PAPER, FIXED, strategy=Subset(40)).designs
    assert digest(sorted(map(digest, chosen))) == FROZEN


def test_designs_stand_in_the_order_of_the_factors_levels():
    chosen = Space(PAPER, FIXED, strategy=Subset(40)).designs
    every = [canonical_json(design) for design in Space(PAPER, FIXED).designs]
    places = [every.index(canonical_json(design)) for design in chosen]
    assert len(places) == 40 and places == sorted(places)


def test_the_subset_determines_the_papers_space_far_better_than_most():
    """The determinant by numpy, of dummy columns of the 20 pairs, 4 activations and 4 scales."""
    space = Space(PAPER, FIXED, strategy=Subset(60))
    frame = pd.DataFrame([{key: text(value) for key, value in design.items()} for design in space.valid])
    frame["pair"] = frame["input"] + frame["output"]
    coded = pd.get_dummies(frame[["pair", "activation", "scale"]], drop_first=True).to_numpy(dtype=float)
    coded = np.column_stack([np.ones(len(frame)), coded])
    assert coded.shape == (20 * 4 * 4, 1 + 19 + 3 + 3)

    def reached(rows) -> float:
        logs = [np.linalg.slogdet(x.T @ x / len(x))[1] for x in (coded[rows], coded)]
        full = np.linalg.matrix_rank(coded[rows]) == coded.shape[1]
        return float(np.exp((logs[0] - logs[1]) / coded.shape[1])) if full else 0.0

    kept = texts(space.designs)
    chosen = reached([row for row, design in enumerate(space.valid) if canonical_json(design) in kept])
    draw = np.random.default_rng(0)
    others = [reached(draw.permutation(len(frame))[:60]) for _ in range(200)]
    # All cells are orthogonal and balanced in pairs, activations and scales, so no subset passes 1.
    assert 0.9 < chosen < 1 + 1e-9
    assert max(others) < 0.95 * chosen


def test_nested_factor_keeps_its_levels_and_every_method():
    methods = Factor("method", ("lora", "full", "bitfit"))
    factors = (
        methods,
        Factor("rank", (1, 2, 4, 8), ("method", ("lora",))),
        Factor("alpha", (1, 2), ("rank", (4, 8))),
        Factor("part", ("all", "attention"), ("method", ("full",))),
    )
    space = Space(factors, {}, strategy=Subset(8))
    assert subsets.Model.of(space, space.valid).nested["rank"] == "method"
    for name in ("method", "rank"):
        assert space.levels(name) == [text(level) for f in factors if f.name == name for level in f.levels]
    assert len(space.designs) == 8


def test_factor_nested_in_two_others_has_absence_as_a_level():
    factors = (
        Factor("method", ("x", "y")),
        Factor("form", ("u", "v")),
        Factor("rank", (1, 2), ("method", ("x",))),
        Factor("rank", (2,), ("form", ("v",))),
        Factor("alpha", (1, 4), ("rank", (2,))),
        Factor("bias", ("p", "q"), ("method", ("y",))),
    )
    space = Space(factors, {})
    cells = list(space.cells())
    model = subsets.Model.of(space, cells)
    assert model == subsets.Model(("method", "form", "rank", "alpha", "bias"), {"bias": "method"}, None)
    frame = model.frame(cells, cells)
    for name in ("rank", "alpha"):
        assert frame[name].tolist() == [text(cell.get(name, "(absent)")) for cell in cells]
    assert frame["bias"].isna().tolist() == [cell["method"] == "x" for cell in cells]


def test_untuned_backbone_stays_where_the_subset_leaves_it_out(tmp_path):
    nested = [{"when": {"method": "adapter"}, "factors": {
        "input": ["SA_in", "CA_out"], "output": ["FFN_in", "Trans_out"], "width": [2, 4]}}]  # fmt: skip
    path = fakes.study_file(
        tmp_path, factors={"method": ["adapter", "none"]}, nested=nested, fixed={}, strategy={**EIGHT, "size": 7}
    )
    study = Study.load(path)
    assert len(study.config.space.valid) == 9
    roles = [trial.role for trial in study.trials if trial.design == {"method": "none"}]
    assert len(roles) == 4 and {"method": "none"} in study.config.space.designs and set(roles) == {"study"}


def test_dry_run_says_size_efficiency_and_what_stays_estimable(tmp_path):
    said = told(Study.load(fakes.study_file(tmp_path, strategy=EIGHT)))
    for words in (
        "designs: 8 of 12 valid ones",
        "8 of 12 cells were chosen, D-optimal for the model of input, output, activation with input:output",
        "D-efficiency",
        "All 7 parameters that the cells determine stay estimable",
        "input:activation is not in the model",
        "trials: 32 (8 designs × 2 tasks × 2 seeds)",
    ):
        assert words in said
    assert "valid ones" not in told(Study.load(fakes.study_file(tmp_path)))


def test_all_valid_designs_may_be_asked_for(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, strategy={"kind": "subset", "size": 12}))
    assert len(study.config.space.designs) == 12 and "All 12 cells are taken" in told(study)
    one = {"input": ["SA_in"], "output": ["FFN_in"], "activation": ["relu"]}
    study = Study.load(fakes.study_file(tmp_path, factors=one, strategy={"kind": "subset", "size": 1}))
    assert len(study.config.space.designs) == 1 and "nothing to choose" in told(study)


HEAD = """\
name: s
backbone: pipe
tasks: [{name: rex, pictures: photos, class: dog}]
scores: {clip_i: scorer}
factors:
  input: [SA_in, CA_out, FFN_in]
  output: [FFN_in, Trans_out]
  activation: [relu, silu]
fixed: {method: adapter, width: 2}
strategy:
"""


@pytest.mark.parametrize(
    "section, line, word",
    [
        ("  kind: subset\n  size: 0\n", 12, "strategy.size: got 0: input should be greater than or equal to 1"),
        ("  kind: subset\n  size: -3\n", 12, "got -3"),
        ("  kind: subset\n  size: many\n", 12, "got 'many': input should be a valid integer"),
        ("  kind: subset\n  size: 6.5\n", 12, "got 6.5"),
        ("  kind: subset\n  size: true\n", 12, "got True"),
        ("  kind: subset\n", 10, "field required"),
        ("  kind: subset\n  size: 6\n  seed: -1\n", 13, "got -1"),
        ("  kind: subset\n  sise: 6\n  size: 6\n", 12, "did you mean size?"),
        ("  kind: subset\n  size: 6\n  interactions: 4\n", 13, "expected none, all, or a list such as [input:output]"),
        ("  kind: subset\n  size: 6\n  interactions: [input:rank]\n", 13, "'input:rank' cannot be used"),
        ("  kind: subset\n  size: 13\n", 12, "got 13, but there are only 12 valid designs"),
        ("  kind: subset\n  size: 4\n", 12, "cannot determine the 7 parameters"),
        ("  kind: subset\n  interactions: all\n  size: 9\n", 13, "choose at least 10"),
        ("  kind: subsett\n  size: 6\n", 11, "expected `factorial` or a subset such as {kind: subset, size: 60}"),
        ("  size: 6\n", 10, "expected `factorial` or a subset"),
        ("  subset\n", 10, "got 'subset', expected `factorial` or a subset"),
        ("  [subset, 6]\n", 10, "expected `factorial` or a subset"),
    ],
)
def test_wrong_section_is_one_fault_with_its_line(tmp_path, section, line, word):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + section)
    with pytest.raises(InputFault) as caught:
        config.read(path)
    assert f"line {line}: " in str(caught.value) and word in str(caught.value) and "has 1 fault:" in str(caught.value)


def test_faults_of_the_space_and_of_the_section_are_told_together(tmp_path):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD.replace("[relu, silu]", "[relu, silo]") + "  {kind: subset, size: 0}\n")
    with pytest.raises(InputFault, match="'silo'(.|\n)*got 0"):
        config.read(path)


def test_faults_elsewhere_do_not_hide_in_the_choice(tmp_path):
    """A section that needs the designs is checked on the chosen ones; without a choice it is left alone."""
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + "  {kind: subset, size: 40}\nprotocol_by: {input: {SA_in: {stepps: 2}}}\n")
    with pytest.raises(InputFault, match="has 2 faults(.|\n)*only 12 valid(.|\n)*did you mean steps"):
        config.read(path)


def test_size_of_the_crossing_is_counted_without_going_through_it():
    factors = (
        Factor("method", ("lora", "dora", "full")),
        Factor("rank", (1, 2, 4), ("method", ("lora", "dora"))),
        Factor("alpha", (1, 2), ("rank", (2, 4.0))),
        Factor("part", ("all", "attention"), ("method", ("full",))),
        Factor("targets", tuple("abcde")),
    )
    space = Space(factors, {})
    assert space.size == len(list(space.cells())) == (2 * (1 + 2 + 2) + 2) * 5
    huge = Space((*POSITIONS, Factor("scale", tuple(range(1, 10_001))), Factor("width", tuple(range(1, 1001)))), {})
    assert huge.size == 10 * 7 * 10_000 * 1000 and not huge.complete
    nested = Space((Factor("width", (1, 2), ("method", ("adapter",))),), {"method": "adapter"})
    assert nested.size == 2


LARGE = {"scale": list(range(1, 1001)), "width": list(range(1, 1001))}


def test_factorial_of_a_space_too_large_is_refused_with_its_size_and_the_way_out(tmp_path):
    path = fakes.study_file(tmp_path, factors={**fakes.SECTIONS["factors"], **LARGE}, fixed={"method": "adapter"})
    with pytest.raises(InputFault) as caught:
        config.read(path)
    message = str(caught.value)
    # 3 x 2 x 2 levels of the fakes, 1000 scales, 1000 widths.
    assert "12000000 combinations" in message and "kind: subset" in message and "1 fault" in message
    assert f"line {path.read_text().splitlines().index('factors:') + 1}:" in message
    path.write_text(path.read_text() + yaml.safe_dump({"strategy": {"kind": "subset", "size": 0}}))
    with pytest.raises(InputFault, match="1 fault(.|\n)*got 0"):
        config.read(path)


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(spaces, "LIMIT", 200)
    monkeypatch.setattr(spaces, "DRAWN", 120)


def test_subset_of_a_space_too_large_is_chosen_among_drawn_valid_designs(small_limits):
    space = Space(PAPER, FIXED, strategy=Subset(40))
    assert space.size == 10 * 7 * 4 * 4 and not space.complete
    every = Space(PAPER, FIXED)
    with pytest.raises(InputFault, match="1120 combinations"):
        every.valid  # noqa: B018 - a property that raises
    valid = {(design["input"], design["output"]) for design in space.valid}
    assert valid <= set(PAIRS)
    # 200 draws of 1120 cells, 2 in 7 of which are valid: 57 on average, standard deviation 6, less 5 drawn twice.
    assert 30 < len(space.valid) < 85 and len(texts(space.valid)) == len(space.valid)
    assert space.looked_at <= 200 and len(space.designs) == 40 and texts(space.designs) < texts(space.valid)
    assert "drawn at random from the 1120 combinations" in space.chosen.told[0]
    turned = tuple(Factor(factor.name, factor.levels[::-1]) for factor in PAPER[::-1])
    assert texts(Space(turned, FIXED, strategy=Subset(40)).designs) == texts(space.designs)
    assert texts(Space(PAPER, FIXED, strategy=Subset(40, seed=1)).valid) != texts(space.valid)


def test_drawing_ends_with_enough_valid_designs(small_limits):
    factors = (Factor("input", ("SA_in",)), Factor("output", ("CA_in",)), Factor("scale", tuple(range(1, 31))),
               Factor("activation", ("relu", "silu")), Factor("width", tuple(range(1, 11))))  # fmt: skip
    space = Space(factors, {"method": "adapter"}, strategy=Subset(50))
    assert len(space.valid) == space.looked_at == 120
    scales = [design["scale"] for design in space.valid]
    assert scales == sorted(scales), "in the order of the factors' levels"


def test_dry_run_says_that_designs_were_drawn(small_limits, tmp_path):
    factors = {"input": "all", "output": "all", "activation": "all", "scale": [1, 2]}
    study = Study.load(fakes.study_file(tmp_path, factors=factors, strategy={"kind": "subset", "size": 30}))
    said = told(study)
    assert "drawn at random:" in said and "from the 560 combinations of levels" in said
    with pytest.raises(InputFault, match="valid designs were found in .* drawn at random"):
        Study.load(fakes.study_file(tmp_path, factors=factors, strategy={"kind": "subset", "size": 150}))


def test_of_too_many_valid_designs_those_with_the_lowest_hashes_are_candidates(monkeypatch):
    monkeypatch.setattr(subsets, "CANDIDATES", 100)
    space = Space(PAPER, FIXED, strategy=Subset(30))
    lowest = sorted(map(digest, space.valid))[:100]
    assert {digest(design) for design in space.designs} <= set(lowest)
    assert "The 100 candidates are those of the 320 valid designs with the lowest hashes" in space.chosen.told[0]
    with pytest.raises(InputFault, match="parameters"):
        Space(PAPER, FIXED, strategy=Subset(10)).designs  # noqa: B018 - a property that raises
    many = Space(PAPER, FIXED, strategy=Subset(101))
    assert list(many.strategy.faults(many)) == [
        ("size", "got 101, but a subset is chosen from 100 designs at most; ask for fewer")
    ]


def test_level_that_no_candidate_has_is_said(monkeypatch):
    monkeypatch.setattr(subsets, "CANDIDATES", 60)
    factors = (Factor("input", ("CA_out",)), Factor("output", ("FFN_in",)), Factor("scale", tuple(range(1, 81))))
    space = Space(factors, FIXED, strategy=Subset(60))
    lost = {text(design["scale"]) for design in space.valid} - {text(design["scale"]) for design in space.designs}
    assert len(lost) == 20 and space.chosen.told[1].startswith("No candidate has scale=")
    assert set(space.chosen.told[1].split("=")[1].split(",")[0].split("|")) == lost
