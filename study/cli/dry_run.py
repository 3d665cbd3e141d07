"""What `adapter-study run --dry-run` says: levels, forbidden cells, components, trials, estimated time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from adapters.faults import InputFault
from study import plan, tuning
from study.progress import duration
from study.strategies.search import Searching, searches
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
    if searches(space.strategy):
        yield f"all trials would be {total} ({of}), and {tasks * seeds} of the untuned backbone to compare with"
        yield from _search(study, space.strategy, on[config.backbones[0].name], tasks * seeds)
    else:
        yield f"trials: {total} ({of}), and {tasks * seeds * backbones} of the untuned backbone to compare with"
    for caution in study.cautions():
        yield f"note: {caution}"
    yield from _tuning(study)
    yield from _remaining(study)


def _search(study: Study, strategy: Searching, designs: int, replicates: int) -> Iterator[str]:
    """Yield what a strategy that plans as it goes will do, and how far it is."""
    yield f"search: {strategy.describe(designs, replicates)}"
    try:
        found = study.found()
    except InputFault:  # a backbone that is not on this machine; `_remaining` tells of it
        return
    if found is not None and found.generations > 1:
        state = found.state(strategy.trials)
        yield f"  planned so far: {state['planned']} trials in {found.generations} generations. {found.told}"


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
        ranges = config.tune.searched.ranges if config.tune.searched else {}
        tried = {key: str(ranges.get(key, ", ".join(map(str, values)))) for key, values in group.grid.items()}
        grid = "; ".join(f"{key} {told}" for key, told in tried.items())
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
    if config.tune.searched is not None:
        count = sum(len(tuning.groups_on(config, source)) for source in config.backbones)
        each = config.tune.searched.trials // (tasks * seeds)
        of = [_several(each, "point"), _several(tasks, "task"), _several(seeds, "seed")]
        yield (
            f"tune trials: {count * each * tasks * seeds} ({_several(count, 'group')} × {' × '.join(of)}; points are "
            f"chosen by Optuna, {config.tune.searched.settings.batch} at a time)"
        )
        return
    points = sum(len(group.points) for source in config.backbones for group in tuning.groups_on(config, source))
    over = f"grid point{'s' * (points != 1)}" + (f" on {_several(backbones, 'backbone')}" if backbones > 1 else "")
    of = [f"{points} {over}", _several(tasks, "task"), _several(seeds, "seed")]
    yield f"tune trials: {points * tasks * seeds} ({' × '.join(of)})"


def _unplanned(study: Study) -> list[plan.Waiting]:
    """What searches have not planned yet, as trials of designs that take as long."""
    config, found = study.config, study.found()
    source = config.backbones[0]
    cell = plan.Waiting(source.name, config.designs_on(source)[0], config.tasks[0].name, 0, possible=True)
    left = found.left if found is not None else 0
    if config.tune is not None and config.tune.searched is not None:
        each = config.tune.searched.trials // (len(config.tune.tasks) * len(config.tune.seeds))
        points = sum(max(0, each - len(choice.points)) for choice in study.choices() if not choice.ended)
        left += points * len(config.tune.tasks) * len(config.tune.seeds)
    return [cell] * left


def _several(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


def _remaining(study: Study) -> Iterator[str]:
    try:
        trials = [*study.tune_trials, *study.trials]
        waiting = [*_unplanned(study), *(cell for cell in study.waiting() if cell.possible)]
    except InputFault as fault:
        yield f"estimated time: unknown ({fault})"
        return
    rows = study.store.rows()
    found = study.found(rows)
    finished = {*rows["id"], *(found.pruned if found is not None else ())}
    missing = [trial for trial in trials if trial.id not in finished]
    if len(missing) < len(trials):
        yield f"already in the store: {len(trials) - len(missing)} of {len(trials) + len(waiting)}"
    seconds = plan.seconds(study.config, [*missing, *plan.stand_ins(study.config, waiting)], rows)
    if seconds is None:
        yield "estimated time: unknown until the first trials on this backbone have run"
    elif len(rows):
        yield f"estimated time: {duration(seconds)} with one worker, from the trials in the store"
    else:
        yield f"estimated time: {duration(seconds)} on two CPU cores; a GPU is many times faster"
