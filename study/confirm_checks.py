"""The section `confirm` of a study file: what it means, and checks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.faults import InputFault
from study.faults import Faults
from study.sections import ConfirmSection
from study.tasks.specs import TaskSpec

FULL = "full"
"""The method that a recipe should be no worse than by the margin."""


@dataclass(frozen=True)
class Confirm:
    """The section `confirm`, right in every part.

    Attributes
    ----------
    tasks : tuple of TaskSpec
        None of them is a task of the study or of its tuning.
    seeds : tuple of int
    margin : float or None
        How much worse than full tuning a recipe may be, in the primary score; None if it is not compared with it.
    against : tuple of str
        Methods.
    learning_rates : dict of str to float
        Of methods that the study does not tune.
    """

    tasks: tuple[TaskSpec, ...]
    seeds: tuple[int, ...]
    margin: float | None
    against: tuple[str, ...]
    learning_rates: dict[str, float]


class ConfirmCheck(Faults):
    """One pass over the section; the faults are with their lines in `faults`."""

    def run(
        self, section: ConfirmSection, used: Mapping[str, Sequence[TaskSpec]], resolve: Callable[[Any], TaskSpec]
    ) -> Confirm:
        """Return the section, its faulty parts left out.

        Parameters
        ----------
        used : mapping of str to sequence of TaskSpec
            The tasks that are used elsewhere, by what they are: "of the study", "of the tuning".
        resolve : callable
            Turns a task as it is declared into its spec.
        """
        tasks = self._tasks(section, used, resolve)
        self._once(section.against, ("confirm", "against"))
        if FULL in section.against and section.margin is None:
            self._fault(
                ("confirm",),
                "no margin: say how much worse than full tuning a recipe may be, such as `margin: 0.02`, before it is "
                "confirmed; or leave full out of `against`",
            )
        if FULL not in section.against and section.margin is not None:
            self._fault(("confirm", "margin"), "is for the comparison with full tuning, which `against` leaves out")
        for method in section.learning_rates:
            if method not in section.against:
                self._fault(("confirm", "learning_rates", method), "`against` leaves this method out")
        return Confirm(
            tuple(tasks),
            tuple(section.seeds),
            section.margin,
            tuple(section.against),
            {str(method): rate for method, rate in section.learning_rates.items()},
        )

    def _tasks(
        self, section: ConfirmSection, used: Mapping[str, Sequence[TaskSpec]], resolve: Callable[[Any], TaskSpec]
    ) -> list[TaskSpec]:
        found: list[TaskSpec] = []

        def unused(spec: Any) -> TaskSpec:
            task = resolve(spec)
            for what, tasks in {**used, "": found}.items():
                for known in tasks:
                    if task.name == known.name or task.content_hash() == known.content_hash():
                        alias = "" if task.name == known.name else f" by the name {known.name}"
                        if not what:
                            raise InputFault(f"{task.name} is given twice{alias and ',' + alias}")
                        raise InputFault(
                            f"{task.name} is a task {what}{alias}: a recipe that was chosen on it looks better there "
                            "than it is; expected tasks that nothing else uses"
                        )
            found.append(task)
            return task

        return self._each(section.tasks, ("confirm", "tasks"), unused)
