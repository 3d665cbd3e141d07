"""One adapter for the person who just wants the result: trained by a recipe, kept as a folder, used for pictures.

The training is a trial's: the same pictures, seed, design, protocol and backbone give the weights that a study's trial
gets. Nothing is scored.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

import adapters
from adapters.budget import Count
from adapters.faults import InputFault
from adapters.files import DESCRIPTION, read_description
from analysis.result import Result
from study.atomic import write_folder
from study.backbones.loading import Backbone
from study.backbones.names import Source, content_hash, fetch, resolve
from study.conditioning import Conditioned
from study.config import Protocol
from study.control_encoder import PARTS, load_encoder, save_adapter
from study.loaded import Worker
from study.plan import address
from study.provenance import provenance
from study.randomness import stream
from study.recipe import Recipe
from study.sampling import sample, start_latents
from study.tasks.control import as_maps, encoder_form
from study.tasks.pictures import fitted, read
from study.tasks.specs import TaskSpec
from study.tasks.subject_spec import SubjectSpec
from study.tasks.task import prepare
from study.training import RowsOf, Slot, Trained, train, unpacked
from study.trial import design_words

AT_ONCE = 16
"""Pictures that are drawn together; so many at most are lost when drawing is interrupted."""


@dataclass(frozen=True)
class TrainedAdapter(Result):
    """A trained adapter before it is written.

    Attributes
    ----------
    state : dict of str to Tensor
        The weights, as `adapters.save` takes them.
    metadata : dict
        What the adapter folder says of it: backbone, words, protocol, seed, versions.
    training : Trained
        How the training ended; weights of one that diverged are of no use.
    count : Count
        Trained parameters, and the budget they were to meet.
    encoder : mapping of str to Tensor, optional
        The weights of the encoder of control maps that was trained beside it.
    """

    design: dict[str, Any]
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    training: Trained
    count: Count
    encoder: Mapping[str, Tensor] | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row: what was trained on what, and how it ended."""
        what = "class" if "class" in self.metadata else "task"
        entry = {"design": design_words(self.design, set(self.design)), what: self.metadata[what],
                 "pictures": self.metadata["pictures"], "seed": self.metadata["seed"],
                 "steps": self.metadata["protocol"]["steps"], "parameters": self.count.trainable,
                 "share of the backbone": self.count.ratio, "final loss": self.training.final_loss}  # fmt: skip
        return pd.DataFrame([entry])

    def explain(self) -> str:
        """The sizes, how the training ended, and which words mean the subject, if it is one."""
        if self.training.diverged:
            return f"The training diverged: {self.training.diverged}. The weights are of no use."
        meant = self.metadata.get("instance_prompt")
        told = f"{meant!r} now means the subject" if meant else f"learned: {self.metadata['task']}"
        return f"Trained {self.count.trainable:,} parameters, {self.count.ratio:.2%} of the backbone's; {told}."

    def save(self, folder: str | Path) -> None:
        """Write the adapter folder, whole or not at all; an adapter that is there is replaced.

        Raises
        ------
        InputFault
            If the training diverged, or something else is there.
        """
        if self.training.diverged:
            raise InputFault(f"{self.explain()} Nothing was written; try a lower learning_rate")
        folder = Path(folder).expanduser().resolve()
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if there - PARTS or folder.is_file():
            raise InputFault(f"{folder}: there is something that is no adapter; name another folder")
        write_folder(folder, lambda part: save_adapter(part, self.design, self.state, self.metadata, self.encoder))


