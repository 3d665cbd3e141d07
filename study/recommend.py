"""From a study's results to a recipe: gathers the trials; `analysis` chooses; writes what `train` reads.

A recipe holds no clock and nothing of the machine that wrote it, so the same store gives the same file.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from analysis.declared import AUTO, BACKBONE
from analysis.recommended import Recommendation
from analysis.recommended_across import RecommendedAcross
from study.atomic import write_file
from study.canonical import digest
from study.columns import SCORES, higher_is_better
from study.plan import address
from study.report_rows import results, terms
from study.strategies.search import ADAPTIVE
from study.trial import PRUNED

if TYPE_CHECKING:
    import pandas as pd

    from study.study import Study

OUTCOMES = ("done", "diverged", "out_of_memory")
"""Statuses that say something of a design; a trial that failed otherwise is one that is still to be run."""

_DIGITS = 6


def recommend(study: Study, error: str = AUTO) -> Recommendation | RecommendedAcross:
    """Choose a design of a study by the rule of :func:`analysis.recommend`.

    Of a study with results on several backbones, one for all or, where an interaction with the backbone is shown, one
    for each (:func:`analysis.recommend_across`). Diverged trials, and those that did not fit into memory, are failures
    of their designs. Trials that failed for another reason, were pruned, or have no primary score, are left out and
    told.

    Raises
    ------
    InputFault
        If the store has no results of the study with a primary score, or nothing varies.
    """
    from analysis.recommend_across_rule import recommend_across
    from analysis.recommend_rule import recommend as choose

    frame, told = _trials(study)
    factors, blocks, pair = terms(study)
    primary = study.config.primary
    others = {name: SCORES[name] for name in _ties(study) if name != primary and frame[name].notna().any()}
    factors = [factor for factor in factors if factor != BACKBONE]
    asked: dict[str, Any] = {
        "factors": factors, "blocks": blocks, "pair": pair, "error": error,
        "higher_is_better": higher_is_better(primary), "scores": others, "parameters": "parameters",
        "costs": ["ratio", "seconds"],
    }  # fmt: skip
    if frame[BACKBONE].nunique() == 1:
        found = choose(frame, primary, **asked)
        return _with_not_tested(found, study, frame, told)
    across = recommend_across(frame, primary, BACKBONE, **asked)
    average = across.average
    each = {
        name: _with_not_tested(own, study, frame[frame[BACKBONE] == name], told) for name, own in across.each.items()
    }
    return replace(across, each=each, average=_with_not_tested(average, study, frame, told) if average else None)


def on_backbone(
    study: Study, found: Recommendation | RecommendedAcross, name: str | None = None
) -> tuple[str, Recommendation]:
    """Return the backbone that a recipe is for, and what is recommended there.

    Parameters
    ----------
    name : str, optional
        As the study names it; by default the first that has a recommendation.

    Raises
    ------
    InputFault
        If the study has no such backbone, or nothing is recommended on it.
    """
    known = {source.name: None for source in study.config.backbones}
    if name is not None and name not in known:
        raise InputFault(f"--backbone {name}: {study.config.name} has {', '.join(known)}")
    if isinstance(found, Recommendation):
        only = str(_trials(study)[0][BACKBONE].iloc[0])
        if name not in (None, only):
            raise InputFault(f"--backbone {name}: only {only} has results yet; run the rest of the study first")
        return only, found
    chosen = name or next(each for each in known if found.on(each) is not None)
    own = found.on(chosen)
    if own is None:
        why = found.faults.get(chosen, "it has no results yet; run the rest of the study first")
        raise InputFault(f"--backbone {chosen}: nothing can be recommended on it: {why}")
    return chosen, own


def _with_not_tested(found: Recommendation, study: Study, frame: pd.DataFrame, told: list[str]) -> Recommendation:
    return replace(found, not_tested=(*found.not_tested, *_not_tested(study, frame), *told))


def _ties(study: Study) -> list[str]:
    """The scores that decide where the primary one does not, in the order in which they do: those of the tasks' kinds.

    The held-out loss is no score of pictures and is not among them.
    """
    return list(dict.fromkeys(name for task in study.config.tasks for name in task.ties))


def _trials(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """The rows that say something of designs, and how many do not."""
    frame, config = results(study), study.config
    if frame.empty:
        raise InputFault(f"{study.store.folder} holds no results of {config.name}; run the study first")
    scored = frame[config.primary].notna()
    if not (scored & (frame["status"] == "done")).any():
        raise InputFault(
            f"none of the {len(frame)} trials of {config.name} in {study.store.folder} has the primary score "
            f"{config.primary}; expected at least those of two designs, so run the study again or name another primary"
        )
    lost = frame["status"].isin(OUTCOMES) & (frame["status"] != "done")
    used = frame[lost | (scored & (frame["status"] == "done"))].copy()
    used.loc[used["status"] != "done", list(SCORES)] = float("nan")
    order = [source.name for source in config.backbones]
    used = used.sort_values(BACKBONE, key=lambda names: names.map(order.index), kind="stable")
    # Of a trial among those trained together; it tells designs of one study apart, and is no speed of a method.
    used["seconds"] = used["pack_seconds"] / used["pack_size"].fillna(1)
    status = study.status()
    planned, pruned = status["planned"], status[PRUNED]
    told = [f"{pruned} of {planned} planned trials: they were pruned on their way."] if pruned else []
    if left := planned - pruned - len(used):
        told.append(f"{left} of {planned} planned trials: they have no result yet.")
    if (used["plan"] == ADAPTIVE).any():
        told.append(
            "the recommended design anew: trials were planned because of earlier scores, so the means of designs that "
            "were singled out may be too good; `confirm` compares on tasks that nothing used."
        )
    return used.reset_index(drop=True), told


def _not_tested(study: Study, frame: pd.DataFrame) -> list[str]:
    config = study.config
    said = [
        f"{count} combinations, by {reason}." for reason, count in config.space.left_out.items() if "forbid" in reason
    ]
    varying = {*config.space.varying, BACKBONE}
    fixed = {key: value for key, value in config.space.fixed.items() if key not in varying}
    if fixed:
        held = ", ".join(f"{key}={value}" for key, value in fixed.items())
        said.append(f"other values of what all designs share: {held}.")
    protocols = frame["protocol_json"].unique()
    if len(protocols) == 1:
        rate = json.loads(protocols[0])["learning_rate"]
        said.append(f"other protocols: every design was trained under one (learning rate {rate:g}), none at its own.")
    elif (frame.groupby(BACKBONE)["protocol_json"].nunique() == 1).all():
        said.append("other protocols: on each backbone every design was trained under one.")
    there = frame[BACKBONE].unique()
    names = ", ".join(source.name for source in config.backbones if source.name in there)
    said.append(f"other backbones than {names}.")
    if len(config.seeds) == 1:
        said.append("other seeds: there is one.")
    return said


def recipe(study: Study, found: Recommendation | RecommendedAcross, backbone: str | None = None) -> dict[str, Any]:
    """Return what a recipe file says: name, backbone, design, protocol, evidence and provenance.

    The design is what is recommended on the backbone (see `on_backbone`), the protocol that of its trials there.

    Raises
    ------
    InputFault
        As `on_backbone`.
    """
    named, own = on_backbone(study, found, backbone)
    frame, _ = _trials(study)
    rows = frame[frame[BACKBONE] == named]
    for factor, level in own.levels.items():
        rows = rows[rows[factor].astype(str) == level]
    source = next(source for source in study.config.backbones if source.name == named)
    evidence = _evidence(study, frame, own)
    # A name of a model may have characters that no name of a recipe has.
    which = f"-on-{re.sub('[^A-Za-z0-9._-]+', '-', named)}" if len(study.config.backbones) > 1 else ""
    if isinstance(found, RecommendedAcross):
        evidence["across_backbones"] = _plain(_across(found, named))
    return {
        "name": f"{study.config.name}-recommended{which}",
        "backbone": address(source),
        "design": json.loads(rows["design_json"].iloc[0]),
        "protocol": json.loads(rows["protocol_json"].iloc[0]),
        "evidence": evidence,
        "provenance": _provenance(study, frame, rows),
    }


def _across(found: RecommendedAcross, backbone: str) -> dict[str, Any]:
    """What is known of designs and backbones together, and of a design that is the best on average, on this one."""
    return {
        "one_for_each": found.apart, "interactions": list(found.terms), "shown": list(found.interacting),
        "untested": found.untested, "best_differs": found.best_differs, "verdict": found.verdict(),
        "chosen_on_each": {name: own.chosen for name, own in found.each.items()},
        **({} if found.apart else {"on_this_backbone": found.average_on(backbone)}),
    }  # fmt: skip


def _evidence(study: Study, frame: pd.DataFrame, found: Recommendation) -> dict[str, Any]:
    designs = found.to_frame()
    inside = designs[designs["design"].isin(found.may_be_best)]
    wanted = ("trials", "failed", "mean", "observed", *_ties(study), "parameters", "seconds")
    shown = [name for name in wanted if name in designs]
    first = designs.iloc[0]
    return _plain(
        {
            "question": found.question, "response": found.response, "chosen": found.chosen,
            "mean": first["counted"], "observed": first["observed"],
            "lead": list(found.ahead), "confidence": found.level, "error": found.error,
            "trials": found.n, "failed": found.n_failed,
            "tasks": sorted(frame["task"].unique()), "seeds": sorted(int(seed) for seed in frame["seed"].unique()),
            "tests": list(found.terms), "trial_sd": found.trial_sd, "trial_sd_is": f"SD of a trial {found.trial_sd_of}",
            "may_be_best": [
                {"design": row["design"], **{name: row[name] for name in shown}} for row in inside.to_dict("records")
            ],
            "may_be_best_on_these_tasks": list(found.on_these_tasks), "not_the_best": found.excluded,
            "rule": list(found.rule), "left_after_each_step": dict(found.steps),
            "not_tested": list(found.not_tested), "notes": list(found.notes),
        }
    )  # fmt: skip


def _provenance(study: Study, frame: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Any]:
    def several(column: str) -> list[Any]:
        texts = [value for value in frame[column].dropna().unique() if value != ""]
        return [json.loads(text) for text in texts] if column.endswith("_json") else sorted(map(str, texts))

    tasks = frame.drop_duplicates("task")
    return {
        "study": study.config.name,
        "store": study.store.folder.as_posix(),
        "backbone_hash": str(rows["backbone_hash"].iloc[0]),
        "task_hashes": {str(task): str(own) for task, own in zip(tasks["task"], tasks["task_hash"], strict=True)},
        "scorer_hashes": several("scorer_hashes_json"),
        "trials_digest": digest(sorted(frame["id"])),
        "versions": several("versions_json"),
        "commits": several("commit"),
        "devices": several("device"),
    }


def _plain(value: Any) -> Any:
    """What YAML has words for: no arrays, no NaN, and no digit beyond those that mean something."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if value != value:
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{_DIGITS}g}")
    return value


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a recipe file, whole or not at all.

    Raises
    ------
    InputFault
        If what was written cannot be read as a recipe; the file is not there then.
    """
    import yaml

    from study import recipe as recipes

    source = content["provenance"]["study"]
    head = f"# Chosen from the study {source}; `evidence` says how surely, and what is not known.\n"
    text = head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)

    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")
        recipes.read(part)

    write_file(path, fill)
