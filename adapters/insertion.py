"""Put designs on a denoiser, train them, take them off.

Methods never see packing and edits never see methods; this file only brings them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from adapters.designs import method_of
from adapters.draws import Draws
from adapters.edits.edit import Edit, Rows
from adapters.faults import InputFault


class Insertion:
    """Designs that are on a denoiser, one a slot; made by `insert`.

    Attributes
    ----------
    designs
        The canonical design of every slot.
    """

    def __init__(self, denoiser: nn.Module, designs: Sequence[Mapping[str, Any]], seeds: Sequence[int]):
        methods = [method_of(design) for design in designs]
        self.designs = [method.to_design() for method in methods]
        if len(methods) > 1 and any(method.alone for method in methods):
            alone = next(method.to_design()["method"] for method in methods if method.alone)
            raise InputFault(f"method={alone} changes the denoiser itself: insert it alone, not among {len(methods)}")
        compiled = [method.edits(denoiser) for method in methods]
        self._rows = Rows(len(methods))
        self._edits: list[Edit] = []
        self._slots: list[dict[str, nn.Parameter]] = []
        try:
            for slot, (edits, seed) in enumerate(zip(compiled, seeds, strict=True)):
                trained: dict[str, nn.Parameter] = {}
                for edit in edits:
                    self._edits.append(edit)
                    trained.update(edit.attach(slot, self._rows, Draws(seed)))
                self._slots.append(trained)
        except BaseException:
            self.remove()
            raise

    def parameters(self, slot: int = 0) -> list[nn.Parameter]:
        """Give the trained parameters of a slot, each once."""
        return list(self._slots[slot].values())

    def named_parameters(self, slot: int = 0) -> list[tuple[str, nn.Parameter]]:
        """Give the trained parameters of a slot with their names."""
        return list(self._slots[slot].items())

    def state(self, slot: int = 0) -> dict[str, Tensor]:
        """Copy the parameters of a slot to the CPU."""
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in self._slots[slot].items()}

    def load(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Copy a state into a slot.

        Raises
        ------
        InputFault
            When names or shapes differ from the slot's; nothing is changed then.
        """
        check_shapes(
            {name: tuple(value.shape) for name, value in self._slots[slot].items()},
            {name: tuple(value.shape) for name, value in state.items()},
        )
        with torch.no_grad():
            for name, parameter in self._slots[slot].items():
                parameter.copy_(state[name])

    def rows(self, slot_of_row: Tensor | Sequence[int]) -> AbstractContextManager[None]:
        """Say, for as long as the context lasts, which slot every row of the batch belongs to.

        Parameters
        ----------
        slot_of_row
            One slot number for each row the denoiser is given, guidance and prior rows included. A batch of another
            length raises InputFault. With one slot it need not be said.
        """
        return self._rows.declared(slot_of_row)

    def remove(self) -> None:
        """Take everything off; the denoiser then computes what it did before, bit for bit. Can be called again."""
        while self._edits:
            self._edits.pop().detach()


def insert(
    denoiser: nn.Module,
    designs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    generators: Generator | Sequence[Generator] | None = None,
) -> Insertion:
    """Put one design, or a pack of several, on a denoiser.

    The denoiser is not frozen by this; freeze it (``denoiser.requires_grad_(False)``) to save the gradients that no
    optimiser uses. Move it to its device before: adapters are made where their block is.

    Parameters
    ----------
    denoiser
        The module to change.
    designs
        A design, or one a slot.
    generators
        Give the seeds of the initial values: one for all slots, or one a slot. None takes ``torch.initial_seed()``.
        Only their initial seed is used; they are not advanced.

    Returns
    -------
    Insertion

    Raises
    ------
    InputFault
        For a design that is wrong or does not fit the denoiser, or a number of generators that does not match.
    """
    pack = [designs] if isinstance(designs, Mapping) else list(designs)
    if not pack:
        raise InputFault("no design was given; give one, or a list of at least one")
    if generators is None:
        seeds = [torch.initial_seed()] * len(pack)
    elif isinstance(generators, Generator):
        seeds = [generators.initial_seed()] * len(pack)
    else:
        seeds = [generator.initial_seed() for generator in generators]
    if len(seeds) != len(pack):
        raise InputFault(f"{len(seeds)} generators for {len(pack)} designs; give one, or one a design")
    return Insertion(denoiser, pack, seeds)


def check_shapes(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputFault, naming the first difference, when two sets of named shapes differ."""
    missing, extra = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    if missing or extra:
        raise InputFault(
            f"the weights do not belong to this design on this backbone: {len(missing)} are missing "
            f"({', '.join(missing[:3]) or 'none'}), {len(extra)} are unknown ({', '.join(extra[:3]) or 'none'})"
        )
    for name, shape in expected.items():
        if got[name] != shape:
            raise InputFault(
                f"{name} has shape {got[name]}, but this design on this backbone needs {shape}; "
                "load it on the backbone it was trained on"
            )
