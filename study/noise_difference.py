"""How much the subject's word changes what a trial's denoiser predicts of noised class pictures: maps, and the score.

The class pictures are those of the prior, drawn by the untuned backbone; texts are the task's instance prompt and class
prompt. Pictures, noise and timesteps are the same for all designs and seeds of a task, so that trials are compared in
pairs. `analysis.noise_difference` has the definitions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import adapters
from adapters.faults import InputFault
from analysis.declared import AUTO
from analysis.noise_difference import NoiseMaps, noise_maps
from analysis.result import Result
from study.backbones.names import content_hash
from study.columns import higher_is_better
from study.config import Protocol
from study.noise_reading import reading
from study.plan import address
from study.sampling import at_once, start_latents
from study.space import REFERENCE
from study.tasks.subject import SubjectTask
from study.tasks.subject_spec import SubjectSpec
from study.training import RowsOf, autocast, unpacked

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.noise_reading import ReadingContrast
    from study.backbones.loading import Backbone
    from study.loaded import Worker
    from study.study import Study

PICTURES = 8
"""Class pictures that the score is taken over, or as many as the protocol has of them if these are fewer."""

TIMESTEPS = 8
"""Timesteps it is taken at: the middles of as many equal parts of the schedule."""


UNTUNED = "untuned backbone"
"""What `record` calls the design of the backbone as it is."""


@dataclass(frozen=True)
class StudyNoise(Result):
    """What the subject's word changes in the predictions of trials, beside the untuned backbone's.

    Attributes
    ----------
    study : str
    trials : tuple of dict
        As `record` has them: id, design, task, seed and the primary score.
    maps : tuple of NoiseMaps
        One a trial, in the same order.
    answer : ReadingContrast or None
        Whether the size is larger for designs that read CA_c or CA_out, where every trial that is done is there.
    """

    study: str
    trials: tuple[dict[str, Any], ...]
    maps: tuple[NoiseMaps, ...] = field(repr=False)
    answer: ReadingContrast | None = None

    def to_frame(self) -> pd.DataFrame:
        """A row a trial: what tells it, the relative difference at each timestep, and the size."""
        import pandas as pd

        rows = [
            {**one, **{str(at): value for at, value in zip(each.timesteps, each.relative, strict=True)},
             "size": each.size}
            for one, each in zip(self.trials, self.maps, strict=True)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def shown(self) -> pd.DataFrame:
        """The same with the size first, the beginnings of the trials' ids, and three digits at the timesteps."""
        steps = [str(step) for step in self.maps[0].timesteps]
        frame = self.to_frame().assign(id=lambda frame: frame["id"].str[:12])
        frame = frame[[*frame.columns.difference(["size", *steps], sort=False), "size", *steps]]
        return frame.assign(**{step: [float(f"{value:.3g}") for value in frame[step]] for step in steps})

    def explain(self) -> str:
        """What the numbers are; and the answer, if there is one."""
        words = (
            f"L2 norm of the difference over that of the prediction, over {self.maps[0].pictures} class pictures; the "
            "columns with a number are timesteps, `size` is over all of them together."
        )
        return f"{words}\n\n{self.answer.explain()}" if self.answer else words

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values; maps are left out."""
        trials = [{**one, **each.to_dict()} for one, each in zip(self.trials, self.maps, strict=True)]
        return {"trials": trials, "answer": self.answer.to_dict() if self.answer else None}

    def plot(self) -> Figure:
        """The maps, a row a trial and a column a timestep."""
        from analysis.noise_figures import noise_grid

        several = len({(one["task"], one["seed"]) for one in self.trials}) > 1
        labels = [
            f"{one['design']}\n{one['task']}, seed {one['seed']}" if several else one["design"] for one in self.trials
        ]
        return noise_grid(list(zip(labels, self.maps, strict=True)))


def noise_difference(
    study: Study,
    trial: str | None = None,
    best: int | None = None,
    pictures: int = PICTURES,
    error: str = AUTO,
    ratio: bool = False,
) -> StudyNoise:
    """Map what the subject's word changes in trials with kept weights, and in the untuned backbone.

    Parameters
    ----------
    trial, best
        As `chosen`; without both, every trial whose weights were kept.
    pictures : int
        Class pictures that the maps are over.
    error, ratio
        Of the answer, as `analysis.reading_contrast`.

    Raises
    ------
    InputFault
        As `chosen`.
    """
    import pandas as pd

    from study.loaded import Worker

    rows = chosen(study, trial, best)
    every = pd.concat([rows, untuned(study, rows)], ignore_index=True).drop_duplicates("id", ignore_index=True)
    maps = tuple(of_kept(study, every, Worker(), pictures))
    sizes = dict(zip(every["id"], (each.size for each in maps), strict=True))
    results = study.results()
    told = tuple(record(row, study.config.primary) for row in every.to_dict("records"))
    answer = reading(study, results.assign(noise_difference=results["id"].map(sizes)), error, ratio)
    return StudyNoise(study.config.name, told, maps, answer)


@dataclass(frozen=True)
class _Slot:
    """A backbone that predicts as one of the adapters on it."""

    backbone: Backbone
    slot: int
    rows: RowsOf
    precision: str

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.backbone.noised(latents, noise, self.backbone.times(timesteps))

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        with self.rows([self.slot] * len(noisy)), autocast(self.backbone.device, self.precision):
            return self.backbone.predict(noisy, self.backbone.times(timesteps), context)


def with_class_pictures(protocol: Protocol) -> Protocol:
    """Return a protocol under which a task that is prepared has class pictures: one that gives the prior a weight."""
    return protocol if protocol.prior_weight > 0 else protocol.model_copy(update={"prior_weight": 1.0})


def subject_maps(
    task: SubjectTask,
    class_latents: Tensor,
    precision: str = "float32",
    slot: int = 0,
    rows: RowsOf = unpacked,
    pictures: int = PICTURES,
) -> NoiseMaps:
    """Map what the subject's word changes in the predictions of a task's backbone, with what is on it.

    Parameters
    ----------
    class_latents : Tensor (P, C, h, w)
        Of class pictures: `prior` of a task prepared under `with_class_pictures`.
    slot, rows
        Which adapter of a pack, as `study.training.RowsOf` says; adapters of a pack get the numbers they get alone.
    pictures : int
        How many of the class pictures are used, from the first on.
    """
    backbone, latents = task.backbone, class_latents[:pictures]
    noise, _ = start_latents(backbone, 0, task.key, "noise difference", len(latents))
    middles = [(2 * part + 1) * backbone.timesteps // (2 * TIMESTEPS) for part in range(TIMESTEPS)]
    with torch.no_grad():
        subject, plain = (backbone.embed([prompt]) for prompt in (task.spec.instance_prompt, task.spec.class_prompt))
    on = _Slot(backbone, slot, rows, precision)
    return noise_maps(on, latents, noise, middles, subject, plain, at_once(backbone))


def subjects(study: Study) -> dict[str, SubjectSpec]:
    """Return a study's tasks by their content hash.

    Raises
    ------
    InputFault
        A task that is of another kind: it has no word of its own.
    """
    tasks = study.config.tasks
    if other := next((task for task in tasks if not isinstance(task, SubjectSpec)), None):
        raise InputFault(f"{other.name} is a {other.kind} task: expected a study of subjects, which have a word each")
    return {task.content_hash(): task for task in tasks if isinstance(task, SubjectSpec)}


def kept(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a study whose trained weights are in the store; an untuned backbone has none to keep."""
    return rows[rows["id"].map(lambda id: study.store.adapter(id).is_dir()).astype(bool)]


