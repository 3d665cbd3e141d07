"""The page: self-contained, complete, honest about what is missing."""

import re

import numpy as np
import oracles
import pandas as pd
import pytest

from adapters.positions import PAIRS, READS
from analysis import ReportContent, anova, render
from analysis.figures import PictureRow
from analysis.report.content import Gallery, Tuning
from analysis.report.findings import find, seed_sd
from analysis.report.tuning import listing
from analysis.report.words import answer


def _content(**changes) -> ReportContent:
    rng = np.random.default_rng(4)
    rows = [(i, o, t, s) for i, o in PAIRS for t in ("subject/robot", "subject/lamp") for s in range(2)]
    frame = pd.DataFrame(rows, columns=["input", "output", "task", "seed"])
    frame["clip_i"] = 0.5 + 0.2 * (frame["input"] == "CA_out") + rng.normal(0, 0.02, len(frame))
    frame["dino_i"] = frame["clip_i"] - 0.1
    frame["parameters"], frame["train_seconds"] = 1000, 2.5
    reference = pd.DataFrame(
        {"name": "untuned backbone", "task": ["subject/robot", "subject/lamp"], "clip_i": [0.3, 0.4]}
    )
    picture = np.zeros((64, 64, 3), np.uint8)
    values = {
        "title": "Which <position> matters", "frame": frame, "response": "clip_i", "factors": ["input", "output"],
        "blocks": ["task", "task:seed"], "pair": ("input", "output"), "scores": ["clip_i", "dino_i"], "order": READS,
        "references": reference, "galleries": [Gallery("subject/robot", [picture], [PictureRow("a", 0.5, [picture])])],
        "counts": {"planned": 80, "done": 80}, "provenance": {"commit": "0123abc"},
    }  # fmt: skip
    return ReportContent(**{**values, **changes})


def test_the_page_is_one_file_with_every_section():
    page = render(_content())
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "@import" not in page and "<script" not in page
    assert "Which &lt;position&gt; matters" in page and "<position>" not in page
    for words in ("What makes a difference", "Every design compared", "One factor at a time", "Against the references",
                  "Pictures, best to worst", "What it costs", "No trial failed", "assumptions", "0123abc"):  # fmt: skip
        assert words in page, words
    assert page.count("data:image/png;base64,") == 10
    assert "3 components" in page and "of 9" in page and "of 54" in page


def test_the_numbers_on_the_page_are_the_table_s():
    content = _content()
    table = anova(content.frame, "clip_i", ["input", "output"], content.blocks, error="residual", pair=content.pair)
    page = render(content)
    for term in ("pair", "input", "output"):
        row = table[term]
        assert f"{row.F:.2f}" in page and f"{row.omega_sq:.3f}" in page


def test_only_terms_that_differ_stand_out():
    content = _content()
    table = anova(content.frame, "clip_i", ["input", "output"], content.blocks, error="residual", pair=content.pair)
    rows = re.findall(r'<tr class="([^"]*)"><td>([a-z:]+)', render(content))
    found = {term: "clear" in classes for classes, term in rows}
    expected = {row.term: row.role != "block" and row.p is not None and row.p < 0.05 for row in table.terms}
    assert {term: found[term] for term in expected} == expected
    assert set(expected.values()) == {True, False}


def test_the_answer_names_the_leader_the_test_and_the_limits():
    content = _content()
    findings = find(content)
    text = answer(content, findings)
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
    text = answer(c := _content(frame=noise), find(c))
    assert "No difference between them in clip_i can be shown" in text
    assert "the order among them is open" in text


def test_lower_is_better_turns_the_ranking_round():
    content = _content(higher_is_better=False)
    findings = find(content)
    assert findings.designs["mean"].is_monotonic_increasing
    assert "worse than the untuned backbone" in answer(content, findings)


def test_seed_sd_is_the_pooled_sd_within_design_and_task():
    content = _content()
    within = content.frame.groupby(["input", "output", "task"])["clip_i"].var()
    assert seed_sd(content, "clip_i") == pytest.approx(np.sqrt(within.mean()), rel=1e-12)
    one = _content(frame=content.frame[content.frame["seed"] == 0])
    assert np.isnan(seed_sd(one, "clip_i"))


