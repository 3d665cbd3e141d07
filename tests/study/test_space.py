"""The space: crossing, nesting, forbidden cells, components."""

import pytest

from adapters.positions import PAIRS, READS, WRITES
from study.space import Factor, Space, text

POSITIONS = (Factor("input", READS), Factor("output", WRITES))
FIXED = {"method": "adapter", "budget": "3%"}


def test_all_positions_give_the_twenty_pairs_and_count_what_was_left_out():
    space = Space(POSITIONS, FIXED)
    # Oracle: the paper's list of valid pairs.
    assert sorted((d["input"], d["output"]) for d in space.designs) == sorted(PAIRS)
    assert sum(space.left_out.values()) == 10 * 7 - 20
    assert space.faults == []


def test_components_are_the_papers_three():
    parts = Space(POSITIONS, FIXED).components("input", "output")
    transformer, context, resnet = parts
    assert len(transformer[0]) == 7 and len(transformer[1]) == 4
    assert context == (["CA_c"], ["CA_c"])
    assert resnet == (["Res_in", "Res_out"], ["Res_in", "Res_out"])


def test_components_join_when_a_later_cell_connects_them():
    factors = (Factor("input", ("SA_in", "FFN_in")), Factor("output", ("CA_in", "FFN_in", "Trans_out")))
    space = Space(factors, FIXED, ({"input": ("SA_in",), "output": ("FFN_in",)},))
    # SA_in-CA_in, SA_in-Trans_out, FFN_in-FFN_in, FFN_in-Trans_out: Trans_out connects the two.
    assert space.components("input", "output") == [(["SA_in", "FFN_in"], ["CA_in", "Trans_out", "FFN_in"])]


def test_designs_are_canonical_and_equal_levels_one_design():
    factors = (Factor("budget", ("3%", 0.03)), Factor("scale", (1, 0.5)))
    space = Space(factors, {"method": "adapter", "input": "CA_c", "output": "CA_c"})
    assert [(d["budget"], d["scale"]) for d in space.designs] == [(0.03, 1), (0.03, 0.5)]
    assert space.varying == ["scale"]


def test_nested_factor_exists_only_under_its_level():
    factors = (
        Factor("method", ("adapter", "full")),
        *(Factor(f.name, f.levels, ("method", ("adapter",))) for f in POSITIONS),
        Factor("width", (4,), ("method", ("adapter",))),
    )
    designs = Space(factors, {}).designs
    assert {"method": "full"} in designs and len(designs) == 21


def test_nested_factor_exists_under_each_of_several_levels():
    factors = (
        Factor("input", ("SA_in", "CA_out", "FFN_in")),
        Factor("scale", (1, 2), ("input", ("SA_in", "FFN_in"))),
        Factor("activation", ("relu", "silu"), ("scale", (2.0,))),  # 2.0 is the level 2
    )
    cells = list(Space(factors, {"method": "adapter"}).cells())
    assert [(c["input"], c.get("scale"), c.get("activation")) for c in cells] == [
        ("SA_in", 1, None),
        ("SA_in", 2, "relu"),
        ("SA_in", 2, "silu"),
        ("CA_out", None, None),
        ("FFN_in", 1, None),
        ("FFN_in", 2, "relu"),
        ("FFN_in", 2, "silu"),
    ]


def test_forbidden_cells_are_left_out_by_any_of_their_levels():
    factors = (Factor("input", ("CA_out", "FFN_in")), Factor("output", ("FFN_in",)), Factor("scale", (0.5, 1, 2)))
    space = Space(factors, {"method": "adapter", "width": 2}, ({"input": ("FFN_in",), "scale": (0.5, 2)},))
    assert [(d["input"], d["scale"]) for d in space.designs] == [
        ("CA_out", 0.5),
        ("CA_out", 1),
        ("CA_out", 2),
        ("FFN_in", 1),
    ]
    assert space.left_out == {"forbid: input=FFN_in, scale=0.5|2": 2}


@pytest.mark.parametrize(
    "value, expected", [(1.0, "1"), (1, "1"), (0.5, "0.5"), ("NA", "NA"), (True, "true"), (1e-4, "0.0001")]
)
def test_level_has_one_text(value, expected):
    assert text(value) == expected
