"""A page of a study of hundreds of trials stays small, quick to write, and its figures can be read."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import analysis
from adapters.positions import PAIRS, READS
from analysis import ReportContent
from analysis.figures import PictureRow
from analysis.report.blocks import Details, Table
from analysis.report.content import Gallery, Recommended
from analysis.report.page import to_html
from analysis.report.sections import compose

ACTIVATIONS, SCALES = ("relu", "sigmoid", "silu", "identity"), ("0.5", "1.0", "2.0", "4.0")


def content(whole: bool = False) -> ReportContent:
    """The size of the study paper-micro: 104 designs on eight tasks, 832 trials, with a gallery for each task.

    Parameters
    ----------
    whole : bool
        Whether the design is the one factor, so that each of the 104 has a line of its own.
    """
    rng = np.random.default_rng(9)
    tasks = [f"subject/{name}" for name in ("robot", "lamp", "kite", "boat", "cake", "teapot", "rocket", "car")]
    designs = [
        (i, o, a, s) for i, o in PAIRS for a in ACTIVATIONS for s in SCALES
        if s == "1.0" or (i == "CA_c" and o != "Trans_out") or (i, o) == ("CA_out", "FFN_in")
    ]  # fmt: skip
    designs = sorted(designs, key=lambda design: (design[3] != "1.0", design))[:104]
    rows = [(*design, task, 0) for task in tasks for design in designs]
    frame = pd.DataFrame(rows, columns=["input", "output", "activation", "scale", "task", "seed"])
    frame["design"] = frame[["input", "output", "activation", "scale"]].agg(" ".join, axis=1)
    frame["clip_i"] = 0.6 + 0.1 * (frame["input"] == "CA_out") + rng.normal(0, 0.02, len(frame))
    frame["dino_i"] = frame["clip_i"] - 0.1 + rng.normal(0, 0.02, len(frame))
    frame["parameters"], frame["train_seconds"], frame["status"] = 120_000, 20.0, "done"
    picture = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    gallery = [PictureRow("CA_out FFN_in relu 1.0", 0.7, [picture] * 8)] * 7
    factors = ["design"] if whole else ["input", "output", "activation", "scale"]
    pair = None if whole else ("input", "output")
    found = analysis.recommend(frame, "clip_i", factors, ["task"], pair, scores={"dino_i": "higher"},
                               parameters="parameters")  # fmt: skip
    return ReportContent(
        title="Study large", frame=frame, response="clip_i", factors=factors, blocks=["task"], pair=pair,
        scores=["dino_i"], order=READS, galleries=[Gallery(task, [picture] * 5, gallery) for task in tasks],
        counts={"planned": len(frame), "done": len(frame)}, recommended=Recommended(found),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_page_of_832_trials_is_below_ten_megabytes(whole):
    given = content(whole)
    assert len(given.frame) == 832 and given.frame["design"].nunique() == 104
    page = compose(given)
    assert len(to_html(page).encode()) < 10_000_000
    # 105 CSS pixels are an inch of a figure; a figure taller than six screens is one that nobody takes in.
    heights = {picture.name: _shape(picture.data)[1] / _shape(picture.data)[0] * picture.width
               for picture in page.pictures()}  # fmt: skip
    assert all(height < 2400 for height in heights.values()), heights
    assert all(picture.width <= 1250 for picture in page.pictures())
    # Tables of the answer show some of the designs and fold the rest up.
    recipe = next(section for section in page.sections if section.id == "recipe")
    assert all(len(block.rows) <= 8 for block in recipe.blocks if isinstance(block, Table))
    folded = [table for block in recipe.blocks if isinstance(block, Details) for table in block.blocks]
    told = max(len(table.rows) for table in folded if isinstance(table, Table))
    assert told > 8


def _shape(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size