def test_a_study_that_cannot_be_tested_still_has_its_page():
    frame = _content().frame
    page = render(_content(frame=frame.iloc[:20:5], galleries=[], references=None))
    assert "There is no analysis of variance" in page and "fewer than the model" in page
    assert "cannot be told apart yet" in page and "nan" not in page.split("<main>")[0].split("<body>")[1]
    saturated = render(_content(frame=frame.iloc[:4], galleries=[], references=None))
    assert "no residual is left" in saturated and "cannot be tested" in saturated
    empty = render(_content(frame=frame.assign(clip_i=np.nan)))
    assert "No trial has a clip_i yet" in empty


def test_failures_are_listed_and_counted():
    failures = pd.DataFrame({"design": ["SA_in → SA_in"], "status": ["diverged"], "error": ["loss <nan> at step 3"]})
    page = render(_content(failures=failures, counts={"planned": 81, "done": 80, "diverged": 1}))
    assert "loss &lt;nan&gt; at step 3" in page and "1 diverged" in page and "80 of 81" in page


def test_without_a_pair_the_first_factor_is_the_design():
    frame = oracles.data("adapter_failed").rename(columns={"score": "clip_i"})
    content = _content(
        frame=frame, factors=["form", "in_pos"], blocks=["task"], pair=None, references=None, scores=[], order=()
    )
    text = answer(content, find(content))
    assert "3 levels of form" in text and "gated" in text
    assert "Heat map" not in render(content)


def _tuning() -> Tuning:
    # Two groups by method and budget, two rates and two batches; full sets its batch by hand; lora's best is at the
    # edge of the rates, full waits for a trial, and everything of dora diverged.
    rows = [
        ("lora", "0.05", 1e-4, 1, 0.5, 2, 2, 0, False, False),
        ("lora", "0.05", 1e-3, 1, np.nan, 2, 1, 1, False, False),
        ("lora", "0.05", 1e-4, 2, 0.625, 2, 2, 0, True, True),
        ("lora", "0.05", 1e-3, 2, 0.25, 2, 2, 0, False, False),
        ("full", "absent", 1e-4, np.nan, 0.75, 2, 2, 0, False, False),
        ("full", "absent", 1e-3, np.nan, np.nan, 2, 1, 0, False, False),
        ("dora", "0.05", 1e-4, 1, np.nan, 2, 0, 2, False, False),
    ]
    columns = [
        "method",
        "budget",
        "learning_rate",
        "batch",
        "clip_i",
        "planned",
        "done",
        "diverged",
        "chosen",
        "at_edge",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return Tuning(frame, ("method", "budget"), ("learning_rate", "batch"), ["subject/cake"])


def test_the_table_of_the_tuning_has_a_row_a_group_and_a_column_a_grid_point():
    table, notes = listing(_tuning(), "clip_i")
    assert table.set_index("method").T.to_dict() == {
        "lora": {"budget": "0.05", "learning_rate 0.0001, batch 1": "0.500",
                 "learning_rate 0.001, batch 1": "1 of 2 diverged", "learning_rate 0.0001, batch 2": "0.625 ●",
                 "learning_rate 0.001, batch 2": "0.250", "learning_rate 0.0001": "", "learning_rate 0.001": ""},
        "full": {"budget": "absent", "learning_rate 0.0001, batch 1": "", "learning_rate 0.001, batch 1": "",
                 "learning_rate 0.0001, batch 2": "", "learning_rate 0.001, batch 2": "",
                 "learning_rate 0.0001": "0.750", "learning_rate 0.001": "–"},
        "dora": {"budget": "0.05", "learning_rate 0.0001, batch 1": "2 of 2 diverged",
                 "learning_rate 0.001, batch 1": "", "learning_rate 0.0001, batch 2": "",
                 "learning_rate 0.001, batch 2": "", "learning_rate 0.0001": "", "learning_rate 0.001": ""},
    }  # fmt: skip
    edge, waits, nothing = notes
    assert "method lora, budget 0.05" in edge and "learning_rate 0.0001, batch 2, lies on the edge" in edge
    assert "method full, budget absent: nothing is chosen yet" in waits
    assert "method dora, budget 0.05: nothing can be chosen" in nothing


def test_the_page_shows_the_tuning_where_there_is_one():
    page = render(_content(tuning=_tuning()))
    assert "What was tuned first" in page and "on subject/cake" in page and "0.625 ●" in page
    assert page.count("widen the grid") == 1
    assert "What was tuned first" not in render(_content())
