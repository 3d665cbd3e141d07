"""What a trained trial attends to, beside the untuned model: maps of its words, and their numbers.

The numbers come from pictures whose object is known: noise is added to them at several timesteps and the denoiser runs
once on each, so no picture has to be drawn and both models see the same. The figure shows pictures that each draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

import adapters
from adapters.faults import InputFault
from analysis.attention import AttentionMap, AttentionMaps, capture
from analysis.attention_scores import Agreement, AttentionChange, agreement, attention_change
from analysis.result import Result
from study.backbones.loading import Backbone
from study.backbones.names import content_hash
from study.config import Protocol
from study.loaded import Worker
from study.noise_difference import chosen, record, refuse_without_weights, subjects
from study.plan import address
from study.randomness import stream
from study.sampling import at_once, sample, start_latents
from study.study import Study
from study.tasks.subject_spec import SubjectSpec
from study.training import autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["word", "block", "head", "level"]
Drawn = tuple[np.ndarray, list[AttentionMap]]
"""A picture, and a map for every word of its prompt or for every part of the denoiser."""

SCENES_SEED = 20261121
"""Places, tilts and lights of the scenes are drawn from it, for all trials of all studies."""

AT_ONCE = 8
"""Pictures that go through the denoiser together at most: the maps of all of them are in memory."""

LEVELS = 4
"""Levels of noise that a figure tells apart: equal parts of the schedule."""

TIMESTEPS = 4
"""Timesteps that a picture is noised to: the middles of as many equal parts of the schedule."""


@dataclass(frozen=True)
class Scenes:
    """Pictures to look at, with what is in them.

    Attributes
    ----------
    pictures : uint8 (N, size, size, 3).
    prompts : one a picture.
    masks : a bool (size, size) each: where the object is; None for photographs, where nobody knows.
    """

    pictures: np.ndarray
    prompts: list[str]
    masks: list[np.ndarray] | None


@dataclass(frozen=True)
class TrialAttention:
    """One trial's maps beside the untuned model's.

    Attributes
    ----------
    id, design, task : of the trial.
    change : of the class word's maps over the scenes.
    agreement : of the tuned maps with the objects; None where masks are not known.
    drawn : picture and maps of each word, of a picture that each model draws from one prompt.
    """

    id: str
    design: str
    task: str
    seed: int
    change: AttentionChange
    agreement: Agreement | None
    drawn: Drawn


@dataclass(frozen=True)
class StudyAttention(Result):
    """What trials attend to.

    Attributes
    ----------
    study : str
    trials : tuple of TrialAttention
    untuned : dict of str to Agreement
        The untuned model's, by task.
    drawn : dict of str to (picture, maps)
        What the untuned model draws, by task and seed.
    notes : tuple of str
    """

    study: str
    trials: tuple[TrialAttention, ...]
    untuned: dict[str, Agreement]
    drawn: dict[tuple[str, int], Drawn]
    notes: tuple[str, ...] = field(default=())

    def to_frame(self) -> pd.DataFrame:
        """A row for each trial and number: before, after, change and its interval."""
        parts = [each.change.to_frame().assign(design=each.design, task=each.task, seed=each.seed, trial=each.id)
                 for each in self.trials]  # fmt: skip
        frame = pd.concat(parts, ignore_index=True)
        return frame[["design", "task", "seed", "number", "before", "after", "change", "lower", "upper", "trial"]]

    def shown(self) -> pd.DataFrame:
        """The same with the beginnings of the trials' ids."""
        return self.to_frame().assign(trial=lambda frame: frame["trial"].str[:12])

    def explain(self) -> str:
        """How well the untuned model's maps point, and how each trial's differ."""
        lines = [f"The untuned model on {task}: {found.explain()}" for task, found in self.untuned.items()]
        lines += [f"{each.design} ({each.task}, seed {each.seed}): {each.change.explain()}" for each in self.trials]
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values; what is not known is null."""
        return {
            "study": self.study,
            "untuned": {task: _records(found.numbers) for task, found in self.untuned.items()},
            "trials": [
                {"trial": each.id, "design": each.design, "task": each.task, "seed": each.seed,
                 "pictures": each.change.pictures, "level": each.change.level, "change": _records(each.change.numbers),
                 "agreement": _records(each.agreement.numbers) if each.agreement else None}
                for each in self.trials
            ],
            "notes": list(self.notes),
        }  # fmt: skip

    def plot(self) -> Figure:
        """A row a model: the picture it draws, and the maps of the prompt's words."""
        from analysis.attention_figures import sheet

        several = len(self.drawn) > 1
        rows = {}
        for (task, seed), drawn in self.drawn.items():
            named = f"\n{task}, {seed}" if several else ""
            rows[f"untuned{named}"] = drawn
            for each in self.trials:
                if (each.task, each.seed) == (task, seed):
                    label = each.design.replace(" ", "\n", 1) + named
                    rows[label if label not in rows else f"{label}\n{each.id[:6]}"] = each.drawn
        return sheet(rows)

    def plot_changes(self) -> Figure:
        """The numbers' changes with their intervals."""
        from analysis.attention_figures import changes

        return changes({f"{each.design}\n{each.task}, {each.seed}": each.change for each in self.trials})


