"""Power of a planned study: what it can find, and how many tasks and seeds a wished difference needs.

The plan is a list of designs, each run on every task with every seed; designs that are not possible are not in the
list, so every test has the degrees of freedom it will have. Nothing is said without the variances it rests on.

Definitions. The noncentrality λ of a term's test is the sum of squares of its true effects over the expected mean
square of its error: σ² against the residual, where λ = N·f² (Cohen 1988, §8.2); σ² + r·σ²(term:task) against its
interaction with tasks, r being the rows of one level on one task. The smallest detectable spread is Cohen's pattern of
minimum variability: two levels apart, the others where they add least (f·√(2k)·σ for k balanced levels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from adapters.faults import InputFault
from analysis.declared import AUTO, RESIDUAL, declared
from analysis.model import Design, name
from analysis.power_pilot import TASK, Pilot, Variances
from analysis.power_planned import PlannedTest
from analysis.power_result import Power
from analysis.power_terms import DESIGN, TestedTerm, shape, tested_terms

ALPHA, TARGET = 0.05, 0.8
_NO_RESPONSE = "no response"  # a space in it keeps it apart from columns of a store


def power(
    cells: pd.DataFrame,
    factors: Sequence[str],
    tasks: int,
    seeds: int = 1,
    sd: float | None = None,
    sd_task: float | None = None,
    pilot: pd.DataFrame | None = None,
    response: str | None = None,
    difference: float | None = None,
    error: str = AUTO,
    alpha: float = ALPHA,
    target: float = TARGET,
    interactions: str | Sequence[str] = "none",
    pair: tuple[str, str] | None = None,
    nested: Mapping[str, str] | None = None,
) -> Power:
    """Power of a planned study.

    Parameters
    ----------
    cells : DataFrame
        The planned designs, one row each, with the columns of the factors. Each is run on every task with every seed.
    factors, interactions, pair, nested
        The model, as in :func:`analysis.anova`. Tasks, and seeds within tasks, are blocks where there are several.
    tasks, seeds : int
    sd : float, optional
        SD of the residual, in units of the response. Against the residual that of all that the model leaves,
        differences of effects between tasks included.
    sd_task : float, optional
        SD of each term's effects from task to task: of the term's interaction with tasks.
    pilot : DataFrame, optional
        Results with a column `response`, from which what is not given is estimated, for each term on its own.
    difference : float, optional
        A difference that is wished to be found, in units of the response: between two levels of a factor, or in an
        interaction of one combination from what the terms within it say.
    error : "auto", "residual" or "task"
        What terms will be tested against. ``auto``: ``task`` with two tasks or more, as in :func:`analysis.anova`.
    alpha, target : float
        Level of the tests, and the power that is asked for.

    Returns
    -------
    Power

    Notes
    -----
    Power holds for normal errors and, against tasks, when the effects of all levels of a term vary equally and
    independently from task to task, which is sphericity where every level has as many designs; where not, contrasts
    have unequal variances, which :func:`analysis.noncentral.power_uneven` allows for. The F that decides is the
    table's: corrected by the Greenhouse-Geisser factor where there are more tasks than degrees of freedom, of which
    the expectation is taken, and by its lower bound otherwise. Against one term's interaction with tasks, those of
    terms that contain it count as its own.

    Raises
    ------
    InputFault
        A variance is missing that the plan needs and the pilot does not show; a number that makes no sense; columns
        missing.
    """
    _check(tasks, seeds, sd, sd_task, difference, alpha, target)
    against = _against(error, tasks)
    plan = declared(factors, (), interactions, pair, nested)
    sample = plan.read(cells.assign(**{_NO_RESPONSE: 0.0}), _NO_RESPONSE)
    sample, tested = tested_terms(sample, plan, pair)
    design = Design(sample)
    known, source = _variances(tested, against, sd, sd_task, pilot, response, (factors, interactions, pair, nested))
    tests = []
    for each, variances in zip(tested, known, strict=True):
        rank = design.space(each.model).rank
        tests.append(PlannedTest(each, shape(design, plan, each), variances, against, sample.n, rank, alpha, target))
    _check_known(tests, against, seeds)
    rows = [test for test in tests if test.tested.role != DESIGN]
    notes = _notes(tests, against, error, tasks, seeds, sd_task)
    if any(len(levels) < 2 for levels in sample.levels.values()):
        alone = [column for column, levels in sample.levels.items() if len(levels) < 2]
        notes.append(f"{', '.join(alone)} has a single level: it has no effect to test.")
    return Power(
        alpha=alpha, target=target, tasks=tasks, seeds=seeds, designs=sample.n, trials=sample.n * tasks * seeds,
        error=against, difference=difference, source=source,
        terms=tuple(test.row(tasks, seeds, difference) for test in rows),
        pairs=tuple(test.pairs(tasks, seeds, difference) for test in tests if test.shape.pairs),
        grid=tuple(point for test in rows for point in test.grid(tasks, seeds, difference)),
        needed=tuple(each for test in rows for each in test.needed(tasks, seeds, difference)) if difference else (),
        notes=tuple(notes),
    )  # fmt: skip


def _check(
    tasks: int,
    seeds: int,
    sd: float | None,
    sd_task: float | None,
    difference: float | None,
    alpha: float,
    target: float,
) -> None:
    for count, what in ((tasks, "tasks"), (seeds, "seeds")):
        if count < 1:
            raise InputFault(f"A plan of {count} {what} cannot be run; give 1 or more.")
    for number, what in ((sd, "sd"), (difference, "difference")):
        if number is not None and not (math.isfinite(number) and number > 0):
            raise InputFault(f"The {what} must be a number above 0, not {number}.")
    if sd_task is not None and not (math.isfinite(sd_task) and sd_task >= 0):
        raise InputFault(f"The SD from task to task must be 0 or more, not {sd_task}.")
    if not 0 < alpha < target < 1:
        raise InputFault(
            f"The level of the tests and the power must be shares, the power the larger one; got {alpha} and {target}."
        )


def _against(error: str, tasks: int) -> str:
    if error not in (AUTO, RESIDUAL, TASK):
        raise InputFault(f"The error of a plan is 'auto', 'residual' or 'task', not {error!r}.")
    if error == TASK and tasks < 2:
        raise InputFault(
            f"With {tasks} task nothing can be tested against tasks; plan two tasks or more, or use --error residual."
        )
    return error if error != AUTO else TASK if tasks > 1 else RESIDUAL


Model = tuple[Sequence[str], str | Sequence[str], tuple[str, str] | None, Mapping[str, str] | None]


def _variances(
    tested: Sequence[TestedTerm], against: str, sd: float | None, sd_task: float | None, frame: pd.DataFrame | None,
    response: str | None, model: Model,
) -> tuple[list[Variances], str]:  # fmt: skip
    """The variances of every term, and where they are from."""
    task = None if sd_task is None else sd_task**2
    complete = sd is not None and (against == RESIDUAL or task is not None)
    if frame is None or complete:
        lacking = [option for option, value in (("--sd", sd), ("--sd-task", sd_task)) if value is None]
        if sd is None or (against == TASK and task is None):
            needs = (
                "the SD of the residual and the SD of effects from task to task" if against == TASK
                else "the SD of the residual"
            )  # fmt: skip
            wanted = " and ".join(lacking if against == TASK else ["--sd"])
            raise InputFault(f"Power needs {needs}: give {wanted}, or earlier results with --pilot.")
        given = f"the SD given ({sd:g}" + (f"; from task to task {sd_task:g})" if against == TASK else ")")
        return [Variances(sd**2, task=task)] * len(tested), given
    if response is None:
        raise InputFault("Power from a pilot needs to know which column of it is the response.")
    pilot = Pilot(frame, response, *model)
    if against == RESIDUAL:
        return [pilot.residual(each) for each in tested], pilot.described()
    if task is None and pilot.tasks < 2:
        raise InputFault(
            f"The pilot has {pilot.tasks} task, so it does not show how much effects differ from task to task; give "
            "--sd-task, or a pilot with two tasks or more, or ask about these tasks alone with --error residual."
        )
    residual = None if sd is None else sd**2
    found = [pilot.against_task(each, residual) if pilot.tasks > 1 else pilot.residual(each) for each in tested]
    if task is not None:
        found = [_with_task(each, task) for each in found]
    also = [f"the SD {value:g} given for {what}" for value, what in ((sd, "the residual"), (sd_task, "tasks"))
             if value is not None]  # fmt: skip
    return found, " and ".join([pilot.described(), *also])


def _with_task(found: Variances, task: float) -> Variances:
    """Variances of which that from task to task is given; of a pilot's sum the rest is the residual's."""
    if found.residual is None and found.square is not None:
        return Variances(max(0.0, found.square.value - found.square.load * task), found.square.df, task)
    return replace(found, task=task, square=None, raw=None)


def _check_known(tests: Sequence[PlannedTest], against: str, seeds: int) -> None:
    """Refuse a pilot that says nothing of any term."""
    asked = [test for test in tests if test.shape.df]
    if not asked or any(test.mean_sq(seeds) is not None for test in asked):
        return
    if any(test.variances.residual == 0 for test in asked):
        raise InputFault(
            "The pilot's results do not vary beyond what the model says, so they show no error; give --sd, or another "
            "pilot."
        )
    if against == RESIDUAL:
        raise InputFault("The pilot's rows are used up by the model, so they show no residual; give --sd.")
    summed = any(test.variances.square is not None and test.variances.residual is None for test in asked)
    if summed:
        raise InputFault(
            "The pilot has one row for each design and task, so it shows only the sum of the residual's variance and "
            f"that from task to task, which is not enough to plan {seeds} seeds with; give --sd as well, or a pilot "
            "with several seeds, or plan as many seeds as the pilot has."
        )
    raise InputFault(
        "The pilot does not show how much any effect differs from task to task: no factor of the plan takes several "
        "levels on several tasks there. Give --sd-task and --sd, or another pilot."
    )


def _notes(
    tests: Sequence[PlannedTest], against: str, error: str, tasks: int, seeds: int, sd_task: float | None
) -> list[str]:
    notes = []
    rows = [test for test in tests if test.tested.role != DESIGN]
    if error == AUTO:
        other = "residual" if against == TASK else ""
        notes.append(
            f"Error 'auto' was taken as '{against}'"
            + (f"; --error {other} answers for these tasks alone." if other else ": there is one task.")
        )
    if against == RESIDUAL and sd_task is not None:
        notes.append(
            "The SD from task to task was not used: against the residual, differences of effects between tasks belong "
            "to the SD of the residual."
        )
    if against == TASK:
        corrected = [test for test in rows if test.shape.df > 1]
        bounded = [test.tested.label for test in corrected if tasks - 1 < test.shape.df]
        if corrected:
            notes.append(
                "It is assumed that the effects of all levels of a term vary equally from task to task. The table will "
                "not take that for granted: it corrects F by the Greenhouse-Geisser factor, of which the expectation "
                "is used here; `smallest_spherical` is without it."
            )
        if bounded:
            notes.append(
                f"With {tasks} tasks that factor cannot be estimated for {', '.join(bounded)} (it takes more tasks "
                "than degrees of freedom), so its lower bound decides, which costs power; t tests of one pair named "
                "beforehand do without."
            )
    combined = [test for test in tests if test.combined]
    if combined:
        mixed = dict.fromkeys(name(term) for test in combined for term in test.tested.mixed)
        notes.append(
            f"Nothing is said of {' and '.join(test.tested.label for test in combined)}: with {', '.join(mixed)} in "
            "the model the error holds what these differ by from task to task too, which is not planned with. Leave "
            "these interactions out to ask about them."
        )
    unknown = [t.tested.label for t in tests if t.shape.df and t.mean_sq(seeds) is None and not t.combined]
    if unknown:
        notes.append(f"The pilot does not show the variances of {', '.join(unknown)}.")
    summed = [test for test in tests if test.variances.residual is None and test.variances.square is not None]
    if summed:
        notes.append(
            f"Of {', '.join(test.tested.label for test in summed)} the pilot shows only the sum of the residual's "
            "variance and that from task to task, since it has one row for each level and task there. The sum is all "
            "that as many rows for a level and task need; nothing is said for other numbers of seeds."
        )
    negative = [test for test in tests if test.variances.raw is not None]
    if negative:
        raw = ", ".join(f"{test.tested.label} {test.variances.raw:.3g}" for test in negative)
        notes.append(f"Variances from task to task that the pilot estimates below 0 were taken as 0; raw: {raw}.")
    untested = [test.tested.label for test in rows if test.shape.df and test.df_error(tasks, seeds) < 1]
    if untested:
        notes.append(f"No degree of freedom is left to test {', '.join(untested)} with; plan more seeds or tasks.")
    return notes
