"""Designs: canonical form, faults that list what is allowed, and parameter counts."""

import itertools
import subprocess
import sys

import pytest

from adapters import PAIRS, InputFault, count, insert, normalise
from adapters.budget import Cost, solve

PAIR = {"method": "adapter", "input": "CA_out", "output": "FFN_in"}


def test_normalise_fills_defaults_and_spells_equal_values_alike():
    expected = {**PAIR, "activation": "relu", "scale": 1, "init": "default", "budget": 0.0075}
    for budget, scale in itertools.product(("0.75%", " 0.75 %", 0.0075, "0.0075"), (1, 1.0, "1", "1.0")):
        got = normalise({**PAIR, "budget": budget, "scale": scale})
        assert got == expected
        assert [type(value) for value in got.values()] == [type(value) for value in expected.values()]
    assert normalise(expected) == expected
    assert normalise({**PAIR, "budget": "1.1%"})["budget"] == 0.011  # exact, not 0.011000000000000001
    assert normalise({**PAIR, "budget": "100%"})["budget"] == 1.0
    for budget in (6406336, "6406336", 6406336.0, "6406336.0"):
        assert type(normalise({**PAIR, "budget": budget})["budget"]) is int
    assert normalise({**PAIR, "width": "16", "scale": "0.5"})["width"] == 16
    assert normalise({**PAIR, "width": 16, "budget": None}) == normalise({**PAIR, "width": 16})
    assert normalise({"method": "none"}) == {"method": "none"}
    assert normalise({"method": "full"}) == {"method": "full"}


@pytest.mark.parametrize(
    ("design", "names"),
    [
        ({}, ["None", "adapter", "none", "full"]),
        ({"method": "lura"}, ["lura", "adapter", "none", "full"]),
        (
            {"method": ["adapter"]},
            [
                "adapter, adaptformer, sequential, lora, dora, krona, tlora, tlora_star, difffit, bitfit, vpt, full, "
                "loha, lokr, oft, boft, hra, hira, ia3, peft, none"
            ],
        ),
        ("adapter", ["mapping"]),
        ({**PAIR, "width": 3, "rank": 4}, ["rank", "input, output, activation, scale, init, width, budget"]),
        ({"method": "none", "width": 3}, ["width", "no further keys"]),
        ({"method": "full", "scale": 3}, ["scale", "its keys are part"]),
        ({"method": "adapter", "input": "SA_in", "width": 3}, ["needs input and output"]),
        ({**PAIR, "output": "SA_in", "width": 3}, ["CA_out", "FFN_in, Trans_out"]),
        ({**PAIR, "output": "FFN_out", "width": 3}, ["same point", "Trans_out"]),
        ({**PAIR, "output": ["FFN_in"], "width": 3}, ["FFN_in, Trans_out"]),
        ({**PAIR, "input": "SAin", "width": 3}, ["SAin", "SA_in, SA_out, CA_in"]),
        ({**PAIR, "activation": "gelu", "width": 3}, ["gelu", "relu, sigmoid, silu, identity"]),
        ({**PAIR, "init": "zero", "width": 3}, ["zero", "default, zero_up"]),
        ({**PAIR, "width": 3, "budget": "3%"}, ["both width and budget"]),
        (PAIR, ["neither width nor budget"]),
        *[
            ({**PAIR, "width": width}, ["width", "whole number"])
            for width in (0, -1, 1.5, "wide", True, float("nan"), "1e99999999", 10**30)
        ],
        *[
            ({**PAIR, "budget": budget}, ["budget", "3%", "number of parameters"])
            for budget in (0, 1, 1.5, -0.1, "0%", "101%", "3 percent", "%", True, float("inf"), [3], "1e99999999")
        ],
        *[
            ({**PAIR, "width": 3, "scale": scale}, ["scale", "above zero"])
            for scale in (0, -1, "x", float("nan"), float("inf"), False, "1e-999", "1e999")
        ],
    ],
    ids=str,
)
def test_faults_list_what_is_allowed(design, names):
    with pytest.raises(InputFault) as fault:
        normalise(design)
    for name in names:
        assert name in str(fault.value)


