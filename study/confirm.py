"""Confirming a recipe: trials that compare it with other methods on tasks that nothing used, and what they say.

The trials are ordinary ones, in the study's own store, with the role `confirm`. Methods of a chosen size get the
recipe's budget, the others have their own; all are trained under the recipe's protocol, each at a learning rate that
was tuned for it or declared. torch is imported only to count a recipe that has no budget.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.faults import InputFault
from study import plan, tuning
from study import recipe as recipes
from study.backbones.names import content_hash
from study.canonical import canonical_json, digest
from study.columns import higher_is_better
from study.config import Protocol
from study.confirm_checks import FULL
from study.confirm_entrants import DECLARED, Entrant, backbone_of, but_size, changed, designs_of, entrants_of
from study.outcome import Executor, Outcome
from study.progress import duration
from study.strategies.factorial import Factorial
from study.study import Study
from study.trial import STATUSES, Trial, design_words
from study.yaml_lines import read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from analysis.confirmation_result import Confirmation

ROLE = "confirm"
COMPARED = "compared"
"""The column of the results that says which of the compared a trial is of."""
WANTED = 6
"""Tasks below which a confirmation is worth little."""
_SHOWN = 4


class Confirming:
    """The confirmation of one recipe by a study.

    Parameters
    ----------
    study : Study
        With the section `confirm`.
    recipe : str or Path
        A recipe file, or a shipped recipe by name.

    Attributes
    ----------
    evidence : dict
        What the recipe file says of itself.
    left_out : tuple of str
        Methods that the recipe is itself.

    Raises
    ------
    InputFault
        If the study has no such section, the recipe is wrong or for another backbone, a learning rate is missing, or
        the store has trials of the study or its tuning on a task that is to be unused.
    """

    def __init__(self, study: Study, recipe: str | Path) -> None:
        if study.config.confirm is None:
            raise InputFault(
                f"{study.config.name} has no section `confirm`; add one with subjects that nothing else uses, such as "
                "`confirm: {tasks: [subject/kite, …], seeds: 2, margin: 0.02}`"
            )
        self.study, self.section = study, study.config.confirm
        file = recipes.find(recipe)
        self.recipe = recipes.read(file)
        self.evidence: dict[str, Any] = read_yaml(file)[0].get("evidence") or {}
        self.backbone = backbone_of(study, self.recipe)
        self.name = self.recipe.name if self.recipe.name not in self.section.against else f"recipe {self.recipe.name}"
        designs = designs_of(self.recipe, self.backbone, self.section)
        itself = but_size(self.recipe.design)
        self.left_out = tuple(name for name, design in designs.items() if but_size(design) == itself)
        others = {name: design for name, design in designs.items() if name not in self.left_out}
        if not others:
            raise InputFault(
                f"recipe {self.recipe.name} is itself {', '.join(self.left_out)}, all that `confirm.against` names; "
                "name other methods"
            )
        own = Entrant(self.name, self.recipe.design, self.recipe.protocol, "the recipe's own")
        rows = study.store.rows()
        self._check_unused(rows)
        self.entrants = [own, *entrants_of(study, rows, self.section, self.recipe, self.backbone, others)]

    @cached_property
    def _planned(self) -> dict[str, tuple[str, Trial]]:
        """By id, the name of the entrant and the trial: seed, then task, then design, so a part is whole replicates."""
        backbone_hash = content_hash(self.backbone)
        entrants = sorted(self.entrants, key=lambda entrant: digest(entrant.design))
        found = {}
        for seed in self.section.seeds:
            for task in self.section.tasks:
                for entrant in entrants:
                    trial = Trial(
                        self.backbone.name,
                        entrant.design,
                        task.name,
                        seed,
                        entrant.protocol,
                        ROLE,
                        backbone_hash=backbone_hash,
                        task_hash=task.content_hash(),
                    )
                    found[trial.id] = entrant.name, trial
        return found

    @property
    def trials(self) -> list[Trial]:
        """Every trial, in the order it is run."""
        return [trial for _, trial in self._planned.values()]

    def results(self, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the rows of the store that belong to this confirmation, with the column `compared`.

        Parameters
        ----------
        rows : DataFrame, optional
            Rows of the store, if they are at hand; so for the other methods.

        Returns
        -------
        DataFrame
            Columns as those of the study's results; scores of trials that are not done are missing.
        """
        return self._labelled(self._rows(rows), {id: name for id, (name, _) in self._planned.items()}, "id")

    def status(self, rows: pd.DataFrame | None = None) -> dict[str, int]:
        """Return how many trials are planned, and how many have each status."""
        rows = self._rows(rows)
        found = dict(zip(rows["id"], rows["status"], strict=True))
        states = Counter(found.get(id, "missing") for id in self._planned)
        return {"planned": len(self._planned), **{state: states[state] for state in (*STATUSES, "missing")}}

    def warnings(self, rows: pd.DataFrame | None = None) -> list[str]:
        """Return what is allowed but should be known before a run, and when its result is read."""
        told = [f"the recipe is itself {name}, which it is not compared with" for name in self.left_out]
        if len(self.section.tasks) < WANTED:
            told.append(
                f"{len(self.section.tasks)} task{'s' * (len(self.section.tasks) != 1)} to confirm on; differences "
                f"between tasks are large, so {WANTED} or more are wanted"
            )
        told += [warning for entrant in self.entrants for warning in entrant.warnings]
        told += self._tuned_elsewhere()
        unused = [
            f"confirm.learning_rates.{entrant.name} is not used: its rate {entrant.protocol.learning_rate:g} is "
            f"{entrant.rate_from}"
            for entrant in self.entrants
            if entrant.name in self.section.learning_rates and entrant.rate_from != DECLARED
        ]
        return [*told, *unused, *self._other_looks(self._rows(rows)), *_Runner(self).warnings()]

    def describe(self) -> list[str]:
        """Return the lines that say what a run would do."""
        config, section = self.study.config, self.section
        told = [
            f"recipe {self.recipe.name}, study {config.name}, store {self.study.store.folder}",
            f"backbone: {self.backbone.name}",
            f"tasks: {', '.join(task.name for task in section.tasks)}",
            f"seeds: {', '.join(map(str, section.seeds))}",
        ]
        if section.margin is not None:
            told += [f"margin to full tuning: {section.margin:g} {config.primary}", *self._chance(section.margin)]
        told.append("compared:")
        for entrant in self.entrants:
            rate = f"learning rate {entrant.protocol.learning_rate:g} ({entrant.rate_from})"
            shown = "" if entrant.name == entrant.design["method"] else f"{entrant.name}: "
            told.append(f"  {shown}{design_words(entrant.design)}, {rate}")
        counts = len(self.entrants), len(section.tasks), len(section.seeds)
        told.append(f"trials: {len(self.trials)} ({counts[0]} compared × {counts[1]} tasks × {counts[2]} seeds)")
        rows = self.study.store.rows()
        there = set(rows["id"])
        missing = [trial for trial in self.trials if trial.id not in there]
        if len(missing) < len(self.trials):
            told.append(f"already in the store: {len(self.trials) - len(missing)} of {len(self.trials)}")
        seconds = plan.seconds(self.study.config, missing, rows)
        unknown = "unknown until the first trials on this backbone have run"
        told.append(f"estimated time: {unknown if seconds is None else f'{duration(seconds)} with one worker'}")
        return told

    def run(
        self,
        only: Literal["missing", "failed"] = "missing",
        limit: int | None = None,
        workers: int | None = None,
        pack: int | None = None,
        executor: Executor | None = None,
    ) -> Outcome:
        """Train and score the trials that have no row yet; safe to interrupt, run again to go on.

        Parameters and faults as those of `Study.run`.

        Returns
        -------
        Outcome
            Of the whole confirmation, not only of this run.
        """
        return _Runner(self).run(only, limit, workers, pack, executor)

    def analyse(self) -> Confirmation:
        """Return what the trials say, once every one of them has run.

        Raises
        ------
        InputFault
            If trials are missing: who looks before the end can choose when to stop. If none has a score.
        """
        from analysis.confirmation import confirm

        rows = self._rows()
        missing = self.status(rows)["missing"]
        if missing:
            raise InputFault(
                f"{missing} of {len(self._planned)} trials of the confirmation have not run, so nothing is compared "
                "yet: who looks before the end can choose when to stop; run the same command again"
            )
        reference = FULL if any(entrant.name == FULL for entrant in self.entrants) else None
        earlier = self._earlier()
        return confirm(
            self.results(rows),
            self.study.config.primary,
            COMPARED,
            chosen=self.name,
            reference=reference,
            margin=self.section.margin if reference else None,
            earlier=earlier,
            higher_is_better=higher_is_better(self.study.config.primary),
            notes=[*self._sizes(rows), *self._protocol_there(earlier), *self._other_looks(rows)],
        )

    def parameters(self, rows: pd.DataFrame | None = None) -> dict[str, int]:
        """Return how many parameters each entrant trained, as far as its trials say."""
        known = self.results(rows).dropna(subset=["parameters"])
        return {str(name): round(value) for name, value in known.groupby(COMPARED)["parameters"].mean().items()}

    def _rows(self, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        return self.study.store.rows() if rows is None else rows

    def _labelled(self, rows: pd.DataFrame, names: Mapping[str, str], column: str) -> pd.DataFrame:
        """The rows that have a name by a column, the recipe's first; without scores where they are not done."""
        primary = self.study.config.primary
        own = rows[rows[column].isin(names)]
        own = own.assign(**{COMPARED: own[column].map(names), primary: own[primary].where(own["status"] == "done")})
        order = {entrant.name: place for place, entrant in enumerate(self.entrants)}
        return own.sort_values(COMPARED, key=lambda names: names.map(order), kind="stable").reset_index(drop=True)

    def _earlier(self) -> pd.DataFrame:
        """The study's own trials of what is compared."""
        rows = self.study.results()
        rows = rows[rows["backbone_hash"] == content_hash(self.backbone)]
        names = {canonical_json(entrant.design): entrant.name for entrant in self.entrants}
        return self._labelled(rows, names, "design_json")

    def _chance(self, margin: float) -> list[str]:
        """Say how likely a recipe as good as full tuning is shown to be non-inferior, if the study tells."""
        from analysis.confirmation import chance

        tasks = len(self.section.tasks)
        found = chance(self._earlier(), self.study.config.primary, COMPARED, self.name, FULL, margin, tasks)
        if found is None:
            return []
        spread = "by the differences' spread over the study's tasks"
        return [f"  a recipe as good as full tuning is shown to be non-inferior with probability {found:.2f}, {spread}"]

    def _protocol_there(self, earlier: pd.DataFrame) -> list[str]:
        """Say how the study trained the recipe's design, if it was not as the recipe says."""
        texts = earlier.loc[earlier[COMPARED] == self.name, "protocol_json"]
        if texts.empty:
            return [f"The study {self.study.config.name} has no trial of the recipe's design to show beside."]
        told = changed(Protocol(**json.loads(texts.iloc[0])), self.recipe.protocol)
        return [f"The study trained the recipe's design under another protocol: {told}."] if told else []

    def _sizes(self, rows: pd.DataFrame) -> list[str]:
        from adapters.budget import TOLERANCE

        sizes = self.parameters(rows)
        own = sizes.get(self.name)
        if not own:
            return []
        told = [
            f"{entrant.name} {sizes[entrant.name]:,}"
            for entrant in self.entrants[1:]
            if abs(sizes.get(entrant.name, own) - own) > TOLERANCE * own
        ]
        if not told:
            return []
        return [f"{self.name} trains {own:,} parameters; more than {TOLERANCE:.0%} away are {', '.join(told)}."]

    def _tuned_elsewhere(self) -> list[str]:
        """Say which learning rates were tuned under another protocol than the recipe's; once for each protocol."""
        names: dict[str, list[str]] = {}
        for entrant in self.entrants:
            if entrant.elsewhere:
                names.setdefault(entrant.elsewhere, []).append(entrant.name)
        return [
            f"learning rates tuned under another protocol than the recipe's ({', '.join(some)}): {what}"
            for what, some in names.items()
        ]

    def _check_unused(self, rows: pd.DataFrame) -> None:
        """Raise InputFault if a task to confirm on was used in this store, whatever the study file says of it today."""
        names = {task.content_hash(): task.name for task in self.section.tasks}
        used = rows[rows["task_hash"].isin(names) & (rows["role"] != ROLE)]
        if len(used):
            told = ", ".join(names[key] for key in dict.fromkeys(used["task_hash"]))
            raise InputFault(
                f"the store has {len(used)} trials of the study or its tuning on {told}: a recipe that was chosen with "
                "their help looks better there than it is; expected tasks that nothing used"
            )

    def _other_looks(self, rows: pd.DataFrame) -> list[str]:
        """Say that the tasks have served a confirmation before."""
        hashes = {task.content_hash() for task in self.section.tasks}
        other = rows[(rows["role"] == ROLE) & rows["task_hash"].isin(hashes) & ~rows["id"].isin(self._planned)]
        if other.empty:
            return []
        designs = list(dict.fromkeys(design_words(json.loads(text)) for text in other["design_json"]))
        shown = "; ".join(designs[:_SHOWN]) + (f"; and {len(designs) - _SHOWN} more" if len(designs) > _SHOWN else "")
        return [
            f"The store has {len(other)} other confirmation trials on these tasks ({shown}): what is chosen after "
            "several looks at them is not confirmed by them."
        ]


class _Runner(Study):
    """Runs the trials of a confirmation as a study runs its own."""

    def __init__(self, confirming: Confirming) -> None:
        self._confirming = confirming
        self.store = confirming.study.store
        self.config = replace(
            confirming.study.config,
            backbones=(confirming.backbone,),
            tasks=confirming.section.tasks,
            seeds=confirming.section.seeds,
            tune=None,
            space=replace(confirming.study.config.space, strategy=Factorial()),
            keep="none",
        )

    def _planned(self, choices: Sequence[tuning.Choice], rows: pd.DataFrame | None) -> list[Trial]:
        return self._confirming.trials

    def _outcome(self) -> Outcome:
        rows = self.store.rows()
        known = rows.set_index("id")
        counts = {
            state: count for state, count in self._confirming.status(rows).items() if count and state != "planned"
        }
        failed = [
            (trial, str(known["error"][trial.id]))
            for trial in self.trials
            if known["status"].get(trial.id) in ("failed", "out_of_memory")
        ]
        return Outcome(counts, failed)
