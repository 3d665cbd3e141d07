"""A study whose trials take milliseconds: the true planner, driver, workers and store around a runtime without torch.

Run as a program it is the worker (`python fakes.py STORE --device cpu`) or, with `drive`, the driver.
"""

import errno
import json
import logging
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save_file

from study.backbones.kinds import AUTOENCODER, KINDS
from study.executors.local import LocalExecutor
from study.store import Store
from study.study import Study
from study.trial import Claim, Pack, Progress, Sink, TrialResult
from study.worker import Runtime, main

log = logging.getLogger(__name__)
COMMAND = (sys.executable, str(Path(__file__).resolve()))
SECTIONS = {
    "name": "fake",
    "backbone": "pipe",
    "factors": {
        "input": ["SA_in", "CA_out", "FFN_in"],
        "output": ["FFN_in", "Trans_out"],
        "activation": ["relu", "silu"],
    },
    "fixed": {"method": "adapter", "width": 2},
    "tasks": [
        {"name": "rex", "pictures": "photos", "class": "dog"},
        {"name": "tom", "pictures": "photos", "class": "cat"},
    ],
    "seeds": 2,
    "protocol": {"steps": 3, "pictures": 2},
    "scores": {"clip_i": "scorer", "dino_i": "scorer"},
    "keep": "none",
}
PLANNED = 6 * 2 * 2 * 2
"""Six valid pairs of 3 x 2, two activations, two tasks, two seeds."""
REFERENCES = 2 * 2


def folders(root: Path) -> None:
    """Write what a study names: a pipeline and a scorer by their files only, and two photographs."""
    pipeline(root / "pipe", "StableDiffusionPipeline")
    (root / "scorer").mkdir()
    (root / "scorer" / "config.json").write_text("{}")
    (root / "scorer" / "model.safetensors").write_bytes(weights("scorer"))
    (root / "photos").mkdir()
    for shade in (60, 180):
        Image.new("RGB", (32, 32), (shade, 90, 30)).save(root / "photos" / f"{shade}.png")


def pipeline(folder: Path, kind: str) -> None:
    """Write a pipeline by its files only."""
    index: dict[str, object] = {"_class_name": kind}
    classes = {KINDS[kind].denoiser: KINDS[kind].denoisers[0], "vae": AUTOENCODER, "scheduler": "DDPMScheduler"}
    for component, stem in KINDS[kind].components.items():
        words = "CLIPTokenizer" if component.startswith("tokenizer") else "CLIPTextModel"
        index[component] = ["diffusers", classes.get(component, words)]
        (folder / component).mkdir(parents=True)
        if stem:
            (folder / component / f"{stem}.safetensors").write_bytes(weights(component))
    (folder / "model_index.json").write_text(json.dumps(index))


def weights(name: str) -> bytes:
    """A safetensors file without tensors: the length of its header, and the header, whose metadata has a name."""
    header = json.dumps({"__metadata__": {"name": name}}).encode()
    return len(header).to_bytes(8, "little") + header


def study_file(root: Path, **changes: object) -> Path:
    """Write the study's file, with some sections changed, and all it names."""
    if not (root / "pipe").exists():
        folders(root)
    path = root / "fake.yaml"
    path.write_text(yaml.safe_dump({**SECTIONS, "store": str(root / "store"), **changes}, sort_keys=False))
    return path


def score(id: str) -> float:
    """A number that only the trial decides."""
    return int(id[:8], 16) / 2**32


def score_at(rate: float, best: float) -> float:
    """A number that only the learning rate decides: 1 at the best rate, less the farther away."""
    return 1 / (1 + abs(math.log10(rate / best)))


