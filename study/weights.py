"""What full tuning changed in a study's trials: TLoRA's claim on their kept weights.

Trials of one design are taken together; intervals are over their tasks, seeds of a task being averaged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from adapters.faults import InputFault
from analysis.result import Result
from analysis.weight_sources import Pairs, of_folder
from analysis.weights import WeightChanges, weight_changes
from study.backbones.names import content_hash
from study.config import Protocol
from study.loaded import Worker
from study.noise_difference import chosen, record, refuse_without_weights
from study.plan import address
from study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StudyWeights(Result):
    """The changes of trials' weights.

    Attributes
    ----------
    study : str
    designs : dict of str to WeightChanges
        By what the design is called; the models of each are its tasks and seeds.
    """

    study: str
    designs: dict[str, WeightChanges]

    @property
    def trials(self) -> int:
        """Trials that were measured."""
        return sum(len(found.models) for found in self.designs.values())

    def to_frame(self) -> pd.DataFrame:
        """The comparisons of each design: `WeightChanges.to_frame`, with a column design."""
        parts = [found.to_frame().assign(design=design) for design, found in self.designs.items()]
        frame = pd.concat(parts, ignore_index=True)
        return frame[["design", *(column for column in frame if column != "design")]]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {"study": self.study, "designs": {name: found.to_dict() for name, found in self.designs.items()}}

    def explain(self) -> str:
        """Each design's answer."""
        return "\n".join(f"{design}: {found.explain()}" for design, found in self.designs.items())

    def plot(self) -> Figure:
        """A row of figures a design."""
        from analysis.weight_figures import claims

        return claims(self.designs)


def weights(
    study: Study,
    trial: str | None = None,
    best: int | None = None,
    targets: str = "attention",
    transforms: Sequence[int] = (1, 2),
    seed: int = 0,
    stage: Callable[[str], None] = lambda _: None,
) -> StudyWeights:
    """Fit TLoRA's structures to what trials of full tuning changed.

    Parameters
    ----------
    trial, best
        A trial by its id's beginning, or so many of the best by the primary score, of those with kept weights.
    targets
        Which matrices: ``attention``, ``ff`` or both.
    transforms, seed
        As `analysis.weights.weight_changes` has them.
    stage
        Told what is done next.

    Raises
    ------
    InputFault
        For a trial that there is not, whose weights were not kept, or whose method is not full tuning.
    """
    if (trial is None) == (best is None):
        raise InputFault("expected either one trial (--trial) or a number of the best (--best)")
    rows = _trials(study, trial, best)
    worker, sources = Worker(), {content_hash(source): source for source in study.config.backbones}
    found: dict[str, dict[str, Pairs]] = {}
    units: dict[str, str] = {}
    for row in rows.to_dict("records"):
        protocol = Protocol(**json.loads(row["protocol_json"]))
        backbone = worker.backbone(address(sources[row["backbone_hash"]]), protocol.precision)
        design = record(row, study.config.primary)["design"]
        design = f"{design} on {row['backbone']}" if len(sources) > 1 else design
        model = f"{row['task']}, seed {row['seed']}"
        units[model] = row["task"]
        found.setdefault(design, {})[model] = of_folder(backbone.pipeline, study.store.adapter(row["id"]), targets)
    designs = {}
    for design, models in found.items():
        stage(f"{design}: {len(models)} trials")
        designs[design] = weight_changes(models, transforms, units=units, seed=seed, stage=stage)
    return StudyWeights(study.config.name, designs)


def _trials(study: Study, trial: str | None, best: int | None) -> pd.DataFrame:
    """The rows that are asked for, all of full tuning and with kept weights."""
    if trial is None:
        rows = chosen(study, None, None)
        rows = rows[rows["design_json"].map(_is_full).astype(bool)].head(best or 0)
        if rows.empty:
            raise InputFault(
                f"no trial with kept weights of {study.config.name} is of full tuning; what T leaves of a change "
                "can be measured where the change is free: a study with method full, and `keep: all`"
            )
        return rows
    rows = chosen(study, trial, None)
    refuse_without_weights(study, rows)
    design = rows["design_json"].iloc[0]
    if not _is_full(design):
        raise InputFault(f"trial {rows['id'].iloc[0][:12]} is {design}; expected method full, whose change is free")
    return rows


def _is_full(design_json: str) -> bool:
    return bool(json.loads(design_json).get("method") == "full")
