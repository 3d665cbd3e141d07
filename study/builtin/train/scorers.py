"""Trains the three judges: a small CLIP, a wordless picture encoder, and an attribute classifier.

None shares a weight with the generator. The classifier only tests the generator; it scores no trial.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer, ResNetModel

from study.builtin.architecture import TOKENS
from study.builtin.train.loop import optimise, to_tensor
from study.builtin.train.pool import Pool
from study.world.backgrounds import BACKGROUNDS
from study.world.captions import caption, sample_caption
from study.world.colours import COLOURS
from study.world.objects import KINDS
from study.world.scene import TEXTURES, Scene, draw, restage, sample_scene

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS), "colour": COLOURS, "background": tuple(BACKGROUNDS), "texture": TEXTURES,
}


def tokens(words: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions to token numbers, (n, 24)."""
    return words(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


def train_clip(clip: CLIPModel, words: CLIPTokenizer, pool: Pool, steps: int, seed: int, checkpoints: Path,
               batch: int = 64) -> None:
    """Fit pictures to their captions by the symmetric contrastive loss, equal captions counted as equal.

    Every other batch shows one kind in one place, so that colour and texture, too, must be told apart.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for i, scene in enumerate(pool.scenes):
        places.setdefault((scene.kind, scene.background), []).append(i)
    alike = list(places.values())

    def loss(step: int, _: int) -> Tensor:
        rng = np.random.default_rng([seed, 3, step])
        among = alike[rng.integers(len(alike))] if step % 2 else range(len(pool))
        chosen = rng.choice(among, batch)
        captions = [sample_caption(pool.scenes[i], rng) for i in chosen]
        ids = tokens(words, captions)
        pictures = functional.normalize(clip.get_image_features(to_tensor(pool.pixels[chosen])).pooler_output, dim=-1)
        texts = functional.normalize(clip.get_text_features(ids).pooler_output, dim=-1)
        similarity = clip.logit_scale.clamp(max=4.0).exp() * pictures @ texts.T
        same = (ids[:, None] == ids[None]).all(-1).float()
        wanted = same / same.sum(1, keepdim=True)
        return -(wanted * (similarity.log_softmax(1) + similarity.T.log_softmax(1))).sum(1).mean() / 2

    optimise("clip", [clip], loss, steps, 1e-3, checkpoints)


@torch.no_grad()
def retrieval(clip: CLIPModel, words: CLIPTokenizer, pool: Pool) -> float:
    """Share of pictures whose own caption is the nearest among the captions of all."""
    captions = [caption(scene) for scene in pool.scenes]
    pictures = clip.get_image_features(to_tensor(pool.pixels)).pooler_output
    texts = clip.get_text_features(tokens(words, captions)).pooler_output
    similarity = functional.normalize(pictures, dim=-1) @ functional.normalize(texts, dim=-1).T
    return (similarity.argmax(1) == torch.arange(len(pool))).float().mean().item()


def instance_pairs(count: int, seed: int) -> np.ndarray:
    """Pictures of the same instances in two places each, (count, 2, 64, 64, 3) uint8."""
    rng = np.random.default_rng([seed, 4])
    places = tuple(BACKGROUNDS)
    drawn: list[np.ndarray] = []
    while len(drawn) < count:
        scene: Scene = replace(sample_scene(rng), style="photo")
        other = restage(scene, rng, places[rng.integers(len(places))])
        drawn.append(np.stack([draw(scene).pixels, draw(other).pixels]))
    return np.stack(drawn)


def train_dino(dino: ResNetModel, pairs: np.ndarray, steps: int, seed: int, checkpoints: Path,
               batch: int = 64) -> None:
    """Fit an encoder that finds the same instance in another place, without words (contrastive, temperature 0.1).

    Pictures are blurred, relit and made noisy at random, as DINO's are: what a generator's softness costs is not to
    outweigh what the thing looks like.
    """
    projection = nn.Sequential(nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 96))

    def loss(step: int, _: int) -> Tensor:
        rng = np.random.default_rng([seed, 5, step])
        chosen = pairs[rng.integers(len(pairs), size=batch)]
        pictures = roughened(to_tensor(np.concatenate([chosen[:, 0], chosen[:, 1]])), rng)
        pooled = dino(pictures).pooler_output.flatten(1)
        total = torch.zeros(())
        for features in (functional.normalize(pooled, dim=-1), functional.normalize(projection(pooled), dim=-1)):
            similarity = features @ features.T / 0.1 - 1e9 * torch.eye(2 * batch)
            total = total + functional.cross_entropy(similarity, torch.arange(2 * batch).roll(batch)) / 2
        return total

    dino.train()
    optimise("dino", [dino, projection], loss, steps, 2e-3, checkpoints)
    dino.eval()


def roughened(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur two pictures in three by up to 1.5 pixels; change the light of all by up to a tenth; add noise."""
    n = len(pictures)
    width = torch.from_numpy(np.where(rng.random(n) < 2 / 3, rng.uniform(0.3, 1.5, n), 0.1)).float()
    bell = torch.exp(-0.5 * (torch.arange(-3, 4) / width[:, None]).square())
    bell = bell / bell.sum(1, keepdim=True)
    kernels = (bell[:, :, None] * bell[:, None, :])[:, None].repeat_interleave(3, 0)
    padded = functional.pad(pictures, (3, 3, 3, 3), mode="reflect").reshape(1, 3 * n, 70, 70)
    blurred = functional.conv2d(padded, kernels, groups=3 * n).reshape(pictures.shape)
    gain, shift = (torch.from_numpy(rng.uniform(-0.1, 0.1, (n, 1, 1, 1))).float() for _ in range(2))
    noise = torch.from_numpy(rng.standard_normal(pictures.shape, dtype=np.float32))
    return blurred * (1 + gain) + shift + 0.03 * noise


class AttributeClassifier(nn.Module):
    """Reads kind, colour, background and texture off a picture (n, 3, 64, 64) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU(),
                       nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(levels)) for name, levels in ATTRIBUTES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits by attribute."""
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """True levels by attribute as numbers (n,); -100 where a scene has none."""
    return {name: torch.tensor([levels.index(value) if (value := getattr(scene, name)) in levels else -100
                                for scene in scenes]) for name, levels in ATTRIBUTES.items()}


def train_classifier(classifier: AttributeClassifier, pool: Pool, steps: int, seed: int, checkpoints: Path,
                     batch: int = 48) -> None:
    """Fit the classifier on photos; colours without a name are left out of the colour loss."""
    photos = [i for i, scene in enumerate(pool.scenes) if scene.style == "photo"]
    truth = labels(pool.scenes)

    def loss(step: int, _: int) -> Tensor:
        rng = np.random.default_rng([seed, 6, step])
        chosen = rng.choice(photos, batch)
        pictures = to_tensor(pool.pixels[chosen])
        noise = torch.from_numpy(rng.standard_normal(pictures.shape, dtype=np.float32))
        logits = classifier(pictures + 0.03 * noise)
        losses = [functional.cross_entropy(logits[name], truth[name][chosen]) for name in ATTRIBUTES]
        return torch.stack(losses).sum()

    optimise("classifier", [classifier], loss, steps, 2e-3, checkpoints)


@torch.no_grad()
def accuracy(classifier: AttributeClassifier, pixels: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Share of pictures read right, by attribute."""
    truth = labels(scenes)
    classifier.eval()
    logits = classifier(to_tensor(pixels))
    return {name: (logits[name].argmax(1) == truth[name]).float().mean().item() for name in ATTRIBUTES}
