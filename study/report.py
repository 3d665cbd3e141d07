"""What a study's results say: gathers rows, pictures and the untuned backbone; `analysis` does the thinking."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from adapters.faults import InputFault
from adapters.positions import READS, WRITES
from analysis.anova_fit import anova
from analysis.declared import RESIDUAL
from study.canonical import canonical_json
from study.columns import SCORES
from study.progress import duration
from study.space import text
from study.trial import design_words

if TYPE_CHECKING:
    import pandas as pd

    from analysis.anova_table import AnovaTable
    from analysis.report.content import Gallery, ReportContent, Tuning
    from study.study import Study

PAIR = ("input", "output")
DESIGN = "design"
"""The factor of a study whose designs are told apart only by all of their keys together."""
PICTURES = 8
"""Pictures of a design in a gallery."""


def terms(study: Study) -> tuple[list[str], list[str], tuple[str, str] | None]:
    """Return the factors, blocks and pair that a study's results are analysed by.

    Factors are those that every design has and that vary. Where they do not tell all designs apart, because some have
    factors of their own, the design as a whole is the one factor. Blocks are the tasks, and the seeds within each task,
    where there are several; input and output, where both vary, are a pair.

    Raises
    ------
    InputFault
        If no factor varies.
    """
    designs = study.config.space.designs
    factors = [name for name in study.factors if name == "backbone" or all(name in design for design in designs)]
    if len({tuple(text(design.get(name)) for name in factors) for design in designs}) < len(designs):
        factors = ["backbone", DESIGN] if "backbone" in factors else [DESIGN]
    if not factors:
        raise InputFault(f"no factor of {study.config.name} varies over all its designs; expected at least one")
    blocks = ["task"] * (len(study.config.tasks) > 1) + ["task:seed"] * (len(study.config.seeds) > 1)
    return factors, blocks, PAIR if set(PAIR) <= set(factors) else None


def results(study: Study) -> pd.DataFrame:
    """Return a study's results with the column `design`: the method, and the keys in which its designs differ."""
    designs, frame = study.config.space.designs, study.results()
    words = {}
    for design in designs:
        alike = [other for other in designs if other["method"] == design["method"]]
        keys = {key for key in design if len({text(other.get(key)) for other in alike}) > 1}
        words[canonical_json(design)] = design_words(design, keys)
    return frame.assign(**{DESIGN: frame["design_json"].map(words)})


def analyse(study: Study, error: str = RESIDUAL) -> AnovaTable:
    """Return the analysis of variance of a study's primary score: for its own tasks, unless another error is asked for.

    Raises
    ------
    InputFault
        If there are too few rows, or no factor that varies.
    """
    factors, blocks, pair = terms(study)
    return anova(results(study), study.config.primary, factors, blocks, error=error, pair=pair)


def page(study: Study) -> str:
    """Return a study's report as one self-contained HTML page.

    Raises
    ------
    InputFault
        If the store has no results of the study.
    """
    from analysis.report.page import render

    return render(content(study))


def content(study: Study) -> ReportContent:
    """Gather all that a report shows.

    Raises
    ------
    InputFault
        If the store has no results of the study.
    """
    from analysis.report.content import ReportContent

    frame, untuned = results(study), study.results("reference")
    if frame.empty:
        raise InputFault(f"{study.store.folder} holds no results of {study.config.name}; run the study first")
    factors, blocks, pair = terms(study)
    status = study.status()
    lost = frame[frame["status"] != "done"]
    references = untuned.assign(name="untuned backbone")[["name", "task", "seed", *_scores(study, frame)]]
    return ReportContent(
        title=f"Study {study.config.name}",
        frame=frame,
        response=study.config.primary,
        factors=factors,
        blocks=blocks,
        pair=pair,
        scores=[name for name in _scores(study, frame) if name != study.config.primary],
        order=[*READS, *WRITES],
        references=references if len(references) else None,
        galleries=_galleries(study, frame, untuned, factors),
        failures=lost[[*factors, "task", "seed", "status", "error"]] if len(lost) else None,
        tuning=_tuning(study),
        counts={name: status[name] for name in ("planned", "done", "diverged", "failed", "out_of_memory", "missing")},
        backbone=", ".join(source.name for source in study.config.backbones),
        provenance=_provenance(study, frame),
    )


def _tuning(study: Study) -> Tuning | None:
    from analysis.report.content import Tuning

    tune = study.config.tune
    if tune is None:
        return None
    backbone = ("backbone",) if len(study.config.backbones) > 1 else ()
    return Tuning(study.tuned(), (*backbone, *tune.by), tuple(tune.grid), [task.name for task in tune.tasks])


def _scores(study: Study, frame: pd.DataFrame) -> list[str]:
    return [name for name in SCORES if name == study.config.primary or frame[name].notna().any()]


def _galleries(study: Study, frame: pd.DataFrame, untuned: pd.DataFrame, factors: list[str]) -> list[Gallery]:
    """Return for each task the pictures of some designs from best to worst, and of the untuned backbone."""
    from analysis.figures import PictureRow
    from analysis.report.content import Gallery

    images, primary = study.store.images(), study.config.primary
    galleries = []
    for task in study.config.tasks:
        ranked = frame[(frame["task"] == task.name) & frame[primary].notna()].sort_values(primary, ascending=False)
        ranked = ranked.drop_duplicates(factors)
        chosen = ranked.iloc[_spread(len(ranked))]
        rows = [
            PictureRow(
                " ".join(str(row[name]) for name in factors), float(row[primary]), _pictures(study, images, row["id"])
            )
            for _, row in chosen.iterrows()
        ]
        for _, row in untuned[untuned["task"] == task.name].head(1).iterrows():
            rows.append(PictureRow("untuned backbone", float(row[primary]), _pictures(study, images, row["id"])))
        rows = [row for row in rows if len(row.pictures)]
        if rows:
            real = task.load_pictures(rows[0].pictures[0].shape[0])
            galleries.append(Gallery(task.name, list(real), rows))
    return galleries


def _spread(count: int) -> list[int]:
    """Return which of so many ranked designs to show: the first three, one in the middle, the last two."""
    return sorted({0, 1, 2, count // 2, count - 2, count - 1} & set(range(count)))


def _pictures(study: Study, images: pd.DataFrame, id: str) -> list[np.ndarray]:
    from PIL import Image

    files = images[images["id"] == id].sort_values("index")["file"].head(PICTURES)
    paths = [study.store.folder / file for file in files.dropna()]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths if path.exists()]


def _provenance(study: Study, frame: pd.DataFrame) -> dict[str, str]:
    protocols = [json.loads(text) for text in frame["protocol_json"].unique()]
    told = "; ".join(", ".join(f"{key} {value}" for key, value in protocol.items()) for protocol in protocols)

    def several(column: str) -> str:
        return ", ".join(str(value) for value in frame[column].dropna().unique() if value != "")

    versions = [json.loads(text) for text in frame["versions_json"].dropna().unique() if text]
    return {
        "repeat": f"adapter-study run {study.config.name}",
        "protocol": told,
        "trained and scored in": duration(float((frame["pack_seconds"] / frame["pack_size"].fillna(1)).sum())),
        "device": several("device"),
        "backbone hash": several("backbone_hash"),
        "scorer hashes": several("scorer_hashes_json"),
        "versions": "; ".join(", ".join(f"{name} {v}" for name, v in version.items()) for version in versions),
        "commit": several("commit"),
    }
