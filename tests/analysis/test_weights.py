"""TLoRA's claim as a test: it is found where it was planted, not where it was not, with the intervals of a paired t."""

import json

import numpy as np
import pytest
from scipy import stats

from adapters.faults import InputFault
from analysis.ring_fits import transform_matrix
from analysis.weight_spectra import singular_values, truncation_errors
from analysis.weight_structures import Structure
from analysis.weights import MANY, RANDOM, SAME, weight_changes
from tests.analysis.test_ring_fits import planted

STRUCTURES = [Structure("tlora_star", (1, 1)), Structure("krona", (2, 2))]


def models(change, count=3, matrices=2, seed=0) -> dict:
    """Models whose matrices changed by what `change` says of (rng, W₀)."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((12, 12)) for _ in range(matrices)]
    return {
        f"subject-{m}": {f"layer.{k}": (w, w + change(rng, w)) for k, w in enumerate(weights)} for m in range(count)
    }


def transformed(rng, before):
    return before @ transform_matrix(planted(rng, 12, 1)) - before


def free(rng, before):
    return 0.1 * rng.standard_normal(before.shape)


@pytest.fixture(scope="module")
def claimed():
    return weight_changes(models(transformed), (1,), STRUCTURES)


@pytest.fixture(scope="module")
def unclaimed():
    return weight_changes(models(free, 4, 4), (1,), STRUCTURES)


def row(found, **where):
    frame = found.to_frame()
    for column, value in where.items():
        frame = frame[frame[column] == value]
    (only,) = frame.to_dict("records")
    return only


def test_a_change_that_is_a_transform_is_found_to_be_one(claimed):
    share = row(claimed, number="share")
    assert share["value"] > 0.99 and share["reference"] < 0.5 and share["lower"] > 0
    assert row(claimed, structure="TLoRA* (1, 1)", against=MANY)["upper"] < 0
    assert row(claimed, structure="TLoRA* (1, 1)", against=RANDOM)["upper"] < 0
    assert "better than LoRA of as many parameters" in claimed.explain()
    assert "fits 6 of 6 changes exactly" in claimed.explain()  # 12 x 12 Gaussian matrices can be inverted


def test_a_change_that_knows_nothing_of_the_weight_is_no_better_than_a_random_one():
    # A Gaussian change is Haar-rotated already, so it and its control are exchangeable: the mean difference is 0.
    found = weight_changes(models(free, 1, 80, seed=9), (1,), STRUCTURES[:1])
    for where in ({"number": "share"}, {"structure": "TLoRA* (1, 1)", "against": RANDOM}):
        told = row(found, **where)
        half = (told["upper"] - told["lower"]) / 2
        assert abs(told["difference"]) < 2 * half  # four standard errors
    assert 0.05 < row(found, number="share")["value"] < 0.2  # T holds some: without the control it would look like more


def test_intervals_are_those_of_a_paired_t_over_subjects(unclaimed):
    fits = unclaimed.fits[(unclaimed.fits["of"] == "tuned") & (unclaimed.fits["structure"] == "TLoRA* (1, 1)")]
    each = fits.groupby("model")[["error", "lora"]].mean()
    expected = stats.ttest_rel(each["error"], each["lora"]).confidence_interval(0.95)
    told = row(unclaimed, structure="TLoRA* (1, 1)", against=MANY)
    assert (told["lower"], told["upper"]) == pytest.approx((expected.low, expected.high))
    assert told["difference"] == pytest.approx(told["value"] - told["reference"])


def test_seeds_of_a_subject_are_averaged_and_one_subject_is_judged_by_its_matrices():
    given = models(free, 4, 2)
    units = {name: f"subject {number // 2}" for number, name in enumerate(given)}
    found = weight_changes(given, (1,), STRUCTURES[1:], units=units)
    fits = found.fits[found.fits["of"] == "tuned"]
    each = (fits["error"] - fits["lora"]).groupby(fits["model"].map(units)).mean()
    expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    told = row(found, structure="KronA (2, 2)", against=MANY)
    assert (told["lower"], told["upper"]) == pytest.approx((expected.low, expected.high))

    one = weight_changes(dict(list(given.items())[:1]), (1,), STRUCTURES[1:])
    fits = one.fits[one.fits["of"] == "tuned"]
    expected = stats.ttest_rel(fits["error"], fits["lora"]).confidence_interval(0.95)
    told = row(one, structure="KronA (2, 2)", against=MANY)
    assert (told["lower"], told["upper"]) == pytest.approx((expected.low, expected.high))
    assert "over matrices of the one subject" in one.explain()


def test_the_control_has_loras_errors_and_the_curve_is_the_tail_of_the_spectrum(unclaimed):
    fits = unclaimed.fits.set_index(["model", "matrix", "structure", "of"])[["lora", "same_rank"]].unstack("of")
    assert fits["lora", "tuned"].to_numpy() == pytest.approx(fits["lora", "random"].to_numpy())
    pairs = models(free, 4, 4)["subject-2"].values()
    expected = np.mean([truncation_errors(singular_values(after - before)) for before, after in pairs], axis=0)
    tails = unclaimed.tails
    curve = tails[(tails["model"] == "subject-2") & (tails["of"] == "tuned") & (tails["transform"] == 0)]
    assert curve["error"].to_numpy() == pytest.approx(expected)
    same = row(unclaimed, structure="TLoRA* (1, 1)", against=SAME)
    assert same["difference"] < 0  # T is on top of the same rank


def test_the_same_seed_gives_the_same_numbers_and_a_model_does_not_depend_on_the_others():
    given = models(free)
    first, again = (weight_changes(given, (1, 2), STRUCTURES, seed=3) for _ in range(2))
    assert first.to_frame().equals(again.to_frame())
    alone = weight_changes({"subject-1": given["subject-1"]}, (1, 2), STRUCTURES, seed=3)
    of_one = first.fits[first.fits["model"] == "subject-1"].reset_index(drop=True)
    assert alone.fits.equals(of_one)


def test_matrices_that_did_not_change_are_left_out_and_that_is_said():
    given = {
        name: {**pairs, "layer.1": (pairs["layer.1"][0],) * 2} for name, pairs in models(free).items()
    }
    found = weight_changes(given, (1,), STRUCTURES)
    assert set(found.spectra["matrix"]) == {"layer.0"}
    assert "3 matrices that tuning did not change were left out." in found.explain()


def test_a_result_shows_itself(claimed):
    figure = claimed.plot()
    left, right = figure.axes
    curve = claimed.tails[(claimed.tails["of"] == "tuned") & (claimed.tails["transform"] == 0)]
    assert left.lines[0].get_ydata() == pytest.approx(curve.groupby("rank")["error"].mean().to_numpy())
    lora = right.lines[0]
    assert lora.get_xdata()[1] == 24  # a rank of a 12 x 12 matrix
    assert {text.get_text() for text in right.texts} == {"(1, 1)", "(2, 2)"}
    assert json.loads(json.dumps(claimed.to_dict(), allow_nan=False))["models"] == list(models(free))
    assert "<table" in claimed._repr_html_() and claimed.to_markdown().startswith("| number")


def test_bad_input_is_one_message():
    square = np.eye(4)
    for given, said in (
        ({}, "no tuned model was given"),
        ({"a": {"w": (square, square)}}, "a: none of its 1 matrices was changed"),
        ({"a": {"w": (square, np.eye(5))}}, "a: w is (4, 4) before, (5, 5) after"),
        ({"a": {"w": (np.ones(4), np.zeros(4))}}, "expected one (out, in)"),
        ({"a": {"w": (square, square * np.nan)}}, "a: w holds numbers that are not finite"),
    ):
        with pytest.raises(InputFault) as fault:
            weight_changes(given)
        assert said in str(fault.value)
    with pytest.raises(InputFault, match="expected ring ranks of at least 1"):
        weight_changes(models(free), (0,))
