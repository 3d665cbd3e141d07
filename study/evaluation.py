"""Score the trials of a pack: their pictures are drawn, decoded and encoded together, in large batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from study.backbones.loading import Backbone
from study.conditioning import Conditioned
from study.config import Protocol
from study.mounting import Mounted, Ready
from study.sampling import at_once, sample
from study.scoring import AnyScorer, PredictedNoise, encode
from study.tasks.subject import SubjectTask
from study.tasks.task import Evaluation, Task
from study.training import RowsOf, autocast, joined, row_losses


def judged(
    part: Sequence[Ready],
    slots: Sequence[int],
    mounted: Mounted,
    protocol: Protocol,
    scorers: Mapping[str, AnyScorer | PredictedNoise],
) -> list[Evaluation]:
    """Score some slots of the trials that are on a denoiser, by all scorers."""
    judges = {name: scorer for name, scorer in scorers.items() if not isinstance(scorer, PredictedNoise)}
    tasks, seeds = [part[slot].task for slot in slots], [part[slot].trial.seed for slot in slots]
    found = evaluate(mounted.backbone, slots, tasks, seeds, protocol, judges, mounted.rows)
    if len(judges) < len(scorers):
        for slot, evaluation in zip(slots, found, strict=True):
            evaluation.scores |= _noise_difference(part[slot], slot, mounted)
    return found


def _noise_difference(ready: Ready, slot: int, mounted: Mounted) -> dict[str, float]:
    """Score how much the subject's word changes what a slot predicts of class pictures, where these are at hand."""
    if ready.class_latents is None or not isinstance(ready.task, SubjectTask):
        return {}
    from study.noise_difference import subject_maps

    precision = ready.trial.protocol.precision
    maps = subject_maps(ready.task, ready.class_latents, precision, slot, mounted.insertion.rows)
    return {"noise_difference": maps.size}


def evaluate(
    backbone: Backbone | Conditioned,
    slots: Sequence[int],
    tasks: Sequence[Task[Any]],
    seeds: Sequence[int],
    protocol: Protocol,
    scorers: dict[str, AnyScorer],
    rows: RowsOf,
) -> list[Evaluation]:
    """Draw and score the pictures of trials whose adapters are on the backbone.

    Parameters
    ----------
    slots : the slots to score; `tasks` and `seeds` are theirs. Tasks have conditions all or none.
    scorers : a task takes those of the scores that its kind knows.
    protocol : of all of them, learning rates aside.
    rows : as `study.training.RowsOf` says; the insertion's.
    """
    scorers_of = [{name: scorer for name, scorer in scorers.items() if name in task.spec.scores} for task in tasks]
    wanted = [task.wanted(seed, protocol) for task, seed in zip(tasks, seeds, strict=True)]
    conditions = [each.condition for each in wanted if each.condition is not None]
    latents = sample(
        backbone,
        backbone.embed([prompt for each in wanted for prompt in each.prompts]),
        torch.cat([each.start for each in wanted]),
        protocol.sampler,
        protocol.sampling_steps,
        protocol.guidance,
        protocol.precision,
        [slot for slot, each in zip(slots, wanted, strict=True) for _ in each.prompts],
        rows,
        torch.cat(conditions) if conditions else None,
    )
    pictures = backbone.decode(latents)
    features = encode(pictures, [scorer for own in scorers_of for scorer in own.values()])
    held_out = _held_out_losses(backbone, slots, tasks, protocol.precision, rows)
    ends = np.cumsum([len(each.prompts) for each in wanted])
    found = []
    for task, own_scorers, each, loss, end in zip(tasks, scorers_of, wanted, held_out, ends, strict=True):
        own = slice(end - len(each.prompts), end)
        theirs = {hash: values[own] for hash, values in features.items()}
        evaluation = task.judge(each, pictures[own], theirs, own_scorers)
        evaluation.scores["loss_heldout"] = loss
        found.append(evaluation)
    return found


@torch.no_grad()
def _held_out_losses(
    backbone: Backbone | Conditioned, slots: Sequence[int], tasks: Sequence[Task[Any]], precision: str, rows: RowsOf
) -> list[float]:
    parts = [task.held_out() for task in tasks]
    whose = torch.tensor([slot for slot, part in zip(slots, parts, strict=True) for _ in part.weight])
    size = at_once(backbone)
    losses = []
    for own, batch in zip(whose.split(size), joined(parts).split(size), strict=True):
        with rows(own.tolist()), autocast(backbone.device, precision):
            losses.append(row_losses(backbone, batch))
    every = torch.cat(losses).double().split([len(part.weight) for part in parts])
    return [float(own.mean()) for own in every]
