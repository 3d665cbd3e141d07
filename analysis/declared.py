"""The model that a user declares: factors, blocks and interactions, read from names; and the sample it is fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pandas as pd

from adapters.faults import InputFault
from analysis.model import Term, name
from analysis.sample import Sample, read_sample

AUTO, RESIDUAL = "auto", "residual"
BACKBONE = "backbone"
"""The factor that is a condition of the others: by default their interactions with it are in the model."""


@dataclass(frozen=True)
class Declared:
    """Terms in order, with their roles.

    Attributes
    ----------
    parents : mapping of str to str
        The factor that a nested factor exists under; its term holds both.
    """

    blocks: tuple[Term, ...]
    factors: tuple[Term, ...]
    interactions: tuple[Term, ...]
    parents: Mapping[str, str] = field(default_factory=dict)

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms: blocks, factors, interactions."""
        return (*self.blocks, *self.factors, *self.interactions)

    @property
    def columns(self) -> list[str]:
        """Columns of the frame, each once."""
        return list(dict.fromkeys(column for term in self.terms for column in term))

    def role(self, term: Term) -> str:
        """What a term is in the table."""
        return "block" if term in self.blocks else "factor" if term in self.factors else "interaction"

    def label(self, term: Term) -> str:
        """A term's name in the table: ``input:output``, or ``rank(method)`` for a nested factor."""
        if term in self.factors and len(term) == 2:
            return f"{term[1]}({term[0]})"
        return name(term)

    def error_block(self, error: str, sample: Sample) -> Term | None:
        """Return the block that a wished error term means: None stands for the residual.

        Raises
        ------
        InputFault
            When the wish is neither ``auto`` nor ``residual`` nor a declared block.
        """
        if error == RESIDUAL:
            return None
        if error == AUTO:
            return ("task",) if ("task",) in self.blocks and len(sample.levels["task"]) > 1 else None
        named = {name(block): block for block in self.blocks}
        if error not in named:
            blocks = ", ".join(named) or "none is declared"
            raise InputFault(
                f"The error term {error!r} is neither 'auto' nor 'residual' nor a declared block ({blocks}). To test "
                f"against factor × {error}, name it with --blocks."
            )
        return named[error]

    def read(self, frame: pd.DataFrame, response: str) -> Sample:
        """Take the declared columns out of a frame; a nested factor may be missing where it does not exist."""
        return read_sample(frame, response, self.columns, self.parents)


def names(value: str | Iterable[str]) -> list[str]:
    """Names as a list; one name alone may be given as it is."""
    return [value] if isinstance(value, str) else list(value)


def across_interactions(factors: Sequence[str], across: str = BACKBONE) -> list[str]:
    """Interactions of all other factors with one of them, ``input:backbone``; none where it is no factor."""
    own = names(factors)
    return [f"{factor}:{across}" for factor in own if factor not in (across, "pair")] if across in own else []


def default_interactions(frame: pd.DataFrame, response: str, factors: Sequence[str]) -> list[str]:
    """The interactions that a study's model has besides the pair's: of each factor with the backbone.

    None where the backbone is no factor, or the rows with a response have one.
    """
    if BACKBONE not in factors or BACKBONE not in frame or frame.loc[frame[response].notna(), BACKBONE].nunique() < 2:
        return []
    return across_interactions(factors)


def declared(
    factors: str | Sequence[str],
    blocks: str | Sequence[str] = (),
    interactions: str | Sequence[str] = "none",
    pair: tuple[str, str] | None = None,
    nested: Mapping[str, str] | None = None,
) -> Declared:
    """Read a model from names, as :func:`analysis.anova` describes them.

    Raises
    ------
    InputFault
        No factor; a name twice; a factor inside a block; an interaction or a parent that is no factor.
    """
    own = [f for f in names(factors) if not (pair and f == "pair")]
    own = list(dict.fromkeys([*(pair or ()), *own])) if pair else own
    if not own:
        raise InputFault("No factor was named; name at least one, for instance --factors input,output.")
    if len(set(own)) < len(own):
        raise InputFault(f"A factor is named twice: {', '.join(own)}.")
    parents = dict(nested or {})
    for child, parent in parents.items():
        if child not in own or parent not in own or parent in parents:
            raise InputFault(
                f"{child!r} cannot be nested in {parent!r}: both must be factors, and the parent not nested itself "
                f"(factors: {', '.join(own)})."
            )
    crossed = [f for f in own if f not in parents]
    terms = tuple((parents[f], f) if f in parents else (f,) for f in own)
    return Declared(_blocks(blocks, own), terms, _interactions(interactions, crossed, pair), parents)


def _blocks(blocks: str | Sequence[str], factors: Sequence[str]) -> tuple[Term, ...]:
    terms = [tuple(block.split(":")) for block in names(blocks)]
    for block in terms:
        both = [column for column in block if column in factors]
        if both or len(set(block)) < len(block):
            why = f"{both[0]!r} is a factor already" if both else "a column is named twice"
            raise InputFault(f"The block {name(block)!r} cannot be used: {why}.")
    if len({frozenset(block) for block in terms}) < len(terms):
        raise InputFault(f"A block is named twice: {', '.join(map(name, terms))}.")
    return tuple(terms)


def _interactions(
    interactions: str | Sequence[str], factors: Sequence[str], pair: tuple[str, str] | None
) -> tuple[Term, ...]:
    if interactions == "all":
        crossed: list[Term] = list(combinations(factors, 2))
    elif interactions == "none":
        crossed = []
    else:
        crossed = [_interaction(text, factors) for text in names(interactions)]
    if pair and not any(set(term) == set(pair) for term in crossed):
        crossed.append(pair)
    first = {frozenset(term): term for term in reversed(crossed)}
    return tuple(sorted((term for term in crossed if first[frozenset(term)] is term), key=len))


def _interaction(text: str, factors: Sequence[str]) -> Term:
    term = tuple(text.split(":"))
    strange = [column for column in term if column not in factors]
    if strange or len(term) < 2 or len(set(term)) < len(term):
        raise InputFault(
            f"The interaction {text!r} cannot be used: it must join different factors that are not nested with ':' "
            f"(factors: {', '.join(factors)}), or be 'none' or 'all'."
        )
    return term
