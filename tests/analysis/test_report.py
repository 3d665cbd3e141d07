"""The report: its answer, its verdicts, and honest about what is missing."""

import re

import numpy as np
import oracles
import pytest

import analysis
from adapters.positions import PAIRS
from analysis import ReportContent, anova, render
from analysis.report.analyses import analyse
from analysis.report.blocks import Notes, Table, Text
from analysis.report.findings import find, keys, seed_sd
from analysis.report.sections import compose
from analysis.report.words import answer
from tests.analysis.reported import _content, _failing, blocks, leave_figures_out, whole


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Figures take most of a page's time; tests of the page look at them."""
    leave_figures_out(monkeypatch)


def told(content: ReportContent) -> str:
    """The whole answer in one string."""
    findings = find(content)
    best = None if findings.designs.empty else analyse(content, keys(content), len(findings.designs)).best.result
    lead, more = answer(content, findings, best)
    return " ".join([lead, *more])


def test_only_terms_that_differ_stand_out():
    content = _content()
    table = anova(content.frame, "clip_i", ["input", "output"], content.blocks, error="residual", pair=content.pair)
    (shown,) = blocks(whole(), "anova", Table)
    found = {row.cells[0]: row.kind == "clear" for row in shown.rows}
    expected = {row.term: row.role != "block" and row.p is not None and row.p < 0.05 for row in table.terms}
    assert {term: found[term] for term in expected} == expected
    assert set(expected.values()) == {True, False}


def test_the_answer_names_the_leader_the_test_and_the_limits():
    content = _content()
    findings = find(content)
    text = told(content)
    best = content.frame.groupby(["input", "output"])["clip_i"].mean().idxmax()
    table = findings.table
    assert table is not None
    assert f"{best[0]} → {best[1]}" in text
    assert f"F(19, {table.residual['df']}) = {table['pair'].F:.2f}" in text
    assert "80 trials" in text and "20 pairs of positions" in text and "no claim about new tasks" in text
    gap = (
        content.frame[(content.frame["input"] == best[0]) & (content.frame["output"] == best[1])]["clip_i"].mean()
        - 0.35
    )
    assert f"{gap:.3f} better than the untuned backbone (0.350)" in text


def test_no_difference_is_not_sold_as_one():
    content = _content()
    noise = content.frame.assign(clip_i=np.random.default_rng(1).normal(size=80))
    lead, more = answer(c := _content(frame=noise), find(c))
    text = " ".join([lead, *more])
    assert "No difference between the pairs of positions in clip_i can be shown" in text
    assert "the order among them is open" in text


def test_lower_is_better_turns_the_ranking_round():
    content = _content(higher_is_better=False)
    findings = find(content)
    assert findings.designs["mean"].is_monotonic_increasing
    assert "worse than the untuned backbone" in told(content)


def test_seed_sd_is_the_pooled_sd_within_design_and_task():
    content = _content()
    within = content.frame.groupby(["input", "output", "task"])["clip_i"].var()
    assert seed_sd(content, "clip_i") == pytest.approx(np.sqrt(within.mean()), rel=1e-12)
    one = _content(frame=content.frame[content.frame["seed"] == 0])
    assert np.isnan(seed_sd(one, "clip_i"))


def test_without_a_pair_the_first_factor_is_the_design():
    frame = oracles.data("adapter_failed").rename(columns={"score": "clip_i"})
    content = _content(
        frame=frame, factors=["form", "in_pos"], blocks=["task"], pair=None, references=None, scores=[], order=()
    )
    text = told(content)
    assert "3 levels of form" in text and "gated" in text
    assert "Heat map" not in render(content)


def test_failures_are_outcomes_with_a_test_and_a_verdict():
    page = compose(_failing())
    said = " ".join(item for block in blocks(page, "failures", Notes) for item in block.items)
    assert "Failure depends on input" in said and "by permutation" in said
    rates = next(t for t in blocks(page, "failures", Table) if t.caption == "Levels at which trials failed")
    # Both pairs that read CA_out fail in both seeds of one task of two: 4 of 8 trials.
    (row,) = (row for row in rates.rows if row.cells[1] == "CA_out")
    assert row.cells[2:5] == ("8", "4", "0.500")


