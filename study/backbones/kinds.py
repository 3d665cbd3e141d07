"""The kinds of pipelines that serve as backbones, and what each is made of. Imports neither torch nor diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.faults import InputFault
from adapters.reading import read_json as read_file

AUTOENCODER = "AutoencoderKL"
"""The class of every pipeline's autoencoder."""
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
"""Classes of the models that read prompts. Others are not known here, and some load code that a folder names."""
_MODEL = "diffusion_pytorch_model"
_TEXT = {"text_encoder": "model", "tokenizer": None}
_SECOND_TEXT = {"text_encoder_2": "model", "tokenizer_2": None}
_THIRD_TEXT = {"text_encoder_3": "model", "tokenizer_3": None}
_UNET = ("UNet2DConditionModel",)
_EARLY = "Transformer2DModel"  # what early diffusers called DiT's and PixArt's
_NO_RESNETS = dict.fromkeys(("Res_in", "Res_out"), "ResNet blocks")
_NO_CROSS = dict.fromkeys(("CA_in", "CA_c", "CA_out"), "cross-attention")


@dataclass(frozen=True)
class Kind:
    """A class of diffusers' pipelines.

    Attributes
    ----------
    family
        Module and class that load it, in `study.backbones`.
    denoiser, denoisers
        The component that is its denoiser, and the classes that it may be of.
    others
        Its other components that are loaded, and what the file of their weights begins with; None for what has none.
    optional
        Components that may be null in ``model_index.json``.
    unused
        Components that are not loaded, and what diffusers is given in their place.
    lacking
        Positions that its denoiser does not have, and what it lacks.
    packs
        Edge of the squares of latents that the pipeline makes one of before the denoiser sees them.
    """

    family: str
    denoiser: str
    denoisers: tuple[str, ...]
    others: Mapping[str, str | None]
    optional: tuple[str, ...] = ()
    unused: Mapping[str, Any] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    packs: int = 1

    @property
    def components(self) -> dict[str, str | None]:
        """The components that are loaded, and what the file of their weights begins with."""
        return {self.denoiser: _MODEL, "vae": _MODEL, "scheduler": None, **self.others}


_VISION = {"feature_extractor": None, "image_encoder": None}
_PIXART = Kind(
    "pixart.PixArt", "transformer", ("PixArtTransformer2DModel", _EARLY), _TEXT, lacking=_NO_RESNETS
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "StableDiffusionPipeline": Kind(
        "loading.Backbone",
        "unet",
        _UNET,
        _TEXT,
        unused={**_VISION, "safety_checker": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": Kind(
        "sdxl.StableDiffusionXL", "unet", _UNET, {**_TEXT, **_SECOND_TEXT}, unused=_VISION
    ),
    "DiTPipeline": Kind(
        "dit.DiT", "transformer", ("DiTTransformer2DModel", _EARLY), {}, lacking={**_NO_RESNETS, **_NO_CROSS}
    ),
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "StableDiffusion3Pipeline": Kind(
        "sd3.StableDiffusion3",
        "transformer",
        ("SD3Transformer2DModel",),
        {**_TEXT, **_SECOND_TEXT, **_THIRD_TEXT},
        optional=("text_encoder_3", "tokenizer_3"),
        unused=_VISION,
        lacking={**_NO_RESNETS, **_NO_CROSS},
    ),
    "FluxPipeline": Kind(
        "flux.Flux",
        "transformer",
        ("FluxTransformer2DModel",),
        {**_TEXT, **_SECOND_TEXT},
        unused=_VISION,
        lacking={**_NO_RESNETS, **_NO_CROSS},
        packs=2,
    ),
}
"""Classes of diffusers' pipelines that serve as backbones."""
DENOISERS = tuple(dict.fromkeys(kind.denoiser for kind in KINDS.values()))


def pipeline_of(folder: Path) -> str:
    """Return the class of the pipeline in a folder.

    Raises
    ------
    InputFault
        When ``model_index.json`` is missing or broken, or names a class that is no key of `KINDS`.
    """
    if not (folder / "model_index.json").is_file():
        raise InputFault("model_index.json is missing")
    named = read_json(folder / "model_index.json").get("_class_name")
    if not isinstance(named, str) or named not in KINDS:
        raise InputFault(f"its class is {named!r}, expected one of {', '.join(KINDS)}")
    return named


def components(folder: Path) -> dict[str, str | None]:
    """Return the components of the pipeline in a folder that are loaded, as `Kind.components`: none that is null.

    Raises
    ------
    InputFault
        As `pipeline_of`.
    """
    kind = KINDS[pipeline_of(folder)]
    index = read_json(folder / "model_index.json")
    absent = {name for name in kind.optional if index.get(name) in (None, [None, None])}
    return {name: weights for name, weights in kind.components.items() if name not in absent}


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    InputFault
        When it holds anything else.
    """
    try:
        content = read_file(path, 100_000_000)  # a large vocabulary has some 20 MB
    except (OSError, ValueError) as error:
        raise InputFault(f"{path.name} is no JSON text ({error})") from error
    if not isinstance(content, dict):
        raise InputFault(f"{path.name} holds {type(content).__name__}, expected an object")
    return content
