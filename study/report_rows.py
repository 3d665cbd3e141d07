"""The rows of a study as reports and recommendations analyse them: factors, blocks, and a name for every design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.faults import InputFault
from analysis.anova_fit import anova
from analysis.declared import BACKBONE, RESIDUAL, default_interactions
from study.canonical import canonical_json
from study.columns import SCORES
from study.space import text
from study.trial import design_words

if TYPE_CHECKING:
    import pandas as pd

    from analysis.anova_table import AnovaTable
    from study.config import StudyConfig
    from study.study import Study

PAIR = ("input", "output")
DESIGN = "design"
"""The factor of a study whose designs are told apart only by all of their keys together."""


def terms(study: Study) -> tuple[list[str], list[str], tuple[str, str] | None]:
    """Return the factors, blocks and pair that a study's results are analysed by.

    Factors are those that every design has and that vary. Where they do not tell all designs apart, because some have
    factors of their own, the design as a whole is the one factor. The backbone, where there are several, is the last.
    Blocks are the tasks, and the seeds within each task,
    where there are several; input and output, where both vary, are a pair.

    Raises
    ------
    InputFault
        If no factor varies.
    """
    return terms_of(study.config)


def terms_of(config: StudyConfig) -> tuple[list[str], list[str], tuple[str, str] | None]:
    """Return what `terms` does, of a study that may have no store."""
    designs = config.space.designs
    factors = [name for name in config.space.varying if all(name in design for design in designs)]
    if len({tuple(text(design.get(name)) for name in factors) for design in designs}) < len(designs):
        factors = [DESIGN]
    factors += [BACKBONE] * (len(config.backbones) > 1)
    if not factors:
        raise InputFault(f"no factor of {config.name} varies over all its designs; expected at least one")
    blocks = ["task"] * (len(config.tasks) > 1) + ["task:seed"] * (len(config.seeds) > 1)
    return factors, blocks, PAIR if set(PAIR) <= set(factors) else None


def results(study: Study) -> pd.DataFrame:
    """Return a study's results with the column `design`: the method, and the keys in which its designs differ."""
    designs, frame = study.config.space.designs, study.results()
    words = {}
    for design in designs:
        alike = [other for other in designs if other["method"] == design["method"]]
        keys = {key for key in design if len({text(other.get(key)) for other in alike}) > 1}
        words[canonical_json(design)] = design_words(design, keys)
    return frame.assign(**{DESIGN: frame["design_json"].map(words)})


def balanced(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """Return the results that were planned before any score was known, and a sentence on the others, if there are any.

    Of the others the designs lack rows by outcome, so that tests and means over all rows would be biased.

    Raises
    ------
    InputFault
        If all of them were planned because of scores.
    """
    from study.strategies.search import ADAPTIVE

    frame = results(study)
    adaptive = frame["plan"] == ADAPTIVE
    if not adaptive.any():
        return frame, []
    if adaptive.all():
        raise InputFault(
            f"all {len(frame)} trials of {study.config.name} were planned because of earlier scores, which no test of "
            "factors may take as if they were not; `adapter-study recommend` says which designs may be the best"
        )
    told = (
        f"Tests and means are of the {(~adaptive).sum()} trials that were planned before any score was known; the "
        f"{adaptive.sum()} that were added where it was undecided which is the best serve the recommendation only."
    )
    return frame[~adaptive].reset_index(drop=True), [told]


def analyse(study: Study, error: str = RESIDUAL) -> AnovaTable:
    """Return the analysis of variance of a study's primary score: for its own tasks, unless another error is asked for.

    Raises
    ------
    InputFault
        If there are too few rows, or no factor that varies.
    """
    (factors, blocks, pair), frame, primary = terms(study), balanced(study)[0], study.config.primary
    crossed = default_interactions(frame, primary, factors)
    return anova(frame, primary, factors, blocks, interactions=crossed, error=error, pair=pair)


def scores(study: Study, frame: pd.DataFrame) -> list[str]:
    """Return the primary score and those that any of some rows has, in the order of the columns."""
    return [name for name in SCORES if name == study.config.primary or frame[name].notna().any()]