# PAPERS: arithmetic that reproduces the counts of arXiv 2303.18181 on Stable Diffusion 1.x
@pytest.mark.parametrize(
    ("input", "output", "width", "parameters", "blocks"),
    [
        ("CA_out", "FFN_in", 256, 6_406_336, 16),
        ("CA_out", "FFN_in", 60, 1_511_040, 16),
        ("CA_c", "CA_c", 60, 1_487_808, 16),
        ("Res_in", "Res_in", 6, 3_303_492, 22),
        ("Res_in", "Res_out", 7, 3_224_794, 22),
        ("Res_out", "Res_out", 9, 3_326_598, 22),
    ],
)
def test_counts_of_the_paper(architectures, input, output, width, parameters, blocks):
    got = count(architectures["sd15"], {"method": "adapter", "input": input, "output": output, "width": width})
    assert (got.trainable, got.backbone, got.widths) == (parameters, 859_520_964, (width,) * blocks)
    assert got.ratio == parameters / 859_520_964
    assert got.budget_asked is None and got.budget_met


@pytest.mark.parametrize(
    ("name", "parameters"),  # sums of the published weights' sizes
    [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684), ("dit-xl-2", 749_826_464)],
)
def test_full_and_none_on_true_architectures(architectures, name, parameters):
    full, none = (count(architectures[name], {"method": method}) for method in ("full", "none"))
    assert (full.trainable, full.backbone, full.ratio) == (parameters, parameters, 1.0)
    assert (none.trainable, none.backbone, none.ratio) == (0, parameters, 0.0)


@pytest.mark.parametrize("budget", ["3%", "0.75%", "0.1%", 2_000_000])
@pytest.mark.parametrize("pair", PAIRS, ids="→".join)
def test_budget_is_met_with_widths_that_differ_by_one(architectures, pair, budget):
    for name in ("sd15", "sdxl"):
        got = count(architectures[name], {"method": "adapter", "input": pair[0], "output": pair[1], "budget": budget})
        asked = budget if isinstance(budget, int) else round(float(budget[:-1]) / 100 * got.backbone)
        assert got.budget_asked == asked and got.budget_met
        assert abs(got.trainable - asked) <= 0.03 * asked
        assert max(got.widths) - min(got.widths) <= 1


@pytest.mark.parametrize("size", [{"width": 3}, {"budget": "10%"}], ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids="→".join)
def test_closed_form_counts_what_is_inserted(unets, pair, size):
    design = {"method": "adapter", "input": pair[0], "output": pair[1], **size}
    for unet in unets.values():
        insertion = insert(unet, design)
        insertion.remove()
        assert sum(p.numel() for p in insertion.parameters()) == count(unet, design).trainable


def test_budgets_out_of_reach_are_flagged(unet):
    got = count(unet, {**PAIR, "budget": 10})
    assert set(got.widths) == {1} and got.trainable > 10 and got.budget_asked == 10 and not got.budget_met


def test_solver_finds_what_enumeration_finds():
    # oracle: all subsets of blocks with one more, for all common widths
    costs = [Cost(7, 3), Cost(19, 9), Cost(19, 9), Cost(40, 4)]
    for budget in range(1, 700):
        best = min(
            abs(budget - sum(cost.at(common + extra) for cost, extra in zip(costs, more, strict=True)))
            for common in range(1, 10)
            for more in itertools.product((0, 1), repeat=4)
        )
        widths = solve(costs, budget)
        assert abs(budget - sum(cost.at(width) for cost, width in zip(costs, widths, strict=True))) == best
        assert max(widths) - min(widths) <= 1 and min(widths) >= 1


def test_designs_are_checked_without_torch():
    program = (
        "import sys, adapters\n"
        "adapters.normalise({'method': 'adapter', 'input': 'CA_c', 'output': 'CA_c', 'width': 2})\n"
        "adapters.PAIRS, adapters.normalise({'method': 'full'}), adapters.normalise({'method': 'none'})\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_forms_know_the_activations_that_designs_may_name():
    from adapters.forms import ACTIVATIONS
    from adapters.methods.adapter import ACTIVATIONS as LEVELS

    assert tuple(ACTIVATIONS) == LEVELS


def test_unknown_names_of_the_package_are_attribute_errors():
    import adapters

    assert set(adapters.__all__) <= set(dir(adapters))
    for name in adapters.__all__:
        assert getattr(adapters, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = adapters.nothing_of_the_kind
