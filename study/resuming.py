"""Trials that are trained together go on from their checkpoints, and are written to them now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from study.checkpoints import Checkpoints, Notice, State
from study.mounting import Ready
from study.store import Store
from study.training import Slot
from study.trial import Pack, Trial
from study.updates import ScaledUpdates, Updates

log = logging.getLogger(__name__)


class Resuming:
    """The checkpoints of the trials of a pack; there are none if the pack asks for none.

    Parameters
    ----------
    made_with : as `Checkpoints.write`.
    """

    def __init__(self, pack: Pack, notice: Notice, made_with: Mapping[str, str]) -> None:
        self._pack, self._notice, self._made_with = pack, notice, made_with
        self._checkpoints = Store(Path(pack.store)).checkpoints

    def step(self, trial: Trial) -> int:
        """Return the step at which a trial goes on, as its checkpoint says; 0 if it begins."""
        return self._checkpoints.step(trial.id, self._attempt(trial)) if self._kept(trial) else 0

    def read(self, part: Sequence[Ready]) -> list[State | None]:
        """Read where earlier processes left trials; None of those that begin."""
        trials = [each.trial for each in part]
        return [
            self._checkpoints.read(trial, self._attempt(trial), self._made_with) if self._kept(trial) else None
            for trial in trials
        ]

    def keeper(
        self, part: Sequence[Ready], states: Sequence[State | None], parameters: Sequence[Sequence[nn.Parameter]]
    ) -> Keeper | None:
        """Return what has trials go on from their states, all of one step; None if one of them keeps none."""
        every = self._pack.checkpoint
        if not every or not all(self._kept(each.trial) for each in part):
            return None
        for each, state, own in zip(part, states, parameters, strict=True):
            if state is not None and not state.fits(own):
                log.warning("%s begins anew: its checkpoint has other parameters", each.trial.label())
                states = [None] * len(part)
                break
        trials = [(each.trial, self._attempt(each.trial)) for each in part]
        return Keeper(self._checkpoints, trials, states, every, self._notice, self._made_with)

    def _kept(self, trial: Trial) -> bool:
        """Say whether a trial has checkpoints: not if it may be pruned, as they do not hold its scores on the way."""
        return bool(self._pack.checkpoint) and trial.pruning is None

    def _attempt(self, trial: Trial) -> int:
        return self._pack.attempts.get(trial.id, 1)


def by_step(part: Sequence[Ready], states: Sequence[State | None]) -> list[list[Ready]]:
    """Part trials by the step at which they go on."""
    found: dict[int, list[Ready]] = {}
    for each, state in zip(part, states, strict=True):
        found.setdefault(0 if state is None else state.step, []).append(each)
    return list(found.values())


class Keeper:
    """Writes the states of trials that are trained together, every so many seconds, and has them go on from there.

    Parameters
    ----------
    states : of the trials, all at the same step, or all None.
    every : seconds between two checkpoints.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        trials: Sequence[tuple[Trial, int]],
        states: Sequence[State | None],
        every: float,
        notice: Notice,
        made_with: Mapping[str, str],
    ) -> None:
        self.begin = states[0].step if states and states[0] is not None else 0
        self.seconds = [0.0 if state is None else state.seconds for state in states]
        self._checkpoints, self._trials, self._made_with = checkpoints, trials, made_with
        self._states: Sequence[State | None] = states
        self._every, self._notice = every, notice

    def restore(self, slots: Sequence[Slot], updates: Updates | ScaledUpdates, losses: Tensor) -> None:
        """Bring slots to where they were; see `study.training.Keeper`."""
        self._slots, self._updates, self._losses = slots, updates, losses
        for place, (slot, state) in enumerate(zip(slots, self._states, strict=True)):
            if state is None or not slot.every:
                continue
            losses[: state.step, place] = state.losses.to(losses)
            optimiser, scaler = updates.of(place), updates.scaler(place)
            for parameter, value, moments in zip(slot.every, state.parameters, state.moments, strict=True):
                with torch.no_grad():
                    parameter.copy_(value)
                if moments:
                    optimiser.state[parameter] = {name: each.to(parameter.device) for name, each in moments.items()}
            if scaler is not None and state.scale:
                scaler.load_state_dict(state.scale)
        self._states = ()  # their memory is wanted
        self._start = self._last = time.monotonic()

    def look(self, done: int, active: Sequence[int]) -> None:
        """Write the states of the active slots if it is time to, or if the process is about to be ended."""
        now = time.monotonic()
        if not self._notice.heard and now - self._last < self._every:
            return
        spent = (now - self._start) / max(1, sum(bool(slot.every) for slot in self._slots))
        seen = self._losses[:done].isfinite().all(0).tolist()
        for place in [place for place in active if seen[place]]:
            trial, attempt = self._trials[place]
            self._checkpoints.write(trial, attempt, self._state(place, done, spent), self._made_with)
        log.info("checkpoints of %d trials after step %d", len(active), done)
        self._last = time.monotonic()
        if self._notice.heard:
            self._notice.answer()

    def _state(self, place: int, done: int, spent: float) -> State:
        slot, optimiser, scaler = self._slots[place], self._updates.of(place), self._updates.scaler(place)
        return State(
            done,
            self.seconds[place] + spent,
            self._losses[:done, place],
            slot.every,
            [optimiser.state.get(parameter, {}) for parameter in slot.every],
            scaler.state_dict() if scaler is not None else None,
        )
