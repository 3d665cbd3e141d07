"""Pruning: whether a trial ends on its way, which a pruner of Optuna's decides from what earlier trials scored there.

What it decides from is fixed when the trial is planned: the intermediate scores of the designs of earlier generations,
on the same task with the same seed. Trials that run beside it say nothing, so the decision is the same whatever the
pack, the executor and the order in which they end. A share of the training steps is Optuna's step, in percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from study.canonical import digest

if TYPE_CHECKING:
    import optuna

Kind = Literal["median", "percentile", "successive_halving", "hyperband"]
WHOLE = 100
"""The step of a trial at its end."""

DEFAULTS: Mapping[Kind, Mapping[str, int]] = {
    "median": {"startup_trials": 5},
    "percentile": {"startup_trials": 5},
    "successive_halving": {"reduction_factor": 4},
    "hyperband": {"reduction_factor": 3},
}
"""What each pruner takes besides, and Optuna's own values."""


@dataclass(frozen=True)
class Rule:
    """What a study declares as its pruner.

    Attributes
    ----------
    kind : {"median", "percentile", "successive_halving", "hyperband"}
    at : tuple of int
        Percent of the training steps at which a trial is scored, ascending, none of them the end.
    pictures : int or None
        Drawn for such a score, the first of those drawn at the end; None: all of them.
    startup_trials : int
        Of median and percentile: complete trials that there must be before one is pruned.
    percentile : float
        Of percentile: a trial is pruned when its best score so far is not among the best so many percent.
    reduction_factor : int
        Of the others: one trial in so many goes on at each of the shares.
    """

    kind: Kind
    at: tuple[int, ...]
    pictures: int | None = None
    startup_trials: int = 0
    percentile: float = 50.0
    reduction_factor: int = 2

    def make(self) -> optuna.pruners.BasePruner:
        """Return Optuna's pruner."""
        from optuna.pruners import HyperbandPruner, MedianPruner, PercentilePruner, SuccessiveHalvingPruner

        if self.kind == "median":
            return MedianPruner(self.startup_trials)
        if self.kind == "percentile":
            return PercentilePruner(self.percentile, self.startup_trials)
        if self.kind == "successive_halving":
            return SuccessiveHalvingPruner(self.at[0], self.reduction_factor)
        return HyperbandPruner(self.at[0], WHOLE, self.reduction_factor)

    def drawn(self, pictures: int) -> int:
        """Return how many pictures are drawn on the way, of a trial that has so many at its end."""
        return min(pictures, self.pictures or pictures)

    @property
    def wants(self) -> int:
        """How many earlier trials there must be before any can be pruned."""
        return max(1, self.startup_trials)

    def __str__(self) -> str:
        """Return it as people say it: median at 25 %, 50 % of the steps."""
        return f"{self.kind.replace('_', ' ')} at {', '.join(f'{percent} %' for percent in self.at)} of the steps"


@dataclass(frozen=True)
class Past:
    """What is known of an earlier trial.

    Attributes
    ----------
    state : {"done", "diverged", "pruned"}
        One whose score cannot be computed at its end counts as diverged.
    value : float or None
        Its score at the end; None unless done.
    scores : tuple of (int, float)
        Percent of its steps, ascending, and the score there; none of a trial that nobody scored on its way.
    """

    state: str
    value: float | None = None
    scores: tuple[tuple[int, float], ...] = ()

    @property
    def pruned(self) -> bool:
        """Whether it was ended on its way."""
        return self.state == "pruned"


@dataclass(frozen=True)
class Evidence:
    """What the trials of one generation are judged from.

    Attributes
    ----------
    rule : Rule
    score : str
        The score that decides.
    higher : bool
        Whether higher is better.
    past : tuple of Past
        The earlier trials, in the order in which they were planned.
    """

    rule: Rule
    score: str
    higher: bool
    past: tuple[Past, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evidence:
        """Return what `to_json` wrote."""
        rule = Rule(**{**data["rule"], "at": tuple(data["rule"]["at"])})
        past = (Past(p["state"], p["value"], tuple((at, value) for at, value in p["scores"])) for p in data["past"])
        return cls(rule, data["score"], data["higher"], tuple(past))


@dataclass(frozen=True)
class Pruning:
    """How one trial may be pruned.

    Attributes
    ----------
    evidence : Evidence
    place : int
        Which of its generation's trials it is, from 0; Hyperband puts trials into brackets by number.
    """

    evidence: Evidence
    place: int

    @property
    def by(self) -> str:
        """What a row says of the decision that made it: a trial is pruned for those who would have decided the same."""
        return digest([self.evidence.digest, self.place])

    def steps(self, steps: int) -> dict[int, int]:
        """Return after which training steps of so many it is scored, and the percent that each stands for.

        A share that comes to no step, or to all of them, is left out; of several that come to one, the last counts.
        """
        found = {steps * percent // WHOLE: percent for percent in self.evidence.rule.at}
        return {step: percent for step, percent in found.items() if 0 < step < steps}

    def prunes(self, scores: Mapping[int, float]) -> bool:
        """Say whether the trial ends here.

        Parameters
        ----------
        scores : mapping of int to float
            Its scores so far by percent of its steps; none is NaN.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        from analysis.hyper_importance import quiet

        with quiet():
            study = optuna.create_study(
                study_name="adapter-study",  # which Hyperband takes brackets from, besides the number
                direction="maximize" if self.evidence.higher else "minimize",
                sampler=optuna.samplers.RandomSampler(0),
                pruner=self.evidence.rule.make(),
            )
            for past in self.evidence.past:
                _replay(study, past)
            study.add_trials([create_trial(state=TrialState.FAIL)] * self.place)  # only their numbers count
            trial = study.ask()
            told = False
            for percent in sorted(scores):
                trial.report(scores[percent], percent)
                told = trial.should_prune()
            return told


def _replay(study: optuna.Study, past: Past) -> None:
    """Tell a study of an earlier trial; the pruner is asked again, as some note with the trial how far it came."""
    from optuna.trial import TrialState

    trial = study.ask()
    for percent, score in past.scores:
        trial.report(score, percent)
        trial.should_prune()
    if past.state == "done":
        study.tell(trial, past.value)
    else:
        study.tell(trial, state=TrialState.PRUNED if past.state == "pruned" else TrialState.FAIL)
