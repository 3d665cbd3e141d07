"""What `adapter-study run --dry-run` says: levels, forbidden cells, components, trials, estimated time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from adapters.faults import InputFault
from study import plan, tuning
from study.progress import duration
from study.study import Study


def describe(study: Study) -> Iterator[str]:
    """Yield the lines that describe what a run of the study would do; nothing is downloaded or written."""
    config, space = study.config, study.config.space
    yield f"study {config.name}, store {study.store.folder}"
    yield f"backbone: {', '.join(source.name for source in config.backbones)}"
    yield "factors:"
    names = dict.fromkeys(factor.name for factor in space.factors)
    for name in names:
        yield f"  {name}: {', '.join(space.levels(name))}"
    yield f"fixed: {', '.join(f'{name}={level}' for name, level in space.fixed.items()) or 'none'}"
    yield "forbidden cells:" if space.complete else f"forbidden cells, of {space.looked_at} drawn at random:"
    for reason, count in config.left_out.items():
        yield f"  {count}: {reason}"
    if not config.left_out:
        yield "  none"
    yield "components (levels of different components cannot be compared through the two factors):"
    parted = False
    for first, second in itertools.combinations(space.varying, 2):
        parts = space.components(first, second)
        if len(parts) > 1:
            parted = True
            yield f"  {first} × {second}: {len(parts)}"
            for a, b in parts:
                yield f"    {first} {', '.join(a)} × {second} {', '.join(b)}"
    if not parted:
        yield "  one: every level is connected with every other"
    designs, tasks, seeds = len(space.designs), len(config.tasks), len(config.seeds)
    backbones = len(config.backbones)
    on = {source.name: len(config.designs_on(source)) for source in config.backbones}
    told = space.chosen.told
    yield f"designs: {designs}" + (f" of {len(space.valid)} valid ones" if told else "")
    for line in told:
        yield f"  {line}"
    yield f"tasks: {', '.join(task.name for task in config.tasks)}"
    yield f"seeds: {', '.join(map(str, config.seeds))}"
    total = sum(on.values()) * tasks * seeds
    of = " × ".join(_several(count, name) for name, count in (("task", tasks), ("seed", seeds)))
    if len(set(on.values())) > 1:
        shares = [f"{_several(number, 'design')} on {name}" for name, number in on.items()]
        of = f"{' + '.join(shares)}, each × {of}"
    else:
        of = f"{_several(on[config.backbones[0].name], 'design')} × {of}"
        of += f" × {_several(backbones, 'backbone')}" if backbones > 1 else ""
    yield f"trials: {total} ({of}), and {tasks * seeds * backbones} of the untuned backbone to compare with"
    for caution in study.cautions():
        yield f"note: {caution}"
    yield from _tuning(study)
    yield from _remaining(study)


def _tuning(study: Study) -> Iterator[str]:
    """Yield the groups that are tuned, what is tried for each and what was chosen, if it was."""
    config = study.config
    if config.tune is None:
        return
    groups = tuning.groups(config)
    tasks, seeds, backbones = len(config.tune.tasks), len(config.tune.seeds), len(config.backbones)
    yield (
        f"tuning by {', '.join(config.tune.by)}, on {', '.join(task.name for task in config.tune.tasks)}, "
        f"seeds {', '.join(map(str, config.tune.seeds))}:"
    )
    try:
        choices = study.choices()
    except InputFault:  # a backbone that is not on this machine has no results; `_remaining` tells of it
        choices = []
    for group in groups:
        grid = "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in group.grid.items())
        design = " ".join(f"{key}={value}" for key, value in group.designs[0].items())
        yield f"  {group.name}: {grid}; tried on {design} for {_several(len(group.designs), 'design')}"
        for choice in choices:
            if choice.group.name == group.name and choice.chosen:
                where = f" on {choice.backbone}" if backbones > 1 else ""
                point = ", ".join(f"{key} {value}" for key, value in choice.chosen.values.items())
                yield f"    chosen{where}: {point}"
    left = len(config.space.designs) - sum(len(group.designs) for group in groups)
    if left:
        yield f"  not tuned: {_several(left, 'design')} with nothing to train, or set by hand under `protocol_by`"
    points = sum(len(group.points) for source in config.backbones for group in tuning.groups_on(config, source))
    over = f"grid point{'s' * (points != 1)}" + (f" on {_several(backbones, 'backbone')}" if backbones > 1 else "")
    of = [f"{points} {over}", _several(tasks, "task"), _several(seeds, "seed")]
    yield f"tune trials: {points * tasks * seeds} ({' × '.join(of)})"


def _several(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


def _remaining(study: Study) -> Iterator[str]:
    try:
        trials = [*study.tune_trials, *study.trials]
        waiting = [trial for trial in plan.waiting(study.config, study.choices()) if trial.possible]
    except InputFault as fault:
        yield f"estimated time: unknown ({fault})"
        return
    rows = study.store.rows()
    finished = set(rows["id"])
    missing = [trial for trial in trials if trial.id not in finished]
    if len(missing) < len(trials):
        yield f"already in the store: {len(trials) - len(missing)} of {len(trials) + len(waiting)}"
    seconds = plan.seconds([*missing, *plan.stand_ins(study.config, waiting)], rows)
    if seconds is None:
        yield "estimated time: unknown until the first trials on this backbone have run"
    elif len(rows):
        yield f"estimated time: {duration(seconds)} with one worker, from the trials in the store"
    else:
        yield f"estimated time: {duration(seconds)} on two CPU cores; a GPU is many times faster"
