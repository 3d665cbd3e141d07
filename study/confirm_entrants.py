"""What a recipe is compared with: the design of each method at the recipe's size, and its learning rate.

No learning rate is guessed: it was tuned by the study, or is declared. torch is imported only to count a recipe that
has no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.designs import normalise
from adapters.faults import InputFault
from study import tuning
from study.backbones.names import Source, content_hash, fetch
from study.canonical import canonical_json
from study.config import Protocol
from study.confirm_checks import Confirm
from study.recipe import Recipe
from study.space import Design
from study.study import Study
from study.trial import design_words

if TYPE_CHECKING:
    import pandas as pd

OWN_SIZE = ("difffit", "bitfit", "full")
"""Methods that take no budget."""
DECLARED = "declared in `confirm.learning_rates`"
_SIZES = ("budget", "rank", "a1", "a2", "residual_rank")


@dataclass(frozen=True)
class Entrant:
    """The recipe, or a method that it is compared with.

    Attributes
    ----------
    protocol : Protocol
        The recipe's, with the entrant's own learning rate.
    rate_from : str
        Where the learning rate is from, in words.
    warnings : tuple of str
        What may make its learning rate a wrong one.
    elsewhere : str
        In what the protocol it was tuned under differs; empty if in nothing.
    """

    name: str
    design: Design
    protocol: Protocol
    rate_from: str
    warnings: tuple[str, ...] = ()
    elsewhere: str = ""


def backbone_of(study: Study, recipe: Recipe) -> Source:
    """Return the study's backbone that a recipe is for."""

    def place(source: Source) -> tuple[Any, ...]:
        return source.kind, source.path, source.id, source.revision

    for source in study.config.backbones:
        if place(source) == place(recipe.backbone) or content_hash(source) == content_hash(recipe.backbone):
            return source
    known = ", ".join(source.name for source in study.config.backbones)
    raise InputFault(
        f"recipe {recipe.name} is for the backbone {recipe.backbone.name}, the study {study.config.name} for {known}; "
        "learning rates hold for the backbone they were tuned on: give a recipe for the study's"
    )


def designs_of(recipe: Recipe, backbone: Source, section: Confirm) -> dict[str, Design]:
    """Return the design of each method: at the recipe's budget, or of its own size."""
    budget = recipe.design.get("budget")
    if budget is None and not set(section.against) <= set(OWN_SIZE):
        budget = _count(recipe.design, backbone)
    return {
        method: normalise({"method": method} if method in OWN_SIZE else {"method": method, "budget": budget})
        for method in section.against
    }


def but_size(design: Design) -> str:
    """Return a design without what makes its size, as text."""
    return canonical_json({key: value for key, value in design.items() if key not in _SIZES})


def _count(design: Design, backbone: Source) -> int:
    """Return how many parameters a design trains."""
    from adapters.designs import count
    from study.backbones.architectures import denoiser_of, text_encoder_of

    folder = backbone.path or fetch(backbone)
    text_encoder = text_encoder_of(folder) if design.get("text_encoder") else None
    return count(denoiser_of(folder), design, text_encoder).trainable


def entrants_of(
    study: Study,
    rows: pd.DataFrame,
    section: Confirm,
    recipe: Recipe,
    backbone: Source,
    designs: Mapping[str, Design],
) -> list[Entrant]:
    """Return the methods with their learning rates.

    Parameters
    ----------
    rows : DataFrame
        Of the study's store.
    designs : mapping of str to dict
        Method and its design.

    Raises
    ------
    InputFault
        One message that names every method without a learning rate, and why.
    """
    choices = [choice for choice in study.choices(rows) if choice.backbone == backbone.name]
    found, lacking = [], {}
    for name, design in designs.items():
        try:
            chosen = _tuned(choices, design)
        except InputFault as fault:
            lacking[name] = str(fault)
            continue
        if chosen is None and name not in section.learning_rates:
            lacking[name] = "the study does not tune its learning rate"
            continue
        rate, rate_from, warnings, elsewhere = section.learning_rates.get(name), DECLARED, [], ""
        if chosen is not None:
            choice, point = chosen
            rate, rate_from = point.values["learning_rate"], f"tuned by {study.config.name}"
            warnings = _doubts(name, design, choice, point)
            there = study.config.protocol_of(choice.group.designs[0], point.values)
            elsewhere = changed(there, recipe.protocol)
        protocol = Protocol(**{**recipe.protocol.model_dump(), "learning_rate": rate})
        found.append(Entrant(name, design, protocol, rate_from, tuple(warnings), elsewhere))
    if lacking:
        told = "; ".join(f"{name} ({reason})" for name, reason in lacking.items())
        example = ", ".join(f"{name}: …" for name in lacking)
        raise InputFault(
            f"there is no learning rate for {told}. Every method is to be compared at a rate that was tuned for it: "
            f"tune it, declare it with `confirm: {{learning_rates: {{{example}}}}}`, or leave the method out of "
            "`confirm.against`"
        )
    return found


def _tuned(choices: Sequence[tuning.Choice], design: Design) -> tuple[tuning.Choice, tuning.Point] | None:
    """Return what the study's tuning chose for a design, or for the same one of another size; None if it tunes none.

    Raises
    ------
    InputFault
        If its tuning has not ended, has nothing to choose from, or has chosen several rates at other sizes.
    """
    rated = [choice for choice in choices if "learning_rate" in choice.group.grid]
    same = [c for c in rated if canonical_json(design) in map(canonical_json, c.group.designs)]
    found = same or [c for c in rated if but_size(design) in map(but_size, c.group.designs)]
    if not found:
        return None
    if any(choice.waits for choice in found):
        raise InputFault("its tuning has trials that are missing or failed: run the study first")
    chosen = [(choice, choice.chosen) for choice in found]
    known = [(choice, point) for choice, point in chosen if point is not None]
    if len(known) < len(chosen):
        raise InputFault("its tuning has nothing to choose from: at every rate a trial diverged")
    rates = {choice.group.name: point.values["learning_rate"] for choice, point in known}
    if len(set(rates.values())) > 1:
        groups = "; ".join(f"{name}: {rate:g}" for name, rate in rates.items())
        raise InputFault(f"the study tuned it at other sizes, with different rates: {groups}")
    return known[0]


def _doubts(name: str, design: Design, choice: tuning.Choice, point: tuning.Point) -> list[str]:
    """Say what may make a tuned learning rate a wrong one here."""
    rate, told = point.values["learning_rate"], []
    tried = choice.group.grid["learning_rate"]
    if len(tried) > 1 and rate in (min(tried), max(tried)):
        told.append(f"the learning rate of {name}, {rate:g}, lies on the edge of what was tried")
    first = choice.group.designs[0]
    if canonical_json(first) != canonical_json(design):
        told.append(
            f"the learning rate of {name} was tuned on {design_words(first)}, and trains {design_words(design)} here"
        )
    return told


def changed(there: Protocol, here: Protocol) -> str:
    """Return the keys, the learning rate aside, in which protocols differ: steps 100 there, 200 here."""
    ours, theirs = here.model_dump(), there.model_dump()
    return ", ".join(
        f"{key} {theirs[key]} there, {ours[key]} here"
        for key in ours
        if key != "learning_rate" and ours[key] != theirs[key]
    )