def refuse_without_weights(study: Study, rows: pd.DataFrame) -> None:
    """Raise InputFault, naming the first, for rows whose trained weights are not in the store."""
    lost = rows[~rows["id"].isin(kept(study, rows)["id"])]
    if len(lost):
        raise InputFault(
            f"trial {lost['id'].iloc[0][:12]} has no trained weights in {study.store.folder}: it is the untuned "
            f"backbone, or they were not kept; choose one that has: {_keep(study)}"
        )


def of_kept(study: Study, rows: pd.DataFrame, worker: Worker, pictures: int = PICTURES) -> Iterator[NoiseMaps]:
    """Map trials from their kept weights, one after another; those of the untuned backbone need none.

    Parameters
    ----------
    rows : DataFrame
        Rows of `Study.results`.

    Raises
    ------
    InputFault
        A trial whose weights were not kept, or are damaged.
    """
    sources = {content_hash(source): source for source in study.config.backbones}
    specs = subjects(study)
    for row in rows.to_dict("records"):
        protocol = Protocol(**json.loads(row["protocol_json"]))
        backbone = worker.backbone(address(sources[row["backbone_hash"]]), protocol.precision)
        wanted = with_class_pictures(protocol)
        task = worker.task(specs[row["task_hash"]], backbone, wanted, str(study.store.folder))
        assert isinstance(task, SubjectTask)
        if json.loads(row["design_json"]) == REFERENCE:
            yield subject_maps(task, task.prior, protocol.precision, pictures=pictures)
            continue
        folder = study.store.adapter(row["id"])
        if not folder.is_dir():
            raise InputFault(f"the trained weights of trial {row['id'][:12]} were not kept; {_keep(study)}")
        insertion = adapters.load(backbone.pipeline, folder)
        try:
            with backbone.tuned_text(insertion.tunes_text):
                maps = subject_maps(task, task.prior, protocol.precision, pictures=pictures)
        finally:
            insertion.remove()
        yield maps