def test_the_answer_says_which_designs_may_be_the_best_with_what_confidence():
    content = _content()
    lead, _ = answer(content, find(content), analysis.best(content.frame, "clip_i", of=["input", "output"],
                     factors=["input", "output"], blocks=content.blocks, error="residual"))  # fmt: skip
    # The effect of CA_out is ten standard deviations of the noise, so no other input may be the best.
    assert "With 95% confidence the best is one of 2 of the 20: CA_out → " in lead
    noise = _content(frame=content.frame.assign(clip_i=np.random.default_rng(1).normal(size=80)))
    assert re.search(r"With 95% confidence (none of the 20 can be excluded|the best is one of 1\d)", told(noise))


def test_a_partial_study_says_so_first():
    page = compose(_content(counts={"planned": 90, "done": 80, "missing": 10}))
    first = page.top[0]
    assert isinstance(first, Text) and first.kind == "warning"
    assert "partial report: 10 of 90 planned trials" in first.words
    assert not any(isinstance(b, Text) and b.kind == "warning" for b in whole().top)


def test_coverage_counts_levels_and_names_what_is_forbidden_and_what_is_not_connected():
    page = compose(_failing(forbidden={"the method has no such pair": 50}, design=["The plan: 20 designs."]))
    said = " ".join(item for block in blocks(page, "coverage", Notes) for item in block.items)
    assert "The plan: 20 designs." in said and "4 diverged" in said and "3 components that share no level" in said
    assert "50 combinations of levels are no design: the method has no such pair." in said
    (table,) = blocks(page, "coverage", Table)
    counts = {row.cells[:2]: row.cells[2:] for row in table.rows}
    # CA_out is read by 2 pairs, on 2 tasks with 2 seeds; all of one task failed.
    assert counts["input", "CA_out"] == ("8", "4") and counts["task", "subject/lamp"] == ("40", "36")


# One pair of each component: three rows, in which inputs and outputs together have five parameters.
DIAGONAL = [("SA_in", "SA_in"), ("CA_c", "CA_c"), ("Res_in", "Res_in")]


@pytest.mark.parametrize(
    "section, changes, words",
    [
        ("noise", {"blocks": []}, "There is no estimate of the variance components: No block was named"),
        ("anova", {"pairs": DIAGONAL}, "There is no analysis of variance: 3 rows with a clip_i are fewer"),
        ("assumptions", {"pairs": DIAGONAL}, "There is no robust version: 3 rows"),
        ("interactions", {"pairs": DIAGONAL}, "There is no test of the interactions: 3 rows"),
        ("best", {"pairs": DIAGONAL}, "No design can be compared with the best."),
        ("noise", {"pairs": DIAGONAL}, "There is no estimate of the variance components: "),
        ("interactions", {"pairs": PAIRS}, "Cannot be tested with these rows: input:output"),
    ],
)
def test_a_section_that_cannot_be_computed_says_why(section, changes, words):
    frame = _content().frame
    if "pairs" in changes:
        once = (frame["seed"] == 0) & (frame["task"] == "subject/robot")
        kept = np.array([pair in changes["pairs"] for pair in zip(frame["input"], frame["output"], strict=True)])
        frame, changes = frame[once & kept], {}
    page = compose(_content(frame=frame, **changes))
    said = [block.words for block in blocks(page, section, Text)]
    said += [item for block in blocks(page, section, Notes) for item in block.items]
    assert any(words in each for each in said), said


def test_the_answer_does_not_pass_over_the_other_factors():
    frame = _content().frame
    frame["activation"] = np.where(frame["seed"] == 0, "relu", "silu")
    frame["scale"] = np.where(frame.index % 3 == 0, "1", "2")
    frame.loc[frame["activation"] == "relu", "clip_i"] += 0.1
    content = _content(frame=frame, factors=["input", "output", "activation", "scale"], blocks=["task"])
    text = told(content)
    # Added 0.1, five standard deviations of the noise, to one of the two activations, and nothing to a scale.
    assert re.search(r"Of the other factors, activation \(F\(1, \d+\) = [\d.]+, p < .0001, ω² 0\.\d\d\) makes a", text)
    assert "No difference can be shown between levels of scale." in text
