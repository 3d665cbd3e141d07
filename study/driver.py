"""Drives trials to their rows: submits packs, tries lost trials again, and leaves to other drivers what they are at."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from study import plan
from study.atomic import look_anew
from study.claims import Claims
from study.config import StudyConfig
from study.executors.local import State
from study.outcome import Executor
from study.process import Judge, Process
from study.store import Store
from study.trial import Pack, Trial, TrialResult

TRIES = 3
"""How often a trial is started before a worker's death counts as its failure."""

PAUSE = 2.0
"""Seconds between two looks at what others are at."""


@dataclass
class Driver:
    """Drives the trials of one run.

    Parameters
    ----------
    config, store, executor
    listen : callable
        Called with an event for each trial that got its row elsewhere.
    together : int, optional
        As `Pack.together`.
    take_over : bool
        As `Pack.take_over`.
    """

    config: StudyConfig
    store: Store
    executor: Executor
    listen: Callable[[dict[str, Any]], None] = lambda event: None
    together: int | None = None
    take_over: bool = False
    _tries: Counter[str] = field(default_factory=Counter, init=False)
    _running: dict[str, Pack] = field(default_factory=dict, init=False)
    _others: dict[str, tuple[Trial, int]] = field(default_factory=dict, init=False)
    _left: dict[str, tuple[Trial, Process]] = field(default_factory=dict, init=False)

    def drive(self, wanted: Sequence[Trial], attempts: Mapping[str, int]) -> None:
        """Run trials to their rows; those of a worker that died are tried again, each in a pack of its own.

        Packs that an earlier driver submitted are taken over, where they still wait or run. What other drivers are at
        is waited for; it is run here if they die, and left to them if it cannot be told here whether they live.
        """
        missing = {trial.id: trial for trial in wanted}
        for handle, pack in self.executor.running().items():
            own = [trial for trial in pack.trials if trial.id in missing]
            if own and all(pack.attempts[trial.id] == attempts.get(trial.id, 0) + 1 for trial in own):
                self._running[handle] = pack
                for trial in own:
                    self._tries[trial.id] += 1
                    del missing[trial.id]
        self._submit(list(missing.values()), attempts)
        while self._running or self._others:
            for handle, state in self.executor.poll().items():
                if state.name in ("done", "lost") and handle in self._running:
                    self._ended(self._running.pop(handle), state)
                    self.store.tidy()
            if not self._running:
                self._look_at_others()

    def elsewhere(self) -> list[str]:
        """Say which processes were left trials to."""
        counts = Counter(str(process) for _, process in self._left.values())
        return [
            f"{count} trial{'s are' if count > 1 else ' is'} left to {holder}: it cannot be told from here whether it "
            "still runs. If it does not, --take-over runs them here"
            for holder, count in counts.items()
        ]

    def _submit(self, trials: Sequence[Trial], attempts: Mapping[str, int]) -> None:
        self._start(plan.packs(self.config, trials, attempts, self._folder, self.executor.slots, self.together))

    def _start(self, packs: Sequence[Pack]) -> None:
        packs = [replace(pack, take_over=self.take_over) for pack in packs]
        self._tries.update(trial.id for pack in packs for trial in pack.trials)
        self._running.update(zip(self.executor.submit(packs), packs, strict=True))

    @property
    def _folder(self) -> str:
        return str(self.store.folder.resolve())

    def _ended(self, pack: Pack, state: State) -> None:
        self.store.look_anew()
        left = [trial for trial in pack.trials if not self.store.has(trial.id, pack.attempts[trial.id])]
        claims, judge = Claims(self.store.claims), Judge()
        lost = []
        for trial in left:
            attempt = pack.attempts[trial.id]
            holder = claims.holder(trial.id, attempt)
            if state.name == "done" or (holder is not None and judge.alive(holder) is not False):
                self._others[trial.id] = trial, attempt
                continue
            if holder is not None:
                claims.free(holder)
            lost.append(trial)
        count = len(pack.trials)
        self._again(lost, pack.attempts, state, pack.asked or min(count, pack.together or count))

    def _again(self, trials: Sequence[Trial], attempts: Mapping[str, int], state: State, asked: int) -> None:
        """Try lost trials again, each in a pack of its own, unless they were tried often enough."""
        earlier = {trial.id: attempts[trial.id] - 1 for trial in trials}
        packs: list[Pack] = []
        for trial in trials:
            if self._tries[trial.id] < TRIES:
                packs += plan.packs(self.config, [trial], earlier, self._folder, together=self.together)
                continue
            log = str(state.log.relative_to(self.store.folder)) if state.log is not None else ""
            status = "out_of_memory" if state.memory else "failed"
            failed = TrialResult(trial, status, f"tried {TRIES} times; {state.reason}", columns={"log": log})
            self.store.commit(failed, self.config.name, attempts[trial.id])
            Claims(self.store.claims).release(trial.id, attempts[trial.id])
        self._start([replace(pack, asked=asked) for pack in packs])

    def _look_at_others(self) -> None:
        """Find out what became of the trials that others were at; wait a little if nothing did."""
        if not self._others:
            return
        self.store.look_anew()
        look_anew(self.store.claims)
        claims, judge = Claims(self.store.claims), Judge()
        free: list[tuple[Trial, int]] = []
        left = len(self._others)
        for id, (trial, attempt) in list(self._others.items()):
            if self.store.has(id, attempt):
                self.listen({"event": "result", "trial": id, "status": "run elsewhere", "scores": {}})
            elif (holder := claims.holder(id, attempt)) is None:
                free.append((trial, attempt))
            elif (alive := judge.alive(holder)) is None and not self.take_over:
                self._left[id] = trial, holder
            elif not alive:
                if alive is False:
                    claims.free(holder)  # a worker may not be able to tell
                free.append((trial, attempt))
            else:
                continue
            del self._others[id]
        attempts = {trial.id: attempt for trial, attempt in free}
        fresh = [trial for trial, _ in free if self._tries[trial.id] < TRIES]
        self._submit(fresh, {id: attempt - 1 for id, attempt in attempts.items()})
        spent = [trial for trial, _ in free if trial not in fresh]
        self._again(spent, attempts, State("lost", reason="every process that was at it ended without a row"), 1)
        if len(self._others) == left:
            time.sleep(PAUSE)
