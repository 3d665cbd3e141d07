"""Scores of generated pictures, from the features of frozen encoders. Scorers are loaded by name.

Definitions, for features of unit length
- image fidelity (`clip_i`, `dino_i`, `dinov2_i`): a picture's mean cosine with all real pictures; the trial's is the
  mean over its pictures, so the mean over all real x generated pairs (DreamBooth, 2208.12242).
- prompt fidelity (`clip_t`): cosine of a picture with its prompt, the rare token left out ("a photo of a robot on
  grass"): the scorer's text encoder never saw the subject, so the token would only add noise.
- colour fidelity (`colour`): whether the subject's parts have their colours, judged by no encoder but by the truth of
  the built-in world; see `study.world.colour_fidelity`. The trial's is the mean over the pictures whose prompt leaves
  the subject its looks; another picture has none.
- noise difference (`noise_difference`): how much the subject's word changes what the backbone predicts; judged by no
  picture, see `study.noise_difference`.
- diversity: mean of 1 - cosine over pairs of pictures of one prompt; over all pairs when no prompt has two pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.faults import InputFault
from study.backbones.loading import quiet, refuse_missing
from study.backbones.names import OWN, SEGMENTER, WORLD, content_hash, fetch, resolve_scorer
from study.world.colour_fidelity import VERSION, colour_fidelity, keeps_colours
from study.world.scene import Scene

ROWS = 64


@dataclass
class Scorer:
    """A frozen encoder of pictures, and of texts when it is a CLIP model.

    Attributes
    ----------
    name, hash : what results record.
    """

    name: str
    hash: str
    model: Any
    processor: Any
    tokenizer: Any | None
    device: torch.device
    _texts: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @torch.inference_mode()
    def images(self, pictures: np.ndarray) -> Tensor:
        """Encode pictures, uint8 (N, H, W, 3), to features (N, D), float32 on the CPU."""
        parts = []
        for begin in range(0, len(pictures), ROWS):
            given = self.processor(images=list(pictures[begin : begin + ROWS]), return_tensors="pt")
            pixels = given["pixel_values"].to(self.device, torch.float32)
            if self.tokenizer is not None:
                parts.append(_features(self.model.get_image_features(pixel_values=pixels)))
            else:
                parts.append(_summary(self.model(pixel_values=pixels)))
        return torch.cat(parts).float().cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to features (N, D), float32 on the CPU. A text is encoded once and remembered.

        Raises
        ------
        InputFault : the scorer is no CLIP model.
        """
        if self.tokenizer is None:
            raise InputFault(f"scorer {self.name} reads no text; give clip_t a CLIP model, for instance micro-clip.")
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                self._texts[text] = self._text(text)
        return torch.cat([self._texts[text] for text in texts])

    def _text(self, text: str) -> Tensor:
        assert self.tokenizer is not None
        longest = self.model.config.text_config.max_position_embeddings
        given = self.tokenizer([text], truncation=True, max_length=longest, return_tensors="pt")
        return _features(self.model.get_text_features(**given.to(self.device))).float().cpu()


@dataclass(frozen=True)
class TrueColours:
    """The truth of the built-in world as a scorer: of `colour`, and of nothing else.

    Attributes
    ----------
    name, hash : what results record; the hash is the version of the definition.
    """

    name: str = WORLD
    hash: str = VERSION

    def fidelity(self, pictures: np.ndarray, prompts: Sequence[str], subject: str | None) -> list[float | None]:
        """Score pictures, uint8 (N, H, W, 3); None where the prompt asks for other colours than the subject's.

        Raises
        ------
        InputFault : the task is no subject of the built-in world.
        """
        if subject is None:
            raise InputFault("colour needs the true colours, which only subjects of the built-in world have.")
        found = colour_fidelity(pictures, subject).tolist()
        return [score if keeps_colours(prompt) else None for score, prompt in zip(found, prompts, strict=True)]


@dataclass(frozen=True)
class PredictedNoise:
    """The trial's own backbone as a scorer: of `noise_difference`, which needs no pictures of the trial.

    Attributes
    ----------
    name, hash : what results record; the hash is the version of the definition in `study.noise_difference`.
    """

    name: str = OWN
    hash: str = "noise-difference-1"


