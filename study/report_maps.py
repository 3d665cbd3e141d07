"""The maps of a report: what trained trials attend to beside the untuned model, and what the subject's word changes.

They are made anew from the weights that the study kept, so this takes the backbone and some seconds a trial. torch is
imported once there is something to map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adapters.faults import InputFault
from analysis.declared import RESIDUAL
from analysis.noise_reading import SCORE
from analysis.report.content import Maps
from study.columns import higher_is_better
from study.noise_reading import reading

if TYPE_CHECKING:
    import pandas as pd

    from analysis.noise_difference import NoiseMaps
    from study.attention import StudyAttention
    from study.study import Study

TASKS = 2
"""Tasks whose best trial is mapped: the first ones with kept weights."""

SCENES = 24
"""Pictures that the numbers of attention are over."""


def maps(study: Study, frame: pd.DataFrame, stage: Callable[[str], None] = lambda _: None) -> tuple[list[Maps], str]:
    """Map the best trial of each of the first tasks, as far as weights were kept.

    Parameters
    ----------
    frame : DataFrame
        Rows of the study's results.
    stage : callable
        Told what is done next.

    Returns
    -------
    list of Maps
    str
        Why there are none; else empty.
    """
    rows = best_kept(study, frame)
    if rows.empty:
        return [], (
            f"No attention and noise maps: the store has no trained weights of a trial with a score (the study says "
            f"`keep: {study.config.keep}`; `best` keeps those of each task's best trial)."
        )
    from study.attention import attention_of
    from study.loaded import Worker
    from study.noise_difference import of_kept, untuned

    worker = Worker()
    try:
        stage("attention maps")
        found = [_attention(attention_of(study, part, SCENES, worker=worker)) for _, part in _by_task(rows)]
        stage("noise differences")
        for _, part in _by_task(rows):
            shown = _with(part, untuned(study, part))
            found.append(_noise(study, shown, list(of_kept(study, shown, worker))))
    except (InputFault, OSError) as fault:  # class pictures are put into the store, which may be for reading only
        return [], f"No attention and noise maps: {fault}"
    return found, ""


def readings(study: Study, frame: pd.DataFrame) -> list[Maps]:
    """Say whether the noise difference is larger for designs that read CA_c or CA_out, where it is a score."""
    try:
        here = reading(study, frame, RESIDUAL) if SCORE in frame else None
        elsewhere = reading(study, frame) if here is not None else None
    except InputFault:
        return []  # too few rows for the model, which the table of variance says
    if here is None or elsewhere is None:
        return []
    words = here.explain().splitlines()
    if elsewhere.error_block is not None:
        words.append(elsewhere.explain().splitlines()[0])
    asked = " or ".join(here.reads)
    return [
        Maps(
            f"Is the noise difference larger for designs that read {asked}?",
            f"Mean noise difference of every pair of positions, by whether it reads {asked}",
            "What the subject's word changes in the predicted noise, for every pair of positions.",
            here.plot,
            words[0],
            words[1:],
            here.to_frame(),
            "Pairs that read them against the others, on these tasks",
        )
    ]


def best_kept(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the best trial with kept weights of each of the first tasks that have one."""
    primary = study.config.primary
    there = frame["id"].map(lambda id: study.store.adapter(id).is_dir()).astype(bool) & frame[primary].notna()
    ranked = frame[there].sort_values([primary, "id"], ascending=[not higher_is_better(primary), True])
    best = ranked.drop_duplicates("task")
    order = {task.name: place for place, task in enumerate(study.config.tasks)}
    return best.sort_values("task", key=lambda names: names.map(order)).head(TASKS)


def _by_task(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), part) for name, part in rows.groupby("task", sort=False)]


def _with(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([rows, others], ignore_index=True)


def _attention(found: StudyAttention) -> Maps:
    (trial,) = found.trials
    table = trial.change.to_frame().rename(columns={"lower": "95% from", "upper": "to"})
    pointing = [f"The untuned model: {each.explain()}" for each in found.untuned.values()]
    return Maps(
        f"What {trial.design} attends to: {trial.task}, seed {trial.seed}",
        f"Attention maps of the words of a prompt for {trial.task}: the untuned model, and {trial.design} after tuning",
        "A picture that each model draws from the same noise, and where each word of the prompt is attended to on the "
        "way. Brighter is more; the number over a map is its entropy, 1 is even.",
        found.plot,
        _changes(trial.change.numbers, trial.change.level),
        [trial.change.explain(), *pointing, *found.notes],
        table,
        f"Maps of {trial.change.word} over {trial.change.pictures} pictures, before and after tuning",
    )


def _noise(study: Study, rows: pd.DataFrame, found: list[NoiseMaps]) -> Maps:
    import pandas as pd

    from analysis.noise_figures import noise_grid
    from study.noise_difference import record

    told = [record(row, study.config.primary) for row in rows.to_dict("records")]
    first = told[0]
    table = pd.DataFrame(
        [
            {"design": one["design"], "size": each.size,
             **{f"t = {step}": value for step, value in zip(each.timesteps, each.relative, strict=True)}}
            for one, each in zip(told, found, strict=True)
        ]
    )  # fmt: skip
    labels = [str(one["design"]) for one in told]
    sizes = [f"{each.size:.3g} ({label})" for label, each in zip(labels, found, strict=True)]
    return Maps(
        f"What the subject's word changes: {first['task']}, seed {first['seed']}",
        f"Maps of what the subject's word changes in the noise predicted for {first['task']}: "
        f"{' and '.join(labels)}",
        f"Root mean square, over {found[0].pictures} noised class pictures, of the difference between the prediction "
        "with the subject's rare word in the text and the one without it; a column a timestep.",
        lambda: noise_grid(list(zip(labels, found, strict=True))),
        f"The norm of the difference is {' and '.join(sizes)} of the prediction's, over all timesteps together.",
        table=table,
        numbers="Norm of the difference over that of the prediction: of all timesteps together, and of each",
    )  # fmt: skip


_NUMBERS = {"entropy": "entropy", "pointing": "pointing accuracy", "iou": "overlap with the object (IoU)"}


def _changes(numbers: pd.DataFrame, level: float) -> str:
    """Before, after and change with its interval, of the numbers that people ask for first."""
    rows = {row["number"]: row for row in numbers.to_dict("records")}
    told = []
    for number, words in _NUMBERS.items():
        if (row := rows.get(number)) is None:
            continue
        change = f"{row['before']:.3f} before tuning and {row['after']:.3f} after"
        if row["lower"] == row["lower"]:
            change += f" ({level:.0%} interval of the change {row['lower']:+.2g} to {row['upper']:+.2g})"
        told.append(f"{words} {change}")
    return f"The class word's map: {'; '.join(told)}."
