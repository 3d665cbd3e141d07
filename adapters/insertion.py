"""Put designs on a denoiser, train them, take them off.

Methods never see packing and edits never see methods; this file only brings them together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from adapters.designs import edits_of, method_of, tunes_text
from adapters.draws import Draws
from adapters.edits.delta import Delta
from adapters.edits.edit import Edit
from adapters.edits.rows import Rows
from adapters.edits.stack import Stack
from adapters.edits.tokens import SequenceTokens
from adapters.faults import InputFault
from adapters.layers import TEXT_ENCODER


class Insertion:
    """Designs that are on a denoiser, one a slot; made by `insert`.

    Attributes
    ----------
    designs
        The canonical design of every slot.
    tunes_text
        Whether the text encoder is tuned too, so that texts must be embedded anew after each step.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        designs: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        text_encoder: nn.Module | None = None,
    ):
        methods = [method_of(design) for design in designs]
        self.designs = [method.to_design() for method in methods]
        if len(methods) > 1 and any(method.alone for method in methods):
            alone = next(method.to_design()["method"] for method in methods if method.alone)
            raise InputFault(f"method={alone} changes the denoiser itself: insert it alone, not among {len(methods)}")
        compiled = [edits_of(method, denoiser, text_encoder) for method in methods]
        for edits in compiled:
            for edit in edits:
                edit.shapes()  # what does not fit is refused here, before anything is changed
        self.tunes_text = any(map(tunes_text, methods))
        self._parts = denoiser, text_encoder
        self._rows = Rows(len(methods))
        self._edits: list[tuple[int, Edit]] = []
        self._slots: list[dict[str, nn.Parameter]] = []
        try:
            for slot, (edits, seed) in enumerate(zip(compiled, seeds, strict=True)):
                trained: dict[str, nn.Parameter] = {}
                for edit in edits:
                    self._edits.append((slot, edit))
                    trained.update(edit.start(Draws(seed)))
                self._slots.append(trained)
            for alike in self._stacks():
                slots, stacked = zip(*alike, strict=True)
                stacked[0].attach(Stack(self._rows, slots, [edit.parameters for edit in stacked]))
        except BaseException:
            self.remove()
            raise
        self._regularised = [(s, edit) for s, edit in self._edits if isinstance(edit, Delta) and edit.regularised]

    def _stacks(self) -> Iterable[list[tuple[int, Edit]]]:
        """Group the edits that are alike, in the order of the first of each; what others must be within comes last."""
        groups: dict[Hashable, list[tuple[int, Edit]]] = {}
        for slot, edit in self._edits:
            groups.setdefault((type(edit), edit.like), []).append((slot, edit))
        return sorted(groups.values(), key=lambda alike: _blocks_spanned(alike[0][1]))

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

    def penalty(self, slot: int = 0) -> Tensor | None:
        """Give what a slot's method adds to the training loss, as TLoRA's regulariser does; None for most."""
        terms = [edit.penalty() for owner, edit in self._regularised if owner == slot]
        return torch.stack(terms).sum() if terms else None

    def merged(self, slot: int = 0) -> dict[str, Tensor]:
        """Give the denoiser's weights with a slot's edits merged in: those that change, by full name.

        A denoiser with these weights and without the insertion computes what the slot's rows compute now. Weights of
        the text encoder have names that begin with ``text_encoder.``.

        Raises
        ------
        InputFault
            For a method that is no change of weights: a position adapter, prompt tokens.
        """
        weights = _Merged(dict(named_weights(*self._parts)))
        with torch.no_grad():
            for owner, edit in self._edits:
                if owner == slot:
                    edit.merge(weights)
        return weights.changed

    def remove(self) -> None:
        """Take everything off; the denoiser then computes what it did before, bit for bit. Can be called again."""
        while self._edits:
            self._edits.pop()[1].detach()
        self._regularised = []


def _blocks_spanned(edit: Edit) -> int:
    return len(edit.modules) if isinstance(edit, SequenceTokens) else 0


def named_weights(denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Iterator[tuple[str, Tensor]]:
    """Give the weights of a denoiser by name, then those of a text encoder, whose names begin with its own."""
    for name, parameter in denoiser.named_parameters():
        yield name, parameter.detach()
    if text_encoder is not None:
        for name, parameter in text_encoder.named_parameters():
            yield f"{TEXT_ENCODER}{name}", parameter.detach()


class _Merged(MutableMapping[str, Tensor]):
    """Named weights; what is set is kept in `changed`."""

    def __init__(self, own: Mapping[str, Tensor]):
        self._own = own
        self.changed: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.changed[name] if name in self.changed else self._own[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.changed[name] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("weights are merged, never deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def insert(
    denoiser: nn.Module,
    designs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    generators: Generator | Sequence[Generator] | None = None,
    text_encoder: nn.Module | None = None,
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
    text_encoder
        The pipeline's text encoder, for designs that tune it too (``text_encoder=true``).

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
    return Insertion(denoiser, pack, seeds, text_encoder)


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
