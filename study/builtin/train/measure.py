"""Measures the built-in models against what they promise, and writes the model card and the sample grid."""

import json
import platform
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import ResNetModel

from study.backbones.loading import Backbone
from study.builtin.train.autoencoder import reconstructed
from study.builtin.train.loop import to_tensor
from study.builtin.train.pool import Pool
from study.builtin.train.scorers import ATTRIBUTES, AttributeClassifier, accuracy
from study.control_scores import control_scores
from study.sampling import sample
from study.world.captions import caption

GUIDANCE = 4.0
SAMPLING_STEPS = 25


def generate(backbone: Backbone, captions: list[str], seed: int) -> np.ndarray:
    """Draw captions with 25 steps of DPM-Solver++, (n, 64, 64, 3) uint8."""
    start = torch.randn((len(captions), *backbone.latent_shape), generator=torch.Generator().manual_seed(seed))
    latents = sample(backbone, backbone.embed(captions), start, "dpmsolver++", SAMPLING_STEPS, GUIDANCE)
    return backbone.decode(latents)


def generator_accuracy(backbone: Backbone, classifier: AttributeClassifier, pool: Pool, seed: int) -> dict[str, float]:
    """Share of generated pictures whose attributes the classifier reads as the caption names them."""
    return accuracy(classifier, generate(backbone, [caption(scene) for scene in pool.scenes], seed), pool.scenes)


def control_floor(backbone: Backbone, pool: Pool) -> dict[str, float]:
    """Control scores of drawings of just what was wanted, and of the same decoded from latents: the best there is."""
    decoded = reconstructed(backbone.pipeline.vae, pool.pixels)
    drawn = {"drawings": pool.pixels, "drawings through the autoencoder": decoded}
    return {
        f"segmenter on {len(pool)} {what}: {name}": float(values.mean())
        for what, pixels in drawn.items() for name, values in control_scores(pixels, pool.scenes).items()
    }


@torch.no_grad()
def instance_recall(dino: ResNetModel, pairs: np.ndarray) -> float:
    """Share of pictures whose nearest other picture shows the same instance in its other place."""
    features = functional.normalize(_pooled(dino, np.concatenate([pairs[:, 0], pairs[:, 1]])), dim=-1)
    similarity = features @ features.T - 2 * torch.eye(len(features))
    return (similarity.argmax(1) == torch.arange(len(features)).roll(len(pairs))).float().mean().item()


def _pooled(dino: ResNetModel, pixels: np.ndarray) -> Tensor:
    return dino(to_tensor(pixels)).pooler_output.flatten(1)


def write_grid(backbone: Backbone, file: Path, seed: int) -> None:
    """Save a grid of generated pictures: every kind in six colours, textures and places."""
    captions = []
    for row, kind in enumerate(ATTRIBUTES["kind"]):
        for column in range(6):
            colour = ATTRIBUTES["colour"][(row + 3 * column) % 10]
            texture = ("", "", "striped ", "dotted ", "checkered ", "")[column]
            place = ("on grass", "on snow", "on sand", "at night", "on wood", "at sunset")[(row + column) % 6]
            captions.append(f"a photo of a {colour} {texture}{kind} {place}")
    pictures = generate(backbone, captions, seed)
    rows = pictures.reshape(-1, 12, *pictures.shape[1:])
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows])).save(file)


def write_card(folder: Path, measured: dict[str, float]) -> None:
    """Write the measurements as a model card beside the weights."""
    lines = [f"| {name} | {value:.4g} |" for name, value in measured.items()]
    text = f"""# The built-in models

Trained by `python -m study.builtin.train` on drawings of the picture world, from a seed; no photograph and no foreign
weight is in them. `micro-unet` is a StableDiffusionPipeline of 64-pixel pictures, `micro-dit` a PixArtAlphaPipeline
(a diffusion transformer) with the same autoencoder, `micro-clip` and `micro-dino` score
pictures, `attributes.safetensors` reads attributes off pictures and tests the generator only, `segmenter.safetensors`
labels the parts of things and scores pictures against control maps.
They draw the world's things and nothing else.

![Pictures of micro-unet](samples.png)

![Pictures of micro-dit](samples-dit.png)

Every picture above (micro-unet's, then micro-dit's) was generated with {SAMPLING_STEPS} steps of DPM-Solver++ at
guidance {GUIDANCE:g}: two kinds a row, each in six colours, textures and places as its caption named them. Measured on
drawings and captions kept from training, torch {torch.__version__}, {platform.machine()}:

| what | value |
|---|---|
{chr(10).join(lines)}
"""
    (folder / "MODELS.md").write_text(text)
    (folder / "measurements.json").write_text(json.dumps(measured, indent=1) + "\n")