@dataclass(frozen=True)
class PartReader:
    """The built-in segmenter as a scorer: of how well pictures keep to control maps, and of nothing else.

    Attributes
    ----------
    name : what results record.
    """

    name: str = SEGMENTER

    @property
    def hash(self) -> str:
        """The version of the definitions in `study.control_scores`."""
        from study.control_scores import VERSION

        return VERSION

    def control(self, pictures: np.ndarray, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
        """Score pictures, uint8 (N, H, W, 3), against the scenes that they were to show; see `control_scores`."""
        from study.control_scores import control_scores

        return control_scores(pictures, scenes)


AnyScorer = Scorer | TrueColours | PartReader
"""A scorer of pictures."""

Scorers = Mapping[str, AnyScorer]
"""Score name to scorer."""


def load_scorer(name: str | dict[str, Any], device: str | torch.device = "cpu") -> Scorer:
    """Load a scorer by name: built in (micro-clip, micro-dino), a transformers folder, or a hub id.

    A CLIP model gives projected image and text features. Of any other image model it is the class token of the last
    layer (a ViT, as DINO is used), or the pooled output where there is no sequence (a ResNet).

    Raises
    ------
    InputFault : an unknown name, or a folder that cannot be loaded from safetensors.
    """
    source = resolve_scorer(name)
    folder = fetch(source)
    try:
        model, processor, tokenizer = _load(folder)
    except Exception as error:  # whatever a broken file makes the library raise, the folder is at fault
        reason = " ".join(str(error).split())[:300]
        raise InputFault(
            f"scorer {source.name}: {folder} cannot be loaded ({type(error).__name__}: {reason}). "
            "Expected a transformers image model with its image processor, saved by save_pretrained."
        ) from error
    target = torch.device(device)
    model = model.float().requires_grad_(False).eval().to(target)
    return Scorer(source.name, content_hash(source), model, processor, tokenizer, target)


def _load(folder: Path) -> tuple[Any, Any, Any]:
    quiet()
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    weights: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, **safe}
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **safe)
    clip = AutoConfig.from_pretrained(folder, **safe).model_type == "clip"
    kind: Any = CLIPModel if clip else AutoModel
    model, told = kind.from_pretrained(folder, **weights)
    # A ViT is read before its pooler, which DINO's published files do not have.
    refuse_missing(folder.name, (key for key in told["missing_keys"] if clip or not key.startswith("pooler.")))
    return model, processor, AutoTokenizer.from_pretrained(folder, **safe) if clip else None


def _features(output: Any) -> Tensor:
    """Take the projected features; transformers 5 wraps them in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _summary(output: Any) -> Tensor:
    hidden = output.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else output.pooler_output.flatten(1)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of every row of `left` (N, D) with every row of `right` (M, D), in float64: (N, M)."""
    unit = torch.nn.functional.normalize
    return unit(left.double()) @ unit(right.double()).T


def image_fidelity(generated: Tensor, real: Tensor) -> Tensor:
    """Mean cosine of each generated picture's features (N, D) with all real ones (M, D): (N,)."""
    return cosines(generated, real).mean(1)


def prompt_fidelity(generated: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each picture's features (N, D) with its own prompt's (N, D): (N,)."""
    return torch.nn.functional.cosine_similarity(generated.double(), texts.double())


def diversity(generated: Tensor, prompts: Sequence[int]) -> float:
    """Mean of 1 - cosine over pairs of pictures (N, D) of one prompt; over all pairs when no prompt has two.

    NaN when there are fewer than two pictures.
    """
    index = torch.tensor(list(prompts))
    pair = torch.ones(len(index), len(index), dtype=torch.bool).triu(1)
    same = pair & (index[:, None] == index[None, :])
    chosen = same if same.any() else pair
    distances = 1 - cosines(generated, generated)
    return float(distances[chosen].mean()) if chosen.any() else float("nan")


Features = dict[str, Tensor]
"""Features (N, D) of pictures by the hash of the encoder."""


def encode(pictures: np.ndarray, scorers: Iterable[AnyScorer]) -> Features:
    """Encode pictures, uint8 (N, H, W, 3), with every encoder among the scorers, once with each."""
    encoders = {scorer.hash: scorer for scorer in scorers if isinstance(scorer, Scorer)}
    return {hash: encoder.images(pictures) for hash, encoder in encoders.items()}


def score(
    pictures: np.ndarray,
    features: Features,
    prompts: Sequence[int],
    described: Sequence[str],
    scorers: Scorers,
    real: Features,
    subject: str | None = None,
) -> tuple[dict[str, float], list[dict[str, float | None]]]:
    """Score a trial's pictures.

    Parameters
    ----------
    pictures : uint8 (N, H, W, 3).
    features : theirs, as `encode` gives them.
    prompts : which prompt each picture has, (N,).
    described : each picture's prompt without the rare token, (N,).
    scorers : score name to scorer; a name ends in `_i` (image fidelity) or `_t` (prompt fidelity), or is `colour`.
    real : features of the real pictures.
    subject : the task's subject in the built-in world, which `colour` needs.

    Returns
    -------
    The trial's scores, `diversity` included, and each picture's; None where a picture is not to be judged.

    Raises
    ------
    InputFault : a score whose name says neither, a text score of a scorer that reads no text, or `colour` without a
        subject of the built-in world.
    """
    encoders = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, Scorer)}
    columns: dict[str, list[Any]] = {}
    for name, scorer in scorers.items():
        if isinstance(scorer, TrueColours):
            columns[name] = scorer.fidelity(pictures, described, subject)
        elif isinstance(scorer, PartReader):
            raise InputFault(f"{name} needs the maps that pictures are to follow, which only control tasks have.")
        elif name.endswith("_i"):
            columns[name] = image_fidelity(features[scorer.hash], real[scorer.hash]).tolist()
        elif name.endswith("_t"):
            columns[name] = prompt_fidelity(features[scorer.hash], scorer.texts(described)).tolist()
        else:
            raise InputFault(f"score {name!r}: expected a name ending in _i (image fidelity) or _t (prompt fidelity).")
    judged = {name: [value for value in values if value is not None] for name, values in columns.items()}
    totals = {name: float(np.mean(values)) if values else float("nan") for name, values in judged.items()}
    judge = encoders.get("dino_i") or next((scorer for name, scorer in encoders.items() if name.endswith("_i")), None)
    if judge is not None:
        totals["diversity"] = diversity(features[judge.hash], prompts)
    return totals, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