def train_adapter(
    recipe: Recipe,
    spec: TaskSpec,
    seed: int = 0,
    stage: Callable[[str], None] = lambda _: None,
    step: Callable[[int], None] = lambda _: None,
) -> TrainedAdapter:
    """Train a recipe on a task of any kind, on the GPU if there is one.

    What was computed of the task's pictures, and class pictures, is kept in the user's cache folder.

    Parameters
    ----------
    stage, step : callable
        Told what is done next, and now and then the number of steps done.

    Raises
    ------
    InputFault
        For a backbone that cannot be loaded, a design that does not fit it, or pictures that cannot be read.
    """
    protocol = recipe.protocol
    worker = Worker()
    stage(f"loading {recipe.backbone.name}")
    backbone = worker.backbone(address(recipe.backbone), protocol.precision)
    count = adapters.count(backbone.denoiser, recipe.design, backbone.text_encoder)
    if isinstance(spec, SubjectSpec):
        _warn_if_cut(backbone, spec.instance_prompt)
    stage("preparing the pictures")
    with _cache() as cache, warnings.catch_warnings():
        # Of a subject it warns of the class word, and of prompts that are drawn for scores only.
        warnings.filterwarnings("ignore", module=r"study\.tasks\.subject")
        task = prepare(spec, backbone, protocol, cache)
    own = task.backbone  # at the size of the task's pictures
    insertion = adapters.insert(own.denoiser, recipe.design, stream(seed, task.key, "init"), own.text_encoder)
    try:
        stage("training")
        with own.tuned_text(insertion.tunes_text):
            encoder = task.trainables(seed)
            followed = own if encoder is None else Conditioned(own, [encoder], unpacked)
            slot = Slot(
                insertion.parameters(),
                task.batches(seed, protocol),
                protocol.learning_rate,
                insertion.penalty,
                [] if encoder is None else list(encoder.parameters()),
                task.beside_rate,
            )
            (training,) = train(followed, [slot], protocol.steps, protocol.precision, _rows(followed), step)
        state = insertion.state()
    finally:
        insertion.remove()
    made_with = provenance(worker.device, (recipe.backbone,))
    metadata = {
        "recipe": recipe.name,
        "backbone": address(recipe.backbone),
        "backbone_hash": backbone.hash,
        **spec.metadata,
        "pictures": len(task.latents),
        "size": own.size,
        "seed": seed,
        "protocol": protocol.model_dump(mode="json"),
        "versions": json.loads(made_with["versions_json"]),
        "commit": made_with["commit"],
        "device": made_with["device"],
    }
    weights = None if encoder is None else encoder.state_dict()
    return TrainedAdapter(recipe.design, state, metadata, training, count, weights)


class Metadata(BaseModel):
    """What `generate` needs of an adapter folder's metadata; a study's kept adapters have no token.

    `size` is that of the pictures it was trained on, the backbone's if it is not told; `control` says that the adapter
    follows maps, through an encoder that lies beside it.
    """

    model_config = ConfigDict(frozen=True)

    backbone: str | dict[str, str]
    backbone_hash: str
    protocol: Protocol
    token: str | None = Field(default=None, min_length=1)
    size: int | None = Field(default=None, gt=0)
    control: bool = False


def read_metadata(folder: Path) -> Metadata:
    """Read what an adapter folder says of itself.

    Raises
    ------
    InputFault
        When the folder is missing, malformed, or says too little.
    """
    if not folder.exists() and folder.parent.name == "adapters" and (folder.parent.parent / "trials").is_dir():
        raise InputFault(
            f"{folder}: the trained weights of this trial were not kept. `adapter-study train` trains a design anew; "
            "`adapter-study run STUDY --keep all --store DIR`, in another store, a whole study"
        )
    try:
        return Metadata.model_validate(read_description(folder)["metadata"])
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise InputFault(
            f"{folder / DESCRIPTION}: its metadata must say backbone, backbone_hash and protocol, as "
            f"`adapter-study train` writes them; {faults}"
        ) from error


@contextmanager
def loaded(folder: Path, named: str | None = None) -> Iterator[tuple[Backbone | Conditioned, Metadata]]:
    """Load the backbone of an adapter and put the adapter on it, with its encoder if it follows control maps.

    Parameters
    ----------
    named : str, optional
        The backbone, if it is not where the adapter says; its content must be the same.

    Raises
    ------
    InputFault
        For a folder that is malformed, or a backbone that cannot be had or is not the one it was trained on.
    """
    backbone, metadata = backbone_of(folder, named)
    insertion = adapters.load(backbone.pipeline, folder)
    try:
        with backbone.tuned_text(insertion.tunes_text):
            yield _followed(backbone, folder) if metadata.control else backbone, metadata
    finally:
        insertion.remove()


