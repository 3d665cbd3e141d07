"""The strategy `subset`: the valid designs of which so many tell most about the factors (D-optimal).

The choice is a function of the set of valid designs, the size, the interactions and the seed: not of the order in which
factors or levels are declared, nor of the machine, because candidates stand in the order of their hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters.faults import InputFault
from study.canonical import digest
from study.space import PAIR, Design, text
from study.strategies.strategy import Chosen

if TYPE_CHECKING:
    import pandas as pd

    from study.space import Space

CANDIDATES = 10_000
"""Valid designs that a subset is chosen from, at most; of more, those with the lowest hashes: as a random sample."""

STARTS = 5
"""Random starts of the search, which is made anew whenever a study is loaded."""

QUICK = 200
"""Designs up to which a search makes all of its starts; for more, fewer in proportion, but one at least."""


@dataclass(frozen=True)
class Subset:
    """A D-optimal subset.

    Attributes
    ----------
    size : int
        How many designs.
    interactions : "none", "all" or tuple of str
        Those that the subset can tell apart, as `activation:scale`, besides the factors' own effects and the pair of
        input and output, which the analysis of a study takes as one factor.
    seed : int
        Of the search, which ends in a local optimum; and of the designs drawn from a space too large to go through.
    """

    size: int
    interactions: str | tuple[str, ...] = "none"
    seed: int = 0

    def faults(self, space: Space) -> Iterator[tuple[str, str]]:
        """Yield what keeps it from choosing: the key of the section `strategy` to blame, and a message."""
        from analysis.declared import declared

        valid = len(space.valid)
        if self.size > valid:
            of = "valid designs" if space.complete else f"valid designs were found in {space.looked_at} drawn at random"
            yield "size", f"got {self.size}, but there are only {valid} {of}; ask for fewer"
            return
        if self.size > CANDIDATES:
            yield "size", f"got {self.size}, but a subset is chosen from {CANDIDATES} designs at most; ask for fewer"
            return
        model = Model.of(space, space.valid)
        if not model.factors:
            return
        try:
            declared(model.factors, (), self.interactions, model.pair, model.nested)
        except InputFault as fault:
            yield "interactions", str(fault)
            return
        try:
            space.designs  # noqa: B018 - the choice is kept, or refused
        except InputFault as fault:
            yield "size", str(fault)

    def choose(self, space: Space) -> Chosen:
        """Choose among the valid designs.

        Raises
        ------
        InputFault
            If the size is less than the parameters of the model, or an interaction is none of the factors'.
        """
        from analysis.optimal import subset

        hashed = {digest(design): design for design in space.valid}
        keys = sorted(hashed)[:CANDIDATES]
        candidates = [hashed[key] for key in keys]
        model = Model.of(space, candidates)
        if not model.factors:
            return Chosen(space.valid, ["One design is valid, so there is nothing to choose."])
        starts = max(1, STARTS * QUICK // max(QUICK, self.size))
        found = subset(
            model.frame(candidates, space.valid), self.size, model.factors, self.interactions, starts, self.seed,
            model.nested, model.pair,
        )  # fmt: skip
        taken = {keys[place] for place in found.rows.index}
        told = [*_told(space, candidates), *found.explain().splitlines()]
        return Chosen([design for key, design in hashed.items() if key in taken], told)


@dataclass(frozen=True)
class Model:
    """The factors of designs as `analysis` takes them.

    Attributes
    ----------
    factors : tuple of str
        Those declared that take several levels among the designs.
    nested : dict of str to str
        Those that some designs lack, and the factor of all designs that they exist under levels of.
    pair : (str, str) or None
        Input and output, where every design has both and both vary.
    """

    factors: tuple[str, ...]
    nested: dict[str, str]
    pair: tuple[str, str] | None

    @classmethod
    def of(cls, space: Space, designs: Sequence[Design]) -> Model:
        """Return the model of some designs of a space."""
        factors = tuple(space.varying_in(designs))
        whole = {name for name in factors if all(name in design for design in designs)}

        def above(name: str) -> set[str]:
            """The factors of all designs, nearest to a factor, that it is nested in, over several steps if need be."""
            parents = {factor.when[0] for factor in space.factors if factor.name == name and factor.when}
            return {found for parent in parents for found in ({parent} if parent in whole else above(parent))}

        parents = {name: above(name) for name in factors if name not in whole}
        nested = {name: found.pop() for name, found in parents.items() if len(found) == 1}
        return cls(factors, nested, PAIR if set(PAIR) <= whole else None)

    def frame(self, designs: Sequence[Design], known: Sequence[Design]) -> pd.DataFrame:
        """Return a row a design, of levels as text; where a factor is nested in several others, absence is a level.

        Parameters
        ----------
        known : sequence of dict
            Designs in whose order the levels stand in what is told.
        """
        import pandas as pd

        from analysis.sample import ABSENT

        columns = {}
        for name in self.factors:
            lacking = None if name in self.nested else ABSENT
            levels, found = (
                [text(design[name]) if name in design else lacking for design in some] for some in (known, designs)
            )
            order = dict.fromkeys(level for level in levels if level is not None)
            columns[name] = pd.Categorical(found, categories=list(order))
        return pd.DataFrame(columns)


def _told(space: Space, candidates: list[Design]) -> Iterator[str]:
    """Yield what the candidates are, where they are not all valid designs."""
    if not space.complete:
        yield (
            f"The {len(space.valid)} candidates are the different valid designs among {space.looked_at} drawn at "
            f"random from the {space.size} combinations of levels, which are too many to go through."
        )
    elif len(candidates) < len(space.valid):
        yield (
            f"The {len(candidates)} candidates are those of the {len(space.valid)} valid designs with the lowest "
            "hashes, which are as a random sample."
        )
        for name in space.varying_in(space.valid):
            every, kept = (
                dict.fromkeys(text(design[name]) for design in some if name in design)
                for some in (space.valid, candidates)
            )
            lost = [level for level in every if level not in kept]
            if lost:
                yield f"No candidate has {name}={'|'.join(lost)}, so it is not run."
