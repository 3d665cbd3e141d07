"""Checks what the factors of a study file mean, and builds their space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adapters.faults import InputFault
from study.backbones.names import Source, lacking
from study.columns import ROW
from study.faults import Faults, Path_
from study.space import ALL, Factor, Space, lacked, text
from study.strategies.factorial import Factorial


class SpaceCheck(Faults):
    """One pass over the sections that declare the space; the faults are with their lines in `faults`."""

    def run(self, given: dict[str, Any], backbones: Sequence[Source]) -> Space | None:
        """Return the space; None if a section it needs has faults of form, or the strategy cannot choose from it.

        Parameters
        ----------
        given : dict
            The sections whose form is right.
        """
        if not {"factors", "fixed", "nested", "forbid"} <= set(given):
            return None
        fixed: dict[str, Any] = given["fixed"]
        factors = self._factors(given)
        known = {name: [level] for name, level in fixed.items()}
        for factor in factors:
            known[factor.name] = [*known.get(factor.name, []), *factor.levels]
        for index, rule in enumerate(given["forbid"]):
            for name, wanted in rule.items():
                self._declared(name, wanted, known, ("forbid", index, name))
        if "method" not in known:
            self._fault(("fixed",), "no method: give one, for instance `fixed: {method: adapter}`")
            return None
        forbid = tuple({name: tuple(levels) for name, levels in rule.items()} for rule in given["forbid"])
        lacks = [lacking(source) for source in backbones]
        nowhere = {
            position: "; ".join(dict.fromkeys(each[position] for each in lacks))
            for position in (lacks[0] if lacks else ())
            if all(position in each for each in lacks)
        }
        space = Space(tuple(factors), fixed, forbid, given.get("strategy", Factorial()), nowhere)
        if "strategy" not in given and not space.complete:
            return None
        return self._sound(space, given, backbones, lacks)

    def _factors(self, given: dict[str, Any]) -> list[Factor]:
        """Return the factors that are declared, those under levels of others last."""
        fixed: dict[str, Any] = given["fixed"]
        factors = [
            factor for name, levels in given["factors"].items() if (factor := self._factor(name, levels, ("factors",)))
        ]
        for name in fixed:
            self._name(name, ("fixed", name))
            if name in given["factors"]:
                self._fault(("fixed", name), "is a factor too; keep one of the two")
        for index, nest in enumerate(given["nested"]):
            above: Path_ = ("nested", index)
            ((parent, under),) = nest.when.items()
            levels = [level for factor in factors if factor.name == parent for level in factor.levels]
            levels += [fixed[parent]] if parent in fixed else []
            if not levels:
                self._fault((*above, "when", parent), f"{parent} is no factor declared before")
            for place, level in enumerate(under if levels else ()):
                if text(level) not in map(text, levels):
                    told = f"got {text(level)!r}; its levels are {', '.join(map(text, levels))}"
                    self._fault(self._item((*above, "when", parent), place), told)
            for name, declared in nest.factors.items():
                if name in given["factors"] or name in fixed:
                    self._fault((*above, "factors", name), "is declared outside `nested` too; keep one of the two")
                for other in factors:
                    both = [level for level in under if other.name == name and other.exists_in({parent: level})]
                    if both and other.when:
                        self._fault((*above, "factors", name), f"is nested under {parent}={text(both[0])} twice")
                factor = self._factor(name, declared, (*above, "factors"), (parent, tuple(under)))
                if factor:
                    factors.append(factor)
        return factors

    def _sound(
        self, space: Space, given: dict[str, Any], backbones: Sequence[Source], lacks: Sequence[dict[str, str]]
    ) -> Space | None:
        """Check the designs, what the strategy takes of them, and that each backbone has some."""
        before = len(self.faults)
        try:
            found = space.faults
        except InputFault as too_large:
            self._fault(("factors",), str(too_large))
            return None
        for fault in found:
            self._fault(self._place(fault.name, fault.level, given), fault.message)
        if not space.valid and not before and not found:
            every = "every cell" if space.complete else f"every one of {space.looked_at} cells drawn at random"
            self._fault(("factors",), f"{every} is forbidden ({'; '.join(space.left_out)}); nothing is left to run")
        if found or not space.valid:
            return space
        refused = list(space.strategy.faults(space))
        for key, message in refused:
            self._fault(("strategy", key), message)
        if refused:
            return None
        for index, (source, lack) in enumerate(zip(backbones, lacks, strict=True)):
            reasons = dict.fromkeys(lacked(design, lack) for design in space.designs)
            if None not in reasons:
                told = f"nothing is left to run on {source.name}: {'; '.join(map(str, reasons))}; leave it out"
                self._fault(self._item(("backbone",), index), told)
        return space

    def _factor(
        self, name: str, levels: Any, above: Path_, when: tuple[str, tuple[Any, ...]] | None = None
    ) -> Factor | None:
        path = (*above, name)
        if not self._name(name, path):
            return None
        if levels == "all":
            if name not in ALL:
                self._fault(path, f"`all` stands for the levels of {', '.join(ALL)} only; list the levels")
                return None
            levels = ALL[name]
        self._once(map(text, levels), path)
        return Factor(name, tuple({text(level): level for level in levels}.values()), when)

    def _name(self, name: str, path: Path_) -> bool:
        if name == "backbone":
            self._fault(path, "to vary the backbone, give a list under the section `backbone`")
        elif name in ROW:
            self._fault(path, f"{name!r} is a column of the store and cannot be a factor")
        return name not in ROW

    def _declared(self, name: str, wanted: Iterable[Any], known: dict[str, list[Any]], path: Path_) -> None:
        if name not in known:
            self._fault(path, f"is no factor of this study; the factors are {', '.join(known)}")
            return
        for level in wanted:
            if text(level) not in map(text, known[name]):
                self._fault(path, f"got {text(level)!r}, but its levels are {', '.join(map(text, known[name]))}")

    def _place(self, name: str | None, level: Any, given: dict[str, Any]) -> Path_:
        """Find where a level was declared."""
        if name is None:
            return ("factors",)
        if name in given["fixed"]:
            return ("fixed", name)
        places: list[tuple[Path_, Any]] = [(("factors", name), given["factors"].get(name))]
        places += [(("nested", index, "factors", name), n.factors.get(name)) for index, n in enumerate(given["nested"])]
        for path, levels in places:
            if isinstance(levels, list) and text(level) in map(text, levels):
                return (*path, [text(item) for item in levels].index(text(level)))
        return places[0][0]
