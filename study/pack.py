"""Run a pack of trials in a worker: train, evaluate, hand each result to a sink as it ends.

Trials that can be trained together are: each is a slot of one denoiser, with rows of its own. A trial that fails,
diverges or does not fit into memory is a result like any other and changes nothing for the others; when a whole pack
fails it is run again in parts, down to the trial at fault.
"""

import contextlib
import itertools
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import adapters
from adapters.designs import method_of
from adapters.faults import InputFault
from study.backbones.loading import Backbone
from study.backbones.names import OWN, SEGMENTER, WORLD, Source, resolve, resolve_scorer
from study.checkpoints import State
from study.conditioning import Conditioned
from study.evaluation import judged
from study.full_disk import is_full
from study.loaded import Worker, silent
from study.mounting import Mounted, Ready, mount
from study.on_the_way import OnTheWay
from study.packing import free, is_out_of_memory, peak_bytes, reset_peak
from study.provenance import made_by, provenance
from study.resuming import Resuming, by_step
from study.scoring import PredictedNoise
from study.tasks.specs import TaskSpec
from study.tasks.subject import SubjectTask
from study.training import RowsOf, Slot, Trained, autocast, joined, row_losses, train, unpacked
from study.trial import PRUNED, Claim, Pack, Progress, Sink, Trial, TrialResult

log = logging.getLogger(__name__)


def run_pack(
    pack: Pack, worker: Worker, sink: Sink, progress: Progress | None = None, claim: Claim = lambda trial: True
) -> None:
    """Train and score the trials of a pack; each result goes to `sink` as soon as it is there.

    Whatever goes wrong within a trial becomes its status (`diverged`, `out_of_memory`, `failed`) with the reason. What
    the sink raises, an interruption and a full disk go through; so does a lack of memory for one trial where a larger
    pack ran out of it before: a new worker has to try.

    Parameters
    ----------
    progress : called with (trial, step, steps) now and then while a trial trains, and at every step of drawing before
        (step 0) and after.
    claim : called with a trial when it is about to be trained; those that it refuses are left out.
    """
    ready = []
    for trial in pack.trials:
        worker.beat = _beat(progress, trial, 0)
        try:
            ready.append(_prepare(trial, pack, worker))
        except Exception as error:
            if is_full(error):
                raise
            sink(_failed(trial, error, worker))
    resuming = Resuming(pack, worker.notice, made_by(worker.device))
    queue = deque((part, len(part)) for part in _together(ready, pack, worker, resuming))
    while queue:
        part, tried = queue.popleft()
        part = [each for each in part if claim(each.trial)]
        if not part:
            continue
        states = resuming.read(part)
        if len(alike := by_step(part, states)) > 1:  # since they were put together, others were at some of them
            queue.extendleft((smaller, tried) for smaller in reversed(alike))
            continue
        start = time.perf_counter()
        free(worker.device)
        reset_peak(worker.device)
        try:
            results = _run(part, pack, worker, progress, resuming, states)
        except Exception as error:
            if is_full(error):
                raise
            if len(part) > 1:
                log.warning("a pack of %d trials failed and is run in parts: %s", len(part), _reason(error))
                size = _after(error, part, pack, worker)
                parts = [part[begin : begin + size] for begin in range(0, len(part), size)]
                queue.extendleft((smaller, tried) for smaller in reversed(parts))
                continue
            if tried > 1 and is_out_of_memory(error):
                raise  # larger packs may have left too little behind; a new worker decides
            results = [_failed(part[0].trial, error, worker)]
        seconds = time.perf_counter() - start + sum(state.seconds for state in states if state is not None)
        for slot, result in enumerate(results):
            result.columns |= {
                **provenance(worker.device, _models(pack)),
                "pack_size": len(part),
                "pack_asked": max(tried, pack.asked or 0),
                "slot": slot,
                "pack_seconds": seconds,
                "peak_bytes": peak_bytes(worker.device),
            }
            sink(result)


def _prepare(trial: Trial, pack: Pack, worker: Worker) -> Ready:
    spec = pack.tasks[trial.task]
    backbone = worker.backbone(pack.backbone, trial.protocol.precision)
    _check_unchanged(trial, spec, backbone)
    backbone.scheduler(trial.protocol.sampler)  # one that does not draw here is told before anything is trained
    wanted = [worker.scorer(scorer) for scorer in pack.scores.values()]
    task = worker.task(spec, backbone, trial.protocol, pack.store)
    class_latents = None
    if isinstance(task, SubjectTask) and any(isinstance(scorer, PredictedNoise) for scorer in wanted):
        from study.noise_difference import with_class_pictures

        drawn = worker.task(spec, backbone, with_class_pictures(trial.protocol), pack.store)
        class_latents = drawn.prior if isinstance(drawn, SubjectTask) else None
    return Ready(trial, task, _size(backbone, trial), class_latents)


