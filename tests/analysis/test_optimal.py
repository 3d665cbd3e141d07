"""D-optimal subsets against closed forms, all subsets of small spaces, and determinants computed on other columns."""

import json
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis import exchange, optimal


def crossing(**levels: list) -> pd.DataFrame:
    return pd.DataFrame(list(product(*levels.values())), columns=list(levels), dtype=object)


def paper(scales: int = 6) -> pd.DataFrame:
    """20 pairs x 4 activations x scales; forbidden: two activations on the five pairs of scales 0 and 1."""
    cells = crossing(pair=PAIRS, activation=list("abcd"), scale=list(range(scales)))
    pairs = pd.DataFrame(cells.pop("pair").tolist(), columns=["input", "output"])
    cells = pd.concat([pairs, cells], axis=1)
    few = [f"{i}:{o}" for i, o in PAIRS[:10]]
    forbidden = (cells["input"] + ":" + cells["output"]).isin(few) & cells["activation"].isin(["c", "d"])
    return cells[~(forbidden & (cells["scale"] < 2))]


def columns(cells: pd.DataFrame, interactions: tuple[str, ...] = ()) -> np.ndarray:
    """Independent columns of treatment coding, the first that are; a missing level is a level."""
    frame = cells.astype(object).where(cells.notna(), "-").astype(str)
    for term in interactions:
        frame[term] = frame[term.split(":")].agg("|".join, axis=1)
    coded = np.column_stack([np.ones(len(cells)), pd.get_dummies(frame).to_numpy(dtype=float)])
    kept: list[int] = []
    for column in range(coded.shape[1]):
        if np.linalg.matrix_rank(coded[:, [*kept, column]]) > len(kept):
            kept.append(column)
    return coded[:, kept]


def efficiency(coded: np.ndarray, rows: list[int]) -> float:
    """By numpy.linalg.slogdet: (|X'X|/n^p)^(1/p) of some rows over that of all."""
    some = coded[rows]
    if np.linalg.matrix_rank(some) < coded.shape[1]:
        return 0.0
    logs = [np.linalg.slogdet(x.T @ x / len(x))[1] for x in (some, coded)]
    return float(np.exp((logs[0] - logs[1]) / coded.shape[1]))


