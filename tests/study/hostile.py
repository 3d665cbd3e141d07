"""A report whose every text is as hostile as a text can be."""

import numpy as np
import pandas as pd

import analysis
from adapters.positions import PAIRS, READS
from analysis import ReportContent
from analysis.confirmation import confirm
from analysis.figures import PictureRow, new_figure
from analysis.report.content import Confirmed, Gallery, Maps, Recommended, Snippet, Tuning

EVIL = "<script>alert(1)</script>"


def frame() -> pd.DataFrame:
    """Trials of all pairs on three tasks, some of which failed; a position and a task have hostile names."""
    rng = np.random.default_rng(4)
    rows = [(i, o, t, s) for i, o in PAIRS for t in (EVIL, "subject/lamp", "$x$ & y") for s in range(2)]
    made = pd.DataFrame(rows, columns=["input", "output", "task", "seed"])
    made["clip_i"] = 0.5 + 0.2 * (made["input"] == "CA_out") + rng.normal(0, 0.02, len(made))
    made["dino_i"] = made["clip_i"] - 0.1 + rng.normal(0, 0.02, len(made))
    made["parameters"] = rng.integers(900, 90_000, len(made))
    made["train_seconds"], made["status"] = 2.5, "done"
    made.loc[made.index[::17], ["clip_i", "dino_i"]] = np.nan
    made.loc[made.index[::17], "status"] = "diverged"
    made["input"] = made["input"].replace("CA_out", f"{EVIL} CA_out")
    return made


def content() -> ReportContent:
    """A report with every section."""
    trials, rng = frame(), np.random.default_rng(5)
    lost = trials[trials["clip_i"].isna()]
    picture = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    factors, blocks, pair = ["input", "output"], ["task", "task:seed"], ("input", "output")
    found = analysis.recommend(trials, "clip_i", factors, blocks, pair, scores={"dino_i": "higher"},
                               parameters="parameters")  # fmt: skip
    compared = pd.DataFrame(
        [(name, f"{EVIL} {task}", 0.5 + 0.1 * (name == EVIL) + rng.normal(0, 0.02))
         for name in (EVIL, "lora", "full") for task in range(6)],
        columns=["compared", "task", "clip_i"],
    )  # fmt: skip
    tuned = pd.DataFrame(
        {"method": [EVIL] * 2, "learning_rate": [1e-4, 1e-3], "clip_i": [0.5, 0.6], "planned": 2, "done": 2,
         "diverged": 0, "chosen": [False, True], "at_edge": [False, True]}
    )  # fmt: skip
    coverage = pd.DataFrame({"factor": ["input"], "level": [EVIL], "planned": [6], "done": [6]})
    return ReportContent(
        title=f"Study {EVIL}", frame=trials, response="clip_i", factors=factors, blocks=blocks, pair=pair,
        scores=["dino_i"], order=READS,
        references=pd.DataFrame({"name": EVIL, "task": ["subject/lamp"], "clip_i": [0.3]}),
        galleries=[Gallery(EVIL, [picture] * 5, [PictureRow(EVIL, 0.5, [picture] * 8)] * 6)],
        failures=lost[["input", "output", "task", "seed", "status"]].assign(error=f"{EVIL} at step 3"),
        tuning=Tuning(tuned, ("method",), ("learning_rate",), [EVIL]),
        counts={"planned": 130, "done": len(trials) - len(lost), "diverged": len(lost), "missing": 10},
        coverage=coverage, forbidden={f"no such pair {EVIL}": 50}, design=[f"20 designs. Tasks: {EVIL}."],
        recommended=Recommended(
            found, code=[Snippet(f"Train {EVIL}:", "shell", f"adapter-study train recipe.yaml --class '{EVIL}'\n")],
            recipe=Snippet("The file:", "shell", f"cat > recipe.yaml <<'END'\nname: {EVIL}\n```\nEND\n"),
        ),
        confirmed=Confirmed(
            EVIL, confirm(compared, "clip_i", "compared", EVIL, reference="full", margin=0.02), "", {"lora": 5},
            [f"Note {EVIL}."], {f"key {EVIL}": EVIL}, Snippet(EVIL, "shell", f"adapter-study confirm '{EVIL}'\n"),
        ),
        maps=[
            Maps(f"Attention to {EVIL}", f"Maps of {EVIL}", f"Caption {EVIL}", lambda: _noise(EVIL), f"Said {EVIL}.",
                 [f"Words {EVIL}."], pd.DataFrame({f"number {EVIL}": [EVIL]}), f"Numbers {EVIL}"),
        ],
        maps_fault=f"Not all: {EVIL}.",
        reuse=[Snippet(f"Again {EVIL}:", "shell", f"adapter-study run '{EVIL}' " + "x" * 300)], backbone=EVIL,
        provenance={"commit": "0123abc" * 40, f"protocol {EVIL}": EVIL},
    )  # fmt: skip


def _noise(label: str):
    figure = new_figure(9, 2)
    ax = figure.subplots()
    ax.imshow(np.random.default_rng(0).random((20, 80)))
    ax.set_title(label)
    return figure
