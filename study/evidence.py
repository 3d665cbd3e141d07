"""What a study's results say: the analysis of variance that `run` prints and the report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.anova_fit import anova

if TYPE_CHECKING:
    from analysis.anova_table import AnovaTable
    from study.study import Study

PAIR = ("input", "output")


def analyse(study: Study, response: str | None = None) -> AnovaTable:
    """Return the analysis of variance of a study's results.

    Factors are those that every design has and that vary; input and output, where both vary, are split as a pair; blocks
    are the tasks, and the seeds within each task.

    Parameters
    ----------
    response : str, optional
        A score; the study's primary one by default.

    Raises
    ------
    InputFault
        If there are too few rows, or no factor that varies.
    """
    designs = study.config.space.designs
    factors = [name for name in study.factors if name == "backbone" or all(name in design for design in designs)]
    seeds, tasks = len(study.config.seeds) > 1, len(study.config.tasks) > 1
    blocks = ["task"] * tasks + ["task:seed"] * seeds
    pair = PAIR if set(PAIR) <= set(factors) else None
    return anova(study.results(), response or study.config.primary, factors, blocks, pair=pair)