def attention(
    study: Study,
    trial: str | None = None,
    best: int | None = None,
    pictures: int = 24,
    prompt: int = 0,
    by: By = "word",
    stage: Callable[[str], None] = lambda _: None,
) -> StudyAttention:
    """Compare what trained trials attend to with the untuned model.

    Parameters
    ----------
    trial : str, optional
        A trial's id, or the beginning of one.
    best : int, optional
        So many of the trials of the best primary score instead, of those whose weights were kept.
    pictures : int
        Scenes that the numbers are over; of a task of photographs, those that there are at most.
    prompt : int
        Which of the task's prompts the figure's pictures are drawn from.
    by : {"word", "block", "head", "level"}
        What the figure shows the maps of, as `draw` has it.
    stage : callable
        Told what is done next.

    Raises
    ------
    InputFault
        For a trial that there is not or whose weights were not kept, or a prompt that the task lacks.
    """
    if (trial is None) == (best is None):
        raise InputFault("expected either one trial (--trial) or a number of the best (--best)")
    return attention_of(study, chosen(study, trial, best), pictures, prompt, by, stage)


def attention_of(
    study: Study,
    rows: pd.DataFrame,
    pictures: int = 24,
    prompt: int = 0,
    by: By = "word",
    stage: Callable[[str], None] = lambda _: None,
    worker: Worker | None = None,
) -> StudyAttention:
    """Compare what the trials of some rows of `Study.results` attend to with the untuned model.

    Parameters and faults as those of `attention`.

    Parameters
    ----------
    worker : Worker, optional
        One that may hold the backbone already.
    """
    if pictures < 2:
        raise InputFault(f"{pictures} pictures: expected at least 2")
    refuse_without_weights(study, rows)
    worker = worker or Worker()
    sources = {content_hash(source): source for source in study.config.backbones}
    specs = subjects(study)
    before: dict[str, tuple[Scenes, list[AttentionMap]]] = {}
    untuned: dict[str, Agreement] = {}
    drawn: dict[tuple[str, int], Drawn] = {}
    found = []
    for row in rows.to_dict("records"):
        spec, protocol = specs[row["task_hash"]], Protocol(**json.loads(row["protocol_json"]))
        if not 0 <= prompt < len(spec.prompts):
            raise InputFault(f"prompt {prompt}: {spec.name} has {len(spec.prompts)}, from 0")
        backbone = worker.backbone(address(sources[row["backbone_hash"]]), protocol.precision)
        task = f"{spec.name} on {row['backbone']}" if len(sources) > 1 else spec.name
        of = (task, int(row["seed"]))
        if task not in before:
            stage(f"the untuned model on {task}")
            scenes = scenes_of(spec, backbone.size, pictures)
            before[task] = scenes, class_maps(backbone, spec, scenes, protocol.precision)
            if scenes.masks is not None:
                untuned[task] = agreement(before[task][1], scenes.masks)
        scenes, plain = before[task]
        if of not in drawn:
            drawn[of] = draw(backbone, spec, spec.prompt(prompt), of[1], protocol, by)
        label = record({str(name): value for name, value in row.items()}, study.config.primary)["design"]
        stage(f"{label} on {task}, seed {of[1]}")
        with _tuned(backbone, study.store.adapter(row["id"])):
            tuned = class_maps(backbone, spec, scenes, protocol.precision)
            picture = draw(backbone, spec, spec.prompt(prompt), of[1], protocol, by)
        change = attention_change(plain, tuned, scenes.masks)
        pointing = None if scenes.masks is None else agreement(tuned, scenes.masks)
        found.append(TrialAttention(row["id"], label, *of, change, pointing, picture))
    notes = () if untuned else ("Where the object is in photographs is not known: no pointing and no overlap.",)
    return StudyAttention(study.config.name, tuple(found), untuned, drawn, notes)