@pytest.mark.parametrize(
    "levels, factors, size, interactions",
    [
        (2, 3, 4, "none"),  # 2^(3-1), resolution III
        (2, 5, 8, "none"),  # 2^(5-2)
        (2, 7, 8, "none"),  # 2^(7-4), saturated
        (3, 4, 9, "none"),  # 3^(4-2), the orthogonal array L9
        (2, 5, 16, "all"),  # 2^(5-1), resolution V: all two-way interactions
    ],
)
def test_an_orthogonal_fraction_is_found_where_there_is_one(levels, factors, size, interactions):
    """Closed form: in an orthogonal fraction of full resolution X'X/n is that of all cells, so the efficiency is 1."""
    cells = crossing(**{f"f{k}": list(range(levels)) for k in range(factors)})
    found = optimal.subset(cells, size, interactions=interactions)
    assert found.efficiency == pytest.approx(1, abs=1e-9)
    for k in range(factors):
        assert found.rows[f"f{k}"].value_counts().tolist() == [size // levels] * levels


SMALL = {
    "crossed": (crossing(a="xyz", b="uvw", c="pq"), (), {}),
    "forbidden": (crossing(a="xyz", b="uvw", c="pq").query("not (a == 'x' and b != 'u') and c + b != 'qw'"), (), {}),
    "interaction": (crossing(a="xyz", b="uv", c="pq"), ("a:b",), {}),
    "components": (
        crossing(a="wxyz", b="stuv", c="pq").query("a in ['w', 'x'] and b in ['s', 't'] or a > 'x' and b > 't'"),
        (),
        {},
    ),
    "nested": (
        pd.concat([crossing(m=["lora"], r=[1, 2, 4], c=list("pq")), crossing(m=["full", "bias"], c=list("pq"))]),
        (),
        {"r": "m"},
    ),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("more", [0, 1, 2])
def test_no_subset_of_a_small_space_is_better(name, more):
    """All subsets of that size, each by slogdet."""
    cells, interactions, nested = SMALL[name]
    coded = columns(cells, interactions)
    size = coded.shape[1] + more
    found = optimal.subset(cells.reset_index(drop=True), size, interactions=interactions or "none", nested=nested)
    best = max(efficiency(coded, list(rows)) for rows in combinations(range(len(cells)), size))
    assert found.parameters == coded.shape[1]
    assert found.efficiency == pytest.approx(best, rel=1e-9)
    assert found.efficiency == pytest.approx(efficiency(coded, found.rows.index.tolist()), rel=1e-9)


def test_efficiency_of_the_papers_space_is_the_determinants_and_random_subsets_are_worse():
    cells = paper().reset_index(drop=True)
    assert len(cells) == 440
    found = optimal.subset(cells, 60, pair=("input", "output"))
    coded = columns(cells, ("input:output",))
    # 20 pairs, 3 for the activation, 5 for the scale.
    assert found.parameters == coded.shape[1] == 28
    assert found.efficiency == pytest.approx(efficiency(coded, found.rows.index.tolist()), rel=1e-9)
    draw = np.random.default_rng(0)
    reached = [efficiency(coded, draw.permutation(440)[:60].tolist()) / found.efficiency for _ in range(300)]
    assert max(reached) < 0.95 and found.random.best < 0.95
    # Standard error of a share of 100 and of 300 draws together: at most .06.
    assert found.random.singular / 100 == pytest.approx(np.mean(np.array(reached) == 0), abs=0.18)


def test_no_exchange_of_one_cell_is_better():
    cells = paper().reset_index(drop=True)
    found = optimal.subset(cells, 40, starts=1)
    coded = columns(cells)
    chosen = found.rows.index.tolist()
    inverse = np.linalg.inv(coded[chosen].T @ coded[chosen])
    d = coded @ inverse @ coded.T
    others = np.setdiff1d(np.arange(len(cells)), chosen)
    ratio = np.outer(1 - np.diag(d)[chosen], 1 + np.diag(d)[others]) + d[np.ix_(chosen, others)] ** 2
    assert ratio.max() < 1 + 1e-7


def test_df_of_the_papers_positions_are_those_of_the_brief():
    """STATISTICS.md §2: input adjusted for output has 7 df, output 4, input:output 6; nominally 9, 6 and 54."""
    found = optimal.subset(paper(), 60, interactions=["input:output"]).to_frame().set_index("term")
    assert found.loc[["input", "output", "input:output"], "df"].tolist() == [7, 4, 6]
    assert found.loc[["input", "output", "input:output"], "df_nominal"].tolist() == [9, 6, 54]
    assert len(found.loc["input", "aliased"]) == 2 and len(found.loc["output", "aliased"]) == 2
    assert (found["df"] <= found["df_all"]).all()
    declared = found[found["role"] != "not declared"]
    assert (declared["df"] == declared["df_all"]).all()


def test_half_a_cube_aliases_each_factor_with_the_others_interaction():
    """2^(3-1): A = BC, so BC cannot be added, and biases A by its own size and nothing else."""
    found = optimal.subset(crossing(a=[0, 1], b=[0, 1], c=[0, 1]), 4)
    terms = {term.term: term for term in found.terms}
    assert [terms[f].efficiency for f in "abc"] == pytest.approx([1, 1, 1], abs=1e-9)
    for factor, pair in (("a", "b:c"), ("b", "a:c"), ("c", "a:b")):
        assert (terms[pair].df, terms[pair].df_all, terms[pair].role) == (0, 1, "not declared")
        assert terms[pair].biases == pytest.approx({factor: 1}, abs=1e-9)
    assert "b:c is not in the model: 0 of the 1 degree of freedom" in found.explain()
    assert "wrong by up to 1.00 times its size" in found.explain()


def test_bias_is_what_a_fit_of_the_declared_model_makes_of_an_interaction():
    """Least squares on the chosen cells of a response that is the interaction alone; the worst of many is the bound."""
    cells = crossing(a="xyz", b="uv", c="pqr").query("not (a == 'x' and b == 'u')").reset_index(drop=True)
    found = optimal.subset(cells, 9)
    term = next(term for term in found.terms if term.term == "a:c")
    coded, full = columns(cells), columns(cells, ("a:c",))
    own = full - coded @ np.linalg.lstsq(coded, full, rcond=None)[0]
    others = columns(cells[["b", "c"]])
    chosen, draw, worst = found.rows.index.tolist(), np.random.default_rng(1), 0.0
    for _ in range(4000):
        response = own @ draw.normal(size=own.shape[1])
        fitted = coded @ np.linalg.lstsq(coded[chosen], response[chosen], rcond=None)[0]
        effect = fitted - others @ np.linalg.lstsq(others, fitted, rcond=None)[0]
        worst = max(worst, float(np.linalg.norm(effect) / np.linalg.norm(response)))
    assert worst <= term.biases["a"] + 1e-9
    assert worst == pytest.approx(term.biases["a"], rel=0.02)


def test_term_efficiency_is_the_ratio_of_determinants():
    """Of the information on a term adjusted for the others: a Schur complement, by hand."""
    cells = paper().reset_index(drop=True)
    found = optimal.subset(cells, 45)
    rows = found.rows.index.tolist()
    whole, others = columns(cells), columns(cells.drop(columns="activation"))
    logs = [
        np.linalg.slogdet(x[part].T @ x[part] / len(part))[1]
        for part in (rows, list(range(len(cells))))
        for x in (whole, others)
    ]
    term = next(term for term in found.terms if term.term == "activation")
    assert term.efficiency == pytest.approx(np.exp((logs[0] - logs[1] - logs[2] + logs[3]) / 3), rel=1e-9)


def test_the_choice_does_not_hang_on_rounding():
    """Another basis, and noise of the size that another machine's rounding makes, choose the same rows."""
    cells = paper(5)
    plan, sample = optimal._read(cells, None, "none", None, None)
    values = optimal._basis(sample, plan.terms).at(np.arange(len(cells)))
    draw = np.random.default_rng(2)
    turned = values @ np.linalg.qr(draw.normal(size=(values.shape[1],) * 2))[0]
    first = exchange.search(values, 40, 4, 7)
    assert exchange.search(turned + 1e-13 * draw.normal(size=turned.shape), 40, 4, 7).tolist() == first.tolist()
    assert exchange.search(values, 40, 4, 8).tolist() != first.tolist()


SHUFFLED = [3, 2, 1, 6, 0, 7, 4, 5]  # numpy 2.4.6 on x86-64, PCG64 seeded with (0, 0, 0)


def test_shuffles_are_frozen():
    """The bit generator's raw stream, which numpy keeps the same in all versions (NEP 19)."""
    assert exchange.shuffled(8, 0, 0, 0).tolist() == SHUFFLED


def test_rows_are_the_cells_with_their_index_each_once_and_in_order():
    cells = crossing(a="xyz", b="uvw", c="pqr", note=["n"]).rename(index=lambda k: f"row {k}")
    found = optimal.subset(cells, 10, seed=3)
    assert found.size == len(found.rows) == 10 and found.rows.index.is_unique
    pd.testing.assert_frame_equal(found.rows, cells.loc[found.rows.index])
    assert [cells.index.get_loc(label) for label in found.rows.index] == sorted(
        cells.index.get_loc(label) for label in found.rows.index
    )
    assert optimal.subset(cells, 10, seed=3).rows.index.tolist() == found.rows.index.tolist()
    assert {term.term for term in found.terms if term.role == "factor"} == {"a", "b", "c"}


def test_all_cells_are_taken_and_it_is_said():
    cells = crossing(a="xyz", b="uv")
    found = optimal.subset(cells, 7, interactions="all")
    assert found.size == 6 and found.efficiency == pytest.approx(1) and found.random is None and found.starts == 0
    assert "All 6 cells are taken" in found.explain() and "0 degrees of freedom remain" in found.explain()


def test_result_is_plain_data_a_table_and_sentences():
    found = optimal.subset(paper(), 60)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["size"] == 60 and told["cells"] == 440 and told["residual_df"] == 60 - told["parameters"]
    assert len(told["rows"]) == 60 and told["random"]["count"] == optimal.RANDOM
    assert list(found.to_frame()["term"])[:4] == ["input", "output", "activation", "scale"]
    said = found.explain()
    for word in ("60 of 440 cells", "seed 0", "22 parameters", "input has 7 of 9", "input:activation is not in the"):
        assert word in said
    assert "| input |" in found.to_markdown()


FEW = crossing(a="xyz", b="uv")


@pytest.mark.parametrize(
    "cells, arguments, word",
    [
        (
            FEW,
            {"size": 3},
            "3 cells cannot determine the 4 parameters of the additive model of a, b: choose at least 4",
        ),
        (FEW, {"size": 5, "interactions": "all"}, "choose at least 6"),
        (FEW, {"size": 0}, "at least 1, not 0"),
        (FEW, {"size": 4.5}, "not 4.5"),
        (FEW, {"size": True}, "not True"),
        (FEW, {"size": 4, "starts": 0}, "number of starts"),
        (FEW, {"size": 4, "seed": -1}, "seed"),
        (FEW, {"size": 4, "factors": ["a", "q"]}, "no column 'q'"),
        (FEW, {"size": 4, "interactions": ["a:q"]}, "'a:q' cannot be used"),
        (FEW.assign(b=[None, *FEW["b"][1:]]), {"size": 4}, "'b' has no value in 1 of the 6 cells"),
        (FEW.iloc[:0], {"size": 4}, "no cell to choose from"),
        (FEW.iloc[:1], {"size": 1}, "No factor was named"),
    ],
)
def test_what_cannot_be_chosen_is_refused(cells, arguments, word):
    with pytest.raises(InputFault) as caught:
        optimal.subset(cells, **arguments)
    assert word in str(caught.value)