def _failed(trial: Trial, error: Exception, worker: Worker) -> TrialResult:
    if not isinstance(error, InputFault):
        log.warning("%s failed", trial.label(), exc_info=error)
    status = "out_of_memory" if is_out_of_memory(error) else "failed"
    columns = {**provenance(worker.device), "pack_size": 1, "pack_asked": 1, "slot": 0}
    return TrialResult(trial, status, _reason(error), columns=columns)


def _after(error: Exception, part: Sequence[Ready], pack: Pack, worker: Worker) -> int:
    """Say how many trials of a pack that failed to try together next."""
    if not is_out_of_memory(error):
        return 1  # so that the trial at fault fails alone
    worker.packing.too_large(_kind(part[0], pack, worker), len(part))
    return len(part) // 2


def _kind(ready: Ready, pack: Pack, worker: Worker) -> str:
    """Say what trials must have in common to be trained together: backbone, protocol (learning rate aside), the kind of
    task and the size of its pictures.

    On a CPU the method too, unless a number of trials was asked for. There large batches gain little, and edits that
    are not alike, each on some of the rows, lose more than that (docs/performance.md).
    """
    protocol = ready.trial.protocol.model_dump(mode="json", exclude={"learning_rate"})
    method = ready.trial.design["method"] if pack.together is None and worker.device.type == "cpu" else ""
    task = [ready.task.spec.kind, ready.backbone.size]
    return json.dumps([pack.backbone, protocol, method, task], sort_keys=True)