def scenes_of(spec: SubjectSpec, size: int, count: int) -> Scenes:
    """Make the scenes of a task: the subject drawn anew at places of its own, or the photographs that there are."""
    if spec.subject is None:
        given = spec.load_pictures(size)[:count]
        return Scenes(given, [spec.instance_prompt] * len(given), None)
    from study.world.backgrounds import BACKGROUNDS
    from study.world.captions import place
    from study.world.scene import draw as drawing
    from study.world.scene import restage
    from study.world.subjects import SUBJECTS

    rng = np.random.default_rng(SCENES_SEED)
    names = [name for name, _ in zip(cycle(BACKGROUNDS), range(count), strict=False)]
    made = [drawing(restage(SUBJECTS[spec.subject].scenes[0], rng, name), size) for name in names]
    prompts = [f"{spec.instance_prompt} {place(name)}" for name in names]
    return Scenes(np.stack([each.pixels for each in made]), prompts, [each.mask for each in made])


def class_maps(backbone: Backbone, spec: SubjectSpec, scenes: Scenes, precision: str = "float32") -> list[AttentionMap]:
    """Map the class word over noised scenes, a map a scene."""
    return [
        maps.word(spec.class_word, picture)
        for maps in noised_maps(backbone, scenes.pictures, scenes.prompts, spec.content_hash(), precision)
        for picture in range(len(maps.prompts))
    ]


@torch.no_grad()
def noised_maps(
    backbone: Backbone,
    pictures: np.ndarray,
    prompts: Sequence[str],
    key: str = "",
    precision: str = "float32",
    timesteps: int = TIMESTEPS,
) -> Iterator[AttentionMaps]:
    """Run the denoiser once on pictures at each of several timesteps and capture what it attends to.

    Parameters
    ----------
    pictures : uint8 (N, size, size, 3)
    prompts : sequence of str
        One a picture.
    key : str
        Of the random streams of the noise, which is the same for every model and each picture's own.
    timesteps : int
        How many: the middles of as many equal parts of the schedule.

    Yields
    ------
    AttentionMaps
        Of some of the pictures, in order.
    """
    size = min(AT_ONCE, at_once(backbone))
    for first in range(0, len(pictures), size):
        own = list(prompts[first : first + size])
        latents, context = backbone.encode(pictures[first : first + size]), backbone.embed(own)
        streams = [stream(0, key, f"attention noise {number}") for number in range(first, first + len(own))]
        drawn = [torch.randn((timesteps, *backbone.latent_shape), generator=each) for each in streams]
        noise = torch.stack(drawn, 1).to(backbone.device, backbone.dtype)
        with capture(backbone.denoiser, getattr(backbone.pipeline, "tokenizer", None), own) as maps:
            for part in range(timesteps):
                middle = (2 * part + 1) * backbone.timesteps // (2 * timesteps)
                times = backbone.times(torch.full((len(own),), middle, device=backbone.device))
                with autocast(backbone.device, precision):
                    backbone.predict(backbone.noised(latents, noise[part], times), times, context)
        yield maps


def draw(backbone: Backbone, spec: SubjectSpec, prompt: str, seed: int, protocol: Protocol, by: By = "word") -> Drawn:
    """Draw the first of a trial's pictures and map every word of its prompt on the way, or the class word by its parts.

    Parameters
    ----------
    by : {"word", "block", "head", "level"}
        Each word; or the class word in each block, by each head, or at each of four levels of noise.
    """
    start, _ = start_latents(backbone, seed, spec.content_hash(), "picture", 1)
    with torch.no_grad():
        context = backbone.embed([prompt])
    levels = LEVELS if by == "level" else 1
    tokenizer = getattr(backbone.pipeline, "tokenizer", None)
    with capture(backbone.denoiser, tokenizer, [prompt], levels=levels, timesteps=backbone.timesteps) as maps:
        latents = sample(backbone, context, start, protocol.sampler, protocol.sampling_steps, protocol.guidance,
                         protocol.precision)  # fmt: skip
    if by == "word":
        found = maps.words()
    else:
        parts = maps.by(by, spec.class_word)
        found = [replace(each, word=_part_words(by, part)) for part, each in parts.items()]
    return backbone.decode(latents)[0], found


def _part_words(by: str, part: str | int) -> str:
    """Say a part of the denoiser briefly: "down 0.0.0", "head 1", "level 3"."""
    if by != "block":
        return f"{by} {part}"
    pieces = [piece for piece in str(part).split(".") if piece not in ("attentions", "transformer_blocks", "attn2")]
    return " ".join([pieces[0].replace("_blocks", "").replace("_block", ""), ".".join(pieces[1:])])


@contextmanager
def _tuned(backbone: Backbone, folder: Path) -> Iterator[None]:
    insertion = adapters.load(backbone.pipeline, folder)
    try:
        with backbone.tuned_text(insertion.tunes_text):
            yield
    finally:
        insertion.remove()


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): None if isinstance(value, float) and value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
