"""What a study's results say: gathers rows, pictures and the untuned backbone; `analysis` does the thinking."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from adapters.positions import READS, WRITES
from analysis.declared import BACKBONE, default_interactions
from study.columns import higher_is_better
from study.progress import duration
from study.report_rows import DESIGN, PAIR, analyse, balanced, results, scores, terms
from study.strategies.search import searches
from study.trial import PRUNED

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.blocks import Page
    from analysis.report.content import ReportContent, Tuning
    from study.study import Study

__all__ = ["DESIGN", "PAIR", "analyse", "built", "content", "page", "results", "terms"]

STATES = ("planned", "done", "diverged", PRUNED, "failed", "out_of_memory", "missing")


def page(study: Study, address: str | None = None) -> str:
    """Return a study's report as one self-contained HTML page; parameters and faults as `content`."""
    from analysis.report.page import to_html

    return to_html(built(study, address))


def built(
    study: Study,
    address: str | None = None,
    recipe: str | Path | None = None,
    maps: bool = False,
    stage: Callable[[str], None] = lambda _: None,
) -> Page:
    """Return a study's report before it is written as HTML or Markdown; parameters and faults as `content`."""
    from analysis.report.sections import compose

    return compose(content(study, address, recipe, maps, stage))


def content(
    study: Study,
    address: str | None = None,
    recipe: str | Path | None = None,
    maps: bool = False,
    stage: Callable[[str], None] = lambda _: None,
) -> ReportContent:
    """Gather all that a report shows.

    Parameters
    ----------
    address : str, optional
        How the study was named, for the commands on the page; by default its own name.
    recipe : str or Path, optional
        The recipe whose confirmation is shown.
    maps : bool
        Whether attention and noise maps are made from kept weights, which takes the backbone and some seconds.
    stage : callable
        Told what is done next where that takes a while.

    Raises
    ------
    InputFault
        If the store has no results of the study, or the recipe cannot be confirmed by it.
    """
    from analysis.report.content import ReportContent
    from study.report_answer import confirmed, recommended
    from study.report_code import reuse
    from study.report_maps import maps as mapped
    from study.report_maps import readings
    from study.report_pictures import galleries

    (frame, partly), untuned = balanced(study), study.results("reference")
    if frame.empty:
        raise InputFault(f"{study.store.folder} holds no results of {study.config.name}; run the study first")
    factors, blocks, pair = terms(study)
    status = study.status()
    lost = frame[frame["status"] != "done"]
    shown = scores(study, frame)
    references = untuned.assign(name="untuned backbone")[["name", "task", "seed", *shown]]
    named = address or study.config.name
    answer = recommended(study, named)
    confirmation = confirmed(study, recipe, answer, named)
    figures, without = mapped(study, frame, stage) if maps else ([], "")
    return ReportContent(
        title=f"Study {study.config.name}",
        frame=frame,
        response=study.config.primary,
        higher_is_better=higher_is_better(study.config.primary),
        factors=factors,
        blocks=blocks,
        pair=pair,
        across=BACKBONE if default_interactions(frame, study.config.primary, factors) else "",
        scores=[name for name in shown if name != study.config.primary],
        order=[*READS, *WRITES],
        cautions=study.cautions(),
        references=references if len(references) else None,
        galleries=galleries(study, frame, untuned, factors),
        failures=lost[[*factors, "task", "seed", "status", "error"]] if len(lost) else None,
        tuning=_tuning(study),
        counts={name: status[name] for name in _states(status)},
        coverage=_coverage(status),
        forbidden=study.config.left_out,
        design=[*_chosen(study), *partly],
        recommended=answer,
        confirmed=confirmation,
        maps=[*figures, *readings(study, frame)],
        maps_fault=without,
        reuse=reuse(study, frame, named),
        backbone=", ".join(source.name for source in study.config.backbones),
        provenance=_provenance(study, frame, named),
    )


def _states(status: dict[str, Any]) -> list[str]:
    """Return the states that trials of a study can have: only a search with a pruner prunes."""
    return [name for name in STATES if name != PRUNED or status[PRUNED]]


def _coverage(status: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    states = _states(status)
    rows = [
        {"factor": factor, "level": level, **{state: counts[state] for state in states}}
        for factor, levels in status["by_factor"].items()
        for level, counts in levels.items()
    ]
    return pd.DataFrame(rows, columns=["factor", "level", *states])


def _chosen(study: Study) -> list[str]:
    """Say how many designs, tasks and seeds make the trials, and how the designs were chosen."""
    space, config = study.config.space, study.config
    on = {source.name: len(config.designs_on(source)) for source in config.backbones}
    counts = {"design": len(space.designs), "task": len(config.tasks), "seed": len(config.seeds)}
    if len(on) > 1:
        counts["backbone"] = len(on)
    of = " × ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    if len(set(on.values())) > 1:
        of += f" ({', '.join(f'{name} has the positions of {count} designs' for name, count in on.items())})"
    told = [f"The plan: {of}. Tasks: {', '.join(task.name for task in config.tasks)}."]
    if not space.complete:
        told.append(
            f"Of the {space.size} combinations of levels {space.looked_at} were drawn at random to choose from."
        )
    searched = study.found()
    if searched is not None and searches(space.strategy):
        replicates = len(config.tasks) * len(config.seeds)
        told += [space.strategy.describe(len(config.designs_on(config.backbones[0])), replicates), searched.told]
    return [*told, *space.chosen.told]


def _tuning(study: Study) -> Tuning | None:
    from analysis.report.content import Tuning

    tune = study.config.tune
    if tune is None:
        return None
    backbone = ("backbone",) if len(study.config.backbones) > 1 else ()
    return Tuning(study.tuned(), (*backbone, *tune.by), tuple(tune.grid), [task.name for task in tune.tasks])


def _provenance(study: Study, frame: pd.DataFrame, address: str) -> dict[str, str]:
    protocols = [json.loads(text) for text in frame["protocol_json"].unique()]
    told = "; ".join(", ".join(f"{key} {value}" for key, value in protocol.items()) for protocol in protocols)

    def several(column: str) -> str:
        return ", ".join(str(value) for value in frame[column].dropna().unique() if value != "")

    versions = [json.loads(text) for text in frame["versions_json"].dropna().unique() if text]
    return {
        "repeat": f"adapter-study run {shlex.quote(address)}",
        "protocol": told,
        "trained and scored in": duration(float((frame["pack_seconds"] / frame["pack_size"].fillna(1)).sum())),
        "device": several("device"),
        "backbone hash": several("backbone_hash"),
        "scorer hashes": several("scorer_hashes_json"),
        "versions": "; ".join(", ".join(f"{name} {v}" for name, v in version.items()) for version in versions),
        "commit": several("commit"),
    }
