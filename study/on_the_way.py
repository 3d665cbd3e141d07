"""Scores of trials on their way through training, and which of them end there.

Pictures are drawn from the starts that the trial's final ones have, fewer of them where the study says so. Every random
stream is keyed by its purpose (`study.randomness`), so nothing here moves what is drawn later: a trial that goes on
ends with the numbers that it would have without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from study.canonical import canonical_json
from study.evaluation import judged
from study.mounting import Mounted, Ready
from study.pruning import Pruning
from study.scoring import AnyScorer, PredictedNoise
from study.training import Halts


class OnTheWay:
    """What becomes of the trials of a pack at the shares of their steps that their pruners name.

    Parameters
    ----------
    part : sequence of Ready
        The trials, of one protocol, learning rates aside; those without a `pruning` are let through.
    mounted : Mounted
        Them on the denoiser.
    scorers : mapping of str to scorer
    """

    def __init__(
        self, part: Sequence[Ready], mounted: Mounted, scorers: Mapping[str, AnyScorer | PredictedNoise]
    ) -> None:
        self._part, self._mounted, self._scorers = part, mounted, scorers
        self._pruning = {slot: each.trial.pruning for slot, each in enumerate(part) if each.trial.pruning}
        self._steps = {slot: own.steps(part[slot].trial.protocol.steps) for slot, own in self._pruning.items()}
        self._found: dict[int, dict[int, float]] = {slot: {} for slot in self._pruning}
        self._seconds = dict.fromkeys(self._pruning, 0.0)

    @property
    def halts(self) -> Halts | None:
        """Where the training of the pack halts; None: nowhere."""
        after = {step for own in self._steps.values() for step in own}
        return Halts(after, self._decide) if after else None

    def columns(self, slot: int, pruned: bool) -> dict[str, object]:
        """Return what a trial's row says of its way."""
        if slot not in self._pruning:
            return {}
        own = self._pruning[slot]
        told: dict[str, object] = {"eval_seconds": self._seconds[slot]}
        if found := self._found[slot]:
            told["intermediate_json"] = canonical_json(
                {"score": own.evidence.score, "pictures": self._pictures(slot, own), "values": found}
            )
        return {**told, "pruned_by": own.by} if pruned else told

    def _decide(self, done: int, sound: Sequence[int]) -> set[int]:
        """Score the slots whose pruner looks here, and return those that it ends."""
        alike: dict[tuple[str, int], list[int]] = {}
        for slot in sound:
            if done in self._steps.get(slot, {}):
                own = self._pruning[slot]
                alike.setdefault((own.evidence.score, self._pictures(slot, own)), []).append(slot)
        ended: set[int] = set()
        for (score, pictures), slots in alike.items():
            start = time.perf_counter()
            protocol = self._part[slots[0]].trial.protocol.model_copy(update={"pictures": pictures})
            evaluations = judged(self._part, slots, self._mounted, protocol, {score: self._scorers[score]})
            for slot, evaluation in zip(slots, evaluations, strict=True):
                value = evaluation.scores.get(score, math.nan)
                if not math.isfinite(value):  # nothing is known, so nothing is decided
                    continue
                found = self._found[slot]
                found[self._steps[slot][done]] = value
                if self._pruning[slot].prunes(found):
                    ended.add(slot)
            seconds = (time.perf_counter() - start) / len(slots)
            for slot in slots:
                self._seconds[slot] += seconds
        return ended

    def _pictures(self, slot: int, pruning: Pruning) -> int:
        return pruning.evidence.rule.drawn(self._part[slot].trial.protocol.pictures)