def _together(ready: Sequence[Ready], pack: Pack, worker: Worker, resuming: Resuming) -> list[list[Ready]]:
    """Part trials into those that are trained together, alike in size, in the order of the first of each.

    Those that go on from checkpoints go on together only from the same step.
    """
    kinds: dict[tuple[str, int], list[Ready]] = {}
    for each in ready:
        own = f"alone {each.trial.id}" if method_of(each.trial.design).alone else ""
        kinds.setdefault((own or _kind(each, pack, worker), resuming.step(each.trial)), []).append(each)
    parts = []
    for (kind, _), alike in kinds.items():
        try:
            size = worker.packing.size(kind, pack.together, len(alike), partial(_steps, alike))
        except Exception as error:
            if is_full(error):
                raise
            log.warning("%d trials are run one by one, to find which is at fault: %s", len(alike), _reason(error))
            size = 1
        count = -(-len(alike) // size)
        begins = [len(alike) * part // count for part in range(count + 1)]
        parts += [alike[begin:end] for begin, end in itertools.pairwise(begins)]
    return sorted(parts, key=lambda part: ready.index(part[0]))


@contextlib.contextmanager
def _steps(alike: Sequence[Ready], count: int) -> Iterator[Callable[[], None]]:
    """Give a training step of the first trials, without an update, to time it and see its memory."""
    part = alike[:count]
    with mount(part) as mounted:
        batches = [next(each.batches()) for each in part]
        owners = [slot for slot, own in enumerate(batches) for _ in own.weight]
        batch = joined(batches)
        parameters = [parameter for slot in range(len(part)) for parameter in mounted.parameters(slot)]

        def step() -> None:
            with mounted.rows(owners):
                with autocast(part[0].backbone.device, part[0].trial.protocol.precision):
                    loss = row_losses(mounted.backbone, batch).mul(batch.weight).sum()
                for parameter in parameters:
                    parameter.grad = None
                if loss.requires_grad:
                    loss.backward()

        yield step


def _run(
    part: Sequence[Ready],
    pack: Pack,
    worker: Worker,
    progress: Progress | None,
    resuming: Resuming,
    states: Sequence[State | None],
) -> list[TrialResult]:
    backbone, protocol = part[0].backbone, part[0].trial.protocol
    scorers = {name: worker.scorer(scorer) for name, scorer in pack.scores.items()}
    hashes = json.dumps({name: scorer.hash for name, scorer in scorers.items()}, sort_keys=True)
    results = [TrialResult(each.trial, "done") for each in part]
    untuned = _first_predictions(part, unpacked, backbone)
    with mount(part) as mounted:
        insertion = mounted.insertion
        started = _first_predictions(part, mounted.rows, mounted.backbone)
        for slot, (each, result) in enumerate(zip(part, results, strict=True)):
            before, after = untuned[slot], started[slot]
            change = float((after - before).abs().max() / before.abs().max())
            beside = sum(parameter.numel() for parameter in mounted.beside(slot))
            own = {"beside_parameters": beside, "start_change": change}
            result.columns = {**each.size, "scorer_hashes_json": hashes, **own}
        keeper = resuming.keeper(part, states, [mounted.parameters(slot) for slot in range(len(part))])
        begin = 0 if keeper is None else keeper.begin
        on_the_way = OnTheWay(part, mounted, scorers)
        worker.beat = silent  # training tells its steps itself
        with worker.notice.training() if keeper is not None else contextlib.nullcontext():
            trained = train(
                mounted.backbone,
                [_slot(each, slot, mounted, begin) for slot, each in enumerate(part)],
                protocol.steps,
                protocol.precision,
                mounted.rows,
                None if progress is None else lambda step: _tell(progress, part, step),
                on_the_way.halts,
                keeper,
            )
        for slot, (result, ended) in enumerate(zip(results, trained, strict=True)):
            _record(result, ended, begin)
            result.columns |= on_the_way.columns(slot, ended.ended)
        done = [slot for slot, result in enumerate(results) if result.status == "done"]
        if done:
            worker.beat = _beat(progress, part[done[0]].trial, protocol.steps)
            start = time.perf_counter()
            evaluations = judged(part, done, mounted, protocol, scorers)
            seconds = (time.perf_counter() - start) / len(done)
            for slot, evaluation in zip(done, evaluations, strict=True):
                result = results[slot]
                result.scores, result.images = evaluation.scores, evaluation.images
                result.pictures = evaluation.pictures
                result.columns |= evaluation.columns
                result.columns["eval_seconds"] = result.columns.get("eval_seconds", 0.0) + seconds
                if pack.keep != "none":
                    result.adapter = insertion.state(slot) or None
                    encoder = mounted.encoders[slot]
                    result.encoder = None if encoder is None else encoder.state_dict()
    return results


def _slot(ready: Ready, slot: int, mounted: Mounted, begin: int = 0) -> Slot:
    rate = ready.trial.protocol.learning_rate
    return Slot(
        mounted.insertion.parameters(slot),
        ready.batches(begin),
        rate,
        lambda: mounted.insertion.penalty(slot),
        mounted.beside(slot),
        ready.task.beside_rate,
    )


def _beat(progress: Progress | None, trial: Trial, step: int) -> Callable[[], object]:
    """Return what tells, before and after a trial's training, that its worker does not hang."""
    return silent if progress is None else partial(progress, trial, step, trial.protocol.steps)


def _tell(progress: Progress, part: Sequence[Ready], step: int) -> None:
    for each in part:
        progress(each.trial, step, each.trial.protocol.steps)


@torch.no_grad()
def _first_predictions(part: Sequence[Ready], rows: RowsOf, backbone: Backbone | Conditioned) -> list[Tensor]:
    """Predict on each trial's first batch, in float32: what a method that starts at identity leaves as it is."""
    batches = [next(each.batches()) for each in part]
    batch = joined(batches)
    counts = [len(own.weight) for own in batches]
    noisy = backbone.noised(batch.latents, batch.noise, batch.timesteps)
    owners = [slot for slot, count in enumerate(counts) for _ in range(count)]
    with rows(owners), autocast(backbone.device, part[0].trial.protocol.precision):
        predicted = backbone.predict(noisy, batch.timesteps, batch.context, batch.condition)
        return list(predicted.float().split(counts))


def _models(pack: Pack) -> tuple[Source, ...]:
    """Return the models that a pack names, which have been loaded."""
    judges = [each for each in pack.scores.values() if each not in (WORLD, OWN, SEGMENTER)]
    return (resolve(pack.backbone), *map(resolve_scorer, judges))


def _record(result: TrialResult, trained: Trained, begin: int) -> None:
    result.curves = list(trained.curve)
    told = {"final_loss": trained.final_loss, "steps_done": trained.steps, "train_seconds": trained.seconds}
    result.columns |= {**told, "resumed_step": begin}
    if trained.ended:
        result.status = PRUNED
        result.error = f"pruned after {trained.steps} of {result.trial.protocol.steps} steps"
    elif trained.diverged:
        result.status, result.error = "diverged", trained.diverged


def _check_unchanged(trial: Trial, spec: TaskSpec, backbone: Backbone) -> None:
    for what, planned, found in (
        (f"the pictures or prompts of {trial.task}", trial.task_hash, spec.content_hash()),
        (f"the backbone {trial.backbone}", trial.backbone_hash, backbone.hash),
    ):
        if planned != found:
            raise InputFault(f"{what} changed after the study was planned; run the study again")


def _size(backbone: Backbone, trial: Trial) -> dict[str, Any]:
    count = adapters.count(backbone.denoiser, trial.design, backbone.text_encoder)
    return {
        "parameters": count.trainable,
        "ratio": count.ratio,
        "log_parameters": math.log(count.trainable) if count.trainable else float("nan"),
        "width_resolved": ",".join(str(width) for width in sorted(set(count.widths)))
        or ",".join(f"{key}={size}" for key, size in count.resolved.items()),
        "budget_met": count.budget_met,
    }


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, InputFault) else f"{type(error).__name__}: {text}"