def chosen(study: Study, trial: str | None, best: int | None) -> pd.DataFrame:
    """Return the row of the trial whose id begins so, or those of the best trials whose weights are kept.

    Parameters
    ----------
    best : int
        How many, by the primary score, over all tasks and seeds.

    Raises
    ------
    InputFault
        If there is no such trial, several, or none that kept its weights.
    """
    import pandas as pd

    rows, primary = study.results(), study.config.primary
    if trial is not None:
        every = pd.concat([rows, study.results("reference")], ignore_index=True)
        found = every[every["id"].str.startswith(trial)] if trial else every
        if len(found) != 1:
            what = "no trial" if found.empty else f"{len(found)} trials"
            raise InputFault(
                f"--trial {trial!r}: {what} of {study.config.name} in {study.store.folder} begin{'s' * found.empty} "
                "with it; give the id, or enough of its first letters"
            )
        return found
    there = kept(study, rows)
    there = there[there[primary].notna()]
    there = there.sort_values([primary, "id"], ascending=[not higher_is_better(primary), True])
    if there.empty:
        raise InputFault(f"no trial of {study.config.name} in {study.store.folder} has kept weights; {_keep(study)}")
    return there.head(best if best is not None else len(there))


def untuned(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row of the untuned backbone for every backbone, task and protocol in some rows, if the store has it."""
    same = ["backbone_hash", "task_hash"]
    references = study.results("reference").drop_duplicates(same)
    return references.merge(rows[same].drop_duplicates(), on=same).reset_index(drop=True)


def record(row: Mapping[Any, Any], primary: str) -> dict[str, Any]:
    """Return what tells a row's trial, for people."""
    from study.trial import Trial

    design = json.loads(row["design_json"])
    trial = Trial(row["backbone"], design, row["task"], int(row["seed"]), Protocol(**json.loads(row["protocol_json"])))
    label = UNTUNED if design == REFERENCE else trial.label().split(" · ")[0]
    score = float(row[primary])
    return {
        "id": row["id"], "design": label, "task": row["task"], "seed": int(row["seed"]),
        primary: score if score == score else None,
    }  # fmt: skip


def _keep(study: Study) -> str:
    return (
        f"the study says `keep: {study.config.keep}`: with `keep: all` a run keeps those of every trial, "
        "with `best` of the best of each task. Trials that have a result run again in another store only: "
        f"`adapter-study run {study.config.name} --keep all --store DIR`"
    )