def runtime(device: str | None) -> Runtime:
    """A runtime whose trials take FAKE_SECONDS each.

    A design with the activation FAKE_DEADLY kills its worker, one with FAKE_FAILING fails, one with FAKE_FULL finds the
    disk full. FAKE_RATES, JSON, names the best learning rate of each method; with it, a trial diverges at rates ten
    times as high and more. On its way a trial has its score less what is left of the way. One with FAKE_PREEMPTED,
    such as silu:5, kills its worker so often, each time after a checkpoint of a later step. Into the folder FAKE_SPANS
    goes a file a pack, of which process ran it, on what and when; the first begins when FAKE_WORKERS workers are there.
    """
    pause, deadly = float(os.environ.get("FAKE_SECONDS", "0")), os.environ.get("FAKE_DEADLY")
    rates = json.loads(os.environ.get("FAKE_RATES", "{}"))

    def run(pack: Pack, sink: Sink, progress: Progress, claim: Claim) -> None:
        if (spans := os.environ.get("FAKE_SPANS")) is None:
            return train(pack, sink, progress, claim)
        (Path(spans) / f"{os.getpid()}.here").touch()
        while len(list(Path(spans).glob("*.here"))) < int(os.environ["FAKE_WORKERS"]):
            time.sleep(0.01)
        span = {"pid": os.getpid(), "device": device, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
        span |= {"trials": len(pack.trials), "begin": time.monotonic()}
        train(pack, sink, progress, claim)
        text = json.dumps({**span, "end": time.monotonic()})
        (Path(spans) / f"{pack.trials[0].id}.json").write_text(text)

    def train(pack: Pack, sink: Sink, progress: Progress, claim: Claim) -> None:
        for trial in pack.trials:
            if not claim(trial):
                continue
            print("a library prints to standard output")
            os.write(1, b"and so does one written in C\n")
            for step in range(3):
                progress(trial, step, 3)
                time.sleep(pause / 3)
            preempted, _, times = os.environ.get("FAKE_PREEMPTED", "").partition(":")
            if preempted and trial.design.get("activation") == preempted:
                checkpoints, attempt = Store(Path(pack.store)).checkpoints, pack.attempts[trial.id]
                step = checkpoints.step(trial.id, attempt)
                if step < int(times):
                    checkpoints.folder.mkdir(exist_ok=True)
                    told = {"description": json.dumps({"step": step + 1})}
                    save_file({}, checkpoints.file(trial.id, attempt), told)
                    os.kill(os.getpid(), signal.SIGKILL)
            if deadly and trial.design.get("activation") == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if trial.design.get("activation") == os.environ.get("FAKE_FAILING", "none"):
                log.warning("%s failed\nTraceback of it", trial.label())
                sink(TrialResult(trial, "failed", "no luck"))
                continue
            if trial.design.get("activation") == os.environ.get("FAKE_FULL", "no"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{pack.store}/adapters/0")
            value = score(trial.id)
            if trial.design["method"] in rates:
                rate, best = trial.protocol.learning_rate, rates[trial.design["method"]]
                if rate > 9.9 * best:
                    sink(TrialResult(trial, "diverged", "the loss is nan at step 2", columns={"pack_seconds": pause}))
                    continue
                value = score_at(rate, best)
            columns = {"pack_seconds": pause, "device": "cpu"}
            if trial.pruning is not None:
                found = {}
                for percent in trial.pruning.steps(trial.protocol.steps).values():
                    found[percent] = value - 1 + percent / 100
                    columns |= {"intermediate_json": json.dumps({"score": "clip_i", "pictures": 1, "values": found})}
                    if trial.pruning.prunes(found):
                        columns["pruned_by"] = trial.pruning.by
                        break
            if "pruned_by" in columns:
                sink(TrialResult(trial, "pruned", "pruned on its way", columns=columns))
                continue
            sink(
                TrialResult(
                    trial,
                    "done",
                    scores={"clip_i": value},
                    columns=columns,
                    images=[
                        {"prompt": "a dog", "prompt_index": 0, "picture_seed": seed, "clip_i": value} for seed in (7, 8)
                    ],
                    pictures=[np.full((16, 16, 3), int(value * 255), np.uint8)] * 2,
                    curves=[{"step": 0, "loss": value}],
                )
            )

    return run


def drive(study: str, workers: int) -> None:
    """Run a study with fake workers, as `Study.run` does with true ones."""
    loaded = Study.load(study)
    outcome = loaded.run(executor=LocalExecutor(loaded.store, ["cpu"] * workers, command=COMMAND))
    print(json.dumps(outcome.counts))


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive(sys.argv[2], int(sys.argv[3]))
    else:
        main(runtime)
