"""Runs designs on a tiny backbone, on two tasks in turn, together or one by one."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from pytest import approx

import adapters
from study.config import Protocol
from study.loaded import Worker
from study.pack import run_pack
from study.tasks import resolve_task
from study.trial import Pack, Trial
from tests.study import tiny

EXACT = Protocol(steps=6, sampling_steps=1, pictures=2, prior_pictures=2, batch=2, precision="float64")
METHODS = [
    {"method": "none"},
    {"method": "adaptformer", "width": 2},
    {"method": "sequential", "width": 2},
    {"method": "dora", "rank": 1},
    {"method": "krona", "a1": 2, "a2": 2},
    {"method": "tlora", "residual_rank": 1, "regulariser": 0.01},
    {"method": "tlora_star", "rank": 1},
    {"method": "difffit"},
    {"method": "bitfit"},
    {"method": "vpt", "tokens": 2},
]
"""Designs that every backbone with cross-attention has, one a method."""


def runner(root: Path, worker: Worker, backbone: str) -> Callable:
    """Make a function that runs designs on a backbone; it returns their results."""
    clip = str(tiny.clip_folder(root))
    specs = []
    for word, pictures in (("robot", tiny.pictures()), ("dog", tiny.pictures(4, seed=9))):
        (root / word).mkdir()
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / word / f"{index}.png")
        specs.append(resolve_task({"name": word, "pictures": word, "class": word, "prompts": ["a {} on grass"]}, root))

    def go(designs, together, protocol=EXACT, rates=None, worker=worker):
        """Run designs on two tasks in turn, each at its own learning rate and under its own seed."""
        rates = rates or [1e-3 * (1 + index) for index in range(len(designs))]
        hash = worker.backbone(backbone, protocol.precision).hash
        trials = tuple(
            Trial(
                "tiny",
                adapters.normalise(design),
                specs[index % 2].name,
                index,
                protocol.model_copy(update={"learning_rate": rate}),
                backbone_hash=hash,
                task_hash=specs[index % 2].content_hash(),
            )
            for index, (design, rate) in enumerate(zip(designs, rates, strict=True))
        )
        store = str(root / "store")
        tasks = {spec.name: spec for spec in specs}
        pack = Pack(trials, backbone, tasks, {"clip_i": clip, "clip_t": clip}, "all", store, together=together)
        results = []
        run_pack(pack, worker, results.append)
        return results

    return go


def assert_same(packed, alone, relative):
    """Assert that a trial trained in a pack ended as it does alone."""
    assert packed.trial.id == alone.trial.id and packed.status == alone.status == "done"
    assert [row["loss"] for row in packed.curves] == approx([row["loss"] for row in alone.curves], rel=relative)
    assert (packed.adapter is None) == (alone.adapter is None)
    for name, value in (alone.adapter or {}).items():
        torch.testing.assert_close(packed.adapter[name], value, rtol=relative, atol=relative * value.abs().max().item())
