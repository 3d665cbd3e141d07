"""Score the trials of a pack: their pictures are drawn, decoded and encoded together, in large batches."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch

from study.backbones.loading import Backbone
from study.config import Protocol
from study.sampling import at_once, sample
from study.scoring import AnyScorer, encode
from study.tasks.subject import Evaluation, SubjectTask
from study.training import Batch, RowsOf, autocast, joined, row_losses


def evaluate(
    backbone: Backbone,
    slots: Sequence[int],
    tasks: Sequence[SubjectTask],
    seeds: Sequence[int],
    protocol: Protocol,
    scorers: dict[str, AnyScorer],
    rows: RowsOf,
) -> list[Evaluation]:
    """Draw and score the pictures of trials whose adapters are on the backbone.

    Parameters
    ----------
    slots : the slots to score; `tasks` and `seeds` are theirs.
    protocol : of all of them, learning rates aside.
    rows : as `study.training.RowsOf` says; the insertion's.
    """
    wanted = [task.wanted(seed, protocol) for task, seed in zip(tasks, seeds, strict=True)]
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
    )
    pictures = backbone.decode(latents)
    features = encode(pictures, scorers.values())
    held_out = _held_out_losses(backbone, slots, tasks, protocol.precision, rows)
    ends = np.cumsum([len(each.prompts) for each in wanted])
    found = []
    for task, each, loss, end in zip(tasks, wanted, held_out, ends, strict=True):
        own = slice(end - len(each.prompts), end)
        theirs = {hash: values[own] for hash, values in features.items()}
        found.append(task.judge(each, pictures[own], theirs, scorers, loss))
    return found


@torch.no_grad()
def _held_out_losses(
    backbone: Backbone, slots: Sequence[int], tasks: Sequence[SubjectTask], precision: str, rows: RowsOf
) -> list[float]:
    parts = [task.held_out() for task in tasks]
    whose = torch.tensor([slot for slot, part in zip(slots, parts, strict=True) for _ in part.weight])
    size = at_once(backbone)
    whole = joined(parts)
    split = [getattr(whole, each.name).split(size) for each in fields(Batch)]
    losses = []
    for own, *columns in zip(whose.split(size), *split, strict=True):
        with rows(own.tolist()), autocast(backbone.device, precision):
            losses.append(row_losses(backbone, Batch(*columns)))
    every = torch.cat(losses).double().split([len(part.weight) for part in parts])
    return [float(own.mean()) for own in every]
