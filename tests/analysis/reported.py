"""A study to report, as it is or with failures, and what a section of its page holds."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from adapters.positions import PAIRS, READS
from analysis import ReportContent
from analysis.figures import PictureRow
from analysis.report import evidence, sections
from analysis.report.blocks import Details, Page, Picture
from analysis.report.content import Gallery
from analysis.report.drawings import file_name
from analysis.report.sections import compose


def leave_figures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no figure: they take most of a page's time."""
    for module in (evidence, sections):
        monkeypatch.setattr(module, "drawn", _not_drawn)


def _not_drawn(name, draw, alt, caption="", **options) -> Picture:
    return Picture(file_name(name), b"a figure", 700, alt, caption)


@cache
def whole() -> Page:
    """The page of the plain content, without figures."""
    return compose(_content())


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


def blocks(page: Page, section: str, kind: type) -> list:
    """Every block of a kind in a section, folded ones included."""
    found = []

    def walk(some):
        for block in some:
            found.extend([block] if isinstance(block, kind) else [])
            if isinstance(block, Details):
                walk(block.blocks)

    (own,) = (s for s in page.sections if s.id == section)
    walk(own.blocks)
    return found


def _failing(**changes) -> ReportContent:
    """A study of which one design fails on one task, as an outcome that the page must not hide."""
    frame = _content().frame.assign(status="done")
    lost = (frame["input"] == "CA_out") & (frame["task"] == "subject/lamp")
    frame.loc[lost, ["clip_i", "dino_i"]] = np.nan
    frame.loc[lost, "status"] = "diverged"
    listed = frame[lost][["input", "output", "task", "seed", "status"]]
    return _content(frame=frame, failures=listed, counts={"planned": 80, "done": 76, "diverged": 4}, **changes)
