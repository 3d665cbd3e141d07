"""What a report answers first: the recommended recipe, and what became of a recipe on tasks that nothing used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from analysis.recommended import Recommendation
from analysis.recommended_across import RecommendedAcross
from analysis.report.content import Confirmed, Recommended
from study import report_code

if TYPE_CHECKING:
    from study.study import Study


def recommended(study: Study, address: str) -> Recommended:
    """Recommend a design as `adapter-study recommend` does; where that cannot be done, say why."""
    from study import recommend

    try:
        found = recommend.recommend(study)
    except InputFault as fault:
        return Recommended(None, str(fault))
    if isinstance(found, Recommendation):
        return _with_code(study, address, found, found, None)
    named = [source.name for source in study.config.backbones]
    each = {name: _with_code(study, address, found, own, name) for name in named if (own := found.on(name))}
    return Recommended(None if found.apart else found.average, across=found, each=each)


def _with_code(
    study: Study, address: str, found: Recommendation | RecommendedAcross, own: Recommendation, backbone: str | None
) -> Recommended:
    """What is recommended, on a backbone where there are several, with the code that gets and uses the recipe."""
    from study import recommend

    recipe = recommend.recipe(study, found, backbone)
    code = [report_code.train(study, address, backbone)]
    return Recommended(own, code=code, recipe=report_code.recipe_file(recipe), design=recipe["design"])


def confirmed(study: Study, recipe: str | Path | None, chosen: Recommended, address: str) -> Confirmed | None:
    """Compare a recipe with other methods, if its trials are complete, or say how far they are.

    Parameters
    ----------
    recipe : str or Path, optional
        A recipe file, or a shipped recipe; without one only how to confirm is told.
    chosen : Recommended
        What the report recommends, which may be another design.

    Returns
    -------
    Confirmed or None
        None where the study confirms nothing and no recipe is given.

    Raises
    ------
    InputFault
        If the study has no section `confirm`, or the recipe is wrong for it.
    """
    if recipe is None:
        if study.config.confirm is None or not chosen.named:
            return None
        tasks = ", ".join(task.name for task in study.config.confirm.tasks)
        return Confirmed("", None, f"No recipe is confirmed on this page. Kept for that: {tasks}.",
                         code=report_code.confirm(study, address))  # fmt: skip
    from study.confirm import Confirming

    confirming = Confirming(study, recipe)
    rows = study.store.rows()
    notes = [*_another(confirming, chosen), *_sentences(confirming.warnings(rows))]
    result, fault = None, ""
    status = confirming.status(rows)
    if status["missing"]:
        fault = (
            f"{status['planned'] - status['missing']} of {status['planned']} trials of the confirmation of "
            f"{confirming.name} have run. Nothing is compared before all have: who looks before the end can choose "
            "when to stop."
        )
    else:
        try:
            result = confirming.analyse()
        except InputFault as reason:
            fault = str(reason)
    own = [note for note in notes if result is None or note not in result.notes]
    return Confirmed(confirming.name, result, fault, confirming.parameters(rows), own, _words(confirming.evidence),
                     None if result else report_code.confirm(study, address, str(recipe)))  # fmt: skip


def _another(confirming: Any, chosen: Recommended) -> list[str]:
    """Say that the recipe is not the one that is recommended, where that is so."""
    if not chosen.named or chosen.design_on(confirming.backbone.name) == confirming.recipe.design:
        return []
    return [f"The design of {confirming.name} is not the one that is recommended above."]


def _sentences(warnings: list[str]) -> list[str]:
    return [f"{warning[:1].upper()}{warning[1:]}{'' if warning.endswith('.') else '.'}" for warning in warnings]


def _words(evidence: dict[str, Any]) -> dict[str, str]:
    """A recipe file's evidence in names and values, without its lists, which are long."""
    plain = {str(key): value for key, value in evidence.items() if not isinstance(value, list | dict)}
    return {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in plain.items()}