def _followed(backbone: Backbone, folder: Path) -> Conditioned:
    """Give a backbone that follows maps as an adapter's encoder says."""
    encoder = load_encoder(folder, *encoder_form(backbone)).requires_grad_(False)
    return Conditioned(backbone, [encoder.to(backbone.device, backbone.dtype)], unpacked)


def backbone_of(folder: Path, named: str | None = None) -> tuple[Backbone, Metadata]:
    """Load the backbone that an adapter was trained on, at the size of its pictures, without the adapter.

    Raises
    ------
    InputFault
        As `loaded`.
    """
    metadata = read_metadata(folder)
    source = _source(metadata, named)
    fetch(source)
    found = content_hash(source)
    if found != metadata.backbone_hash:
        raise InputFault(
            f"{folder} was trained on the backbone {_shown(metadata.backbone)} with content hash "
            f"{metadata.backbone_hash}, but {source.name} has content hash {found}; "
            "name the backbone it was trained on with --backbone"
        )
    return Worker().backbone(address(source), metadata.protocol.precision).at(metadata.size), metadata


def draw(
    backbone: Backbone | Conditioned, prompt: str, count: int, seed: int, protocol: Protocol, map: Path | None = None
) -> Iterator[np.ndarray]:
    """Draw pictures of a prompt, uint8 (H, W, 3), one after another; each starts from latents of its own.

    The i-th picture starts from the same latents however many are asked for. Sampler, sampling steps, guidance and
    precision are the protocol's. `map` is the picture of a map for an adapter that follows one.

    Raises
    ------
    InputFault
        For more sampling steps than the backbone has timesteps; a map that cannot be read, or is missing, or is given
        to an adapter that follows none.
    """
    condition = _condition(backbone, map)
    rows = _rows(backbone)
    if protocol.sampling_steps > backbone.timesteps:
        raise InputFault(
            f"{protocol.sampling_steps} sampling steps: {backbone.name} has {backbone.timesteps} timesteps; ask for "
            "fewer, such as 25"
        )
    _warn_if_cut(backbone, prompt)
    start, _ = start_latents(backbone, seed, "", "picture of a prompt", count)
    for part in start.split(AT_ONCE):
        latents = sample(
            backbone,
            backbone.embed([prompt] * len(part)),
            part,
            protocol.sampler,
            protocol.sampling_steps,
            protocol.guidance,
            protocol.precision,
            [0] * len(part),
            rows,
            None if condition is None else condition.expand(len(part), -1, -1, -1),
        )
        yield from backbone.decode(latents)


def _rows(backbone: Backbone | Conditioned) -> RowsOf:
    return backbone.rows if isinstance(backbone, Conditioned) else unpacked


def _condition(backbone: Backbone | Conditioned, map: Path | None) -> Tensor | None:
    """Read a map as the encoder of control maps takes it: uint8 (1, 3, H, W)."""
    if not isinstance(backbone, Conditioned):
        if map is not None:
            raise InputFault(f"--map {map}: this adapter was not trained to follow a map; leave it out")
        return None
    if map is None:
        raise InputFault("this adapter was trained to follow a control map: give the picture of one with --map")
    if not map.is_file():
        raise InputFault(f"--map {map}: no such file; expected the picture of a map")
    try:
        shown = fitted(read(map), backbone.size)
    except InputFault as fault:
        raise InputFault(f"--map {map.parent}: cannot be read: {fault}") from fault
    return as_maps(shown[None]).to(backbone.device)


@contextmanager
def _cache() -> Iterator[Path]:
    """Give the user's cache folder; where there can be none, a temporary one."""
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "adapter-study"
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def _source(metadata: Metadata, named: str | None) -> Source:
    if named is not None:
        return resolve(named)
    try:
        return resolve(metadata.backbone)
    except InputFault as fault:
        raise InputFault(
            f"the adapter's backbone {_shown(metadata.backbone)} is not on this machine ({fault}); "
            "say where it is with --backbone"
        ) from fault


def _shown(backbone: str | dict[str, str]) -> str:
    return backbone if isinstance(backbone, str) else "@".join(backbone.values())


def _warn_if_cut(backbone: Backbone | Conditioned, prompt: str) -> None:
    if backbone.too_long([prompt]):
        warnings.warn(f"{backbone.name} reads only the beginning of the prompt {prompt!r}", stacklevel=2)
