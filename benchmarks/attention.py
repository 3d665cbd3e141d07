"""Whether attention maps point at what is drawn, and what capturing them costs.

    python -m benchmarks.attention [--backbone micro-unet] [--captions 100] [--steps 5 20 80] > attention.json

Pointing: captioned drawings of the picture world are noised at four timesteps and pass the untuned denoiser once at
each; the map of the word for the object is held against the object's mask. Cost: pictures are drawn with and without
capturing, each number of steps in a process of its own. Prints one JSON document: pointing accuracy, overlap (IoU) and
share inside with 95% intervals beside chance, entropy; seconds and peak bytes for each number of steps.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import machine


def pointing(backbone: str, captions: int, seed: int) -> dict[str, Any]:
    """Hold the maps of the objects' words against the objects."""
    import numpy as np

    from analysis.attention_scores import agreement
    from study.attention import noised_maps
    from study.backbones.loading import load
    from study.world.captions import caption
    from study.world.scene import draw, sample_scene

    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(captions)]
    loaded = load(backbone)
    drawings = [draw(scene, loaded.size) for scene in scenes]
    pixels, prompts = np.stack([each.pixels for each in drawings]), [caption(scene) for scene in scenes]
    masks = [each.mask for each in drawings]
    kinds = iter([scene.kind for scene in scenes])
    maps = [
        each.word(next(kinds), picture)
        for each in noised_maps(loaded, pixels, prompts)
        for picture in range(len(each.prompts))
    ]
    found = agreement(maps, masks)
    rows = {row.pop("number"): row for row in found.numbers.to_dict("records")}
    return {"captions": captions, **rows, "entropy": float(found.each["entropy"].mean())}


def cost(backbone: str, steps: int, pictures: int, captured: bool) -> dict[str, float]:
    """Draw pictures in this process; give the seconds and the peak bytes of the process."""
    from contextlib import nullcontext

    import torch

    from analysis.attention import capture
    from study.backbones.loading import load
    from study.packing import peak_bytes, reset_peak
    from study.sampling import sample

    torch.manual_seed(0)
    loaded = load(backbone)
    prompts = ["a photo of a red robot on grass"] * pictures
    start = torch.randn(pictures, *loaded.latent_shape)
    context = loaded.embed(prompts)
    sample(loaded, context, start, steps=2)
    reset_peak(loaded.device)
    begun = time.perf_counter()
    with capture(loaded.denoiser, loaded.pipeline.tokenizer, prompts) if captured else nullcontext():
        sample(loaded, context, start, steps=steps)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_bytes": peak_bytes(loaded.device)}


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="micro-unet")
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the drawings")
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 20, 80])
    parser.add_argument("--pictures", type=int, default=4, help="drawn together")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(cost(given.backbone, int(given.one[0]), given.pictures, given.one[1] == "captured")))
        return

    def run(steps: int, how: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.attention", "--backbone", given.backbone]
        command += ["--pictures", str(given.pictures), "--one", str(steps), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{steps} steps, {how}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])

    # First, while this process is small: on Linux a process begins with the peak of the one that started it.
    steps = {str(steps): {how: run(steps, how) for how in ("plain", "captured")} for steps in given.steps}
    found = {"machine": machine(), "pointing": pointing(given.backbone, given.captions, given.seed), "steps": steps}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
