"""`arch:…` backbones: the true architecture's denoiser on the meta device, for counting. Nothing is downloaded.

The configurations are those published with the models, written out; what is left out is diffusers' default.
No torch at import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.faults import InputFault
from study.backbones.kinds import DENOISERS, components

if TYPE_CHECKING:
    from torch import nn

# Denoiser classes that a configuration may name; a stranger's config.json can choose nothing else.
CLASSES = (
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)
# What early diffusers called two of them, told apart by their norms; diffusers renames them likewise as it loads them.
RENAMED = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}

PIXART: dict[str, Any] = {
    "_class_name": "PixArtTransformer2DModel",
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "sample_size": 64,
    "patch_size": 2,
    "caption_channels": 4096,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Stable Diffusion 1.x (runwayml/stable-diffusion-v1-5): 859,520,964 parameters.
    "sd15": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    # Stable Diffusion 2.1 (stabilityai/stable-diffusion-2-1): 865,910,724 parameters.
    "sd21": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    # Stable Diffusion XL base 1.0 (stabilityai/stable-diffusion-xl-base-1.0): 2,567,463,684 parameters.
    "sdxl": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    # DiT-XL/2, ImageNet 256² (facebook/DiT-XL-2-256). diffusers copies the time and class embedders into all of the
    # 28 blocks, hence 749,826,464 parameters and not the paper's 675 M.
    "dit-xl-2": {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "sample_size": 32,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
    },
    # PixArt-α, 512 pixels (PixArt-alpha/PixArt-XL-2-512x512), and PixArt-Σ (PixArt-alpha/PixArt-Sigma-XL-2-512-MS): one
    # configuration. 610,856,096 parameters, 18,448 of them for a variance that is predicted too.
    "pixart-alpha": PIXART,
    "pixart-sigma": PIXART,
    # Stable Diffusion 3 medium (stabilityai/stable-diffusion-3-medium-diffusers).
    "sd3-medium": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    },
    # Flux.1 (black-forest-labs/FLUX.1-dev, …/FLUX.1-schnell): schnell is not told the guidance.
    "flux-dev": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
    "flux-schnell": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": False},
}

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    # The text model of CLIP ViT-L/14.
    "sd15": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    # The text model of OpenCLIP ViT-H/14 without its last layer.
    "sd21": {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
    },
}


def architecture(name: str) -> nn.Module:
    """Build the denoiser of a known architecture on the meta device.

    Parameters
    ----------
    name
        A key of `ARCHITECTURES`, without ``arch:``.

    Raises
    ------
    InputFault
        For an unknown name; the known ones are listed.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(f"arch:{known}" for known in ARCHITECTURES)
        raise InputFault(f"Unknown architecture 'arch:{name}'. Known: {known}.")
    return build(ARCHITECTURES[name])


def denoiser_of(folder: Path) -> nn.Module:
    """Build the denoiser of a pipeline folder on the meta device; reads its ``config.json`` only, no weights.

    Raises
    ------
    InputFault
        When that file is missing, is not JSON, or describes no denoiser that diffusers can build.
    """
    import json

    paths = [folder / name / "config.json" for name in DENOISERS]
    path = next((path for path in paths if path.is_file()), paths[0])
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFault(f"{path} cannot be read as the configuration of a denoiser: {error}") from error
    try:
        return build(config)
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}") from fault
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ArithmeticError) as error:
        # diffusers checks configurations with whatever its own code runs into
        raise InputFault(f"{path} describes no denoiser that diffusers can build: {error}") from error


def text_architecture(name: str) -> nn.Module | None:
    """Build the text encoder of a known architecture on the meta device; None where it has none, or several."""
    return _text_model(TEXT_ENCODERS[name]) if name in TEXT_ENCODERS else None


def text_encoder_of(folder: Path) -> nn.Module:
    """Build the text encoder of a pipeline folder on the meta device; reads ``text_encoder/config.json`` only.

    Raises
    ------
    InputFault
        When that file is missing, is not JSON, or describes no CLIP text model; or when there are several.
    """
    import json

    if "text_encoder_2" in components(folder):
        raise InputFault(f"{folder} has several text encoders, which are not tuned here; leave out text_encoder=true")
    path = folder / "text_encoder" / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if (kind := config.get("model_type")) not in ("clip_text_model", None):
            raise ValueError(f"its model_type is {kind!r}")
        return _text_model(config)
    except Exception as error:  # transformers checks configurations with whatever its own code runs into
        raise InputFault(f"{path} describes no CLIP text model: {error}") from error


def _text_model(config: dict[str, Any]) -> nn.Module:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model: nn.Module = CLIPTextModel(CLIPTextConfig(**config))
    return model


def build(config: dict[str, Any]) -> nn.Module:
    """Build a denoiser on the meta device from its diffusers configuration.

    Raises
    ------
    InputFault
        When the configuration names no known denoiser class.
    """
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name == "Transformer2DModel":
        name = RENAMED.get(str(config.get("norm_type")), name)
    if name not in CLASSES:
        raise InputFault(f"the denoiser's class is {name!r}; known are {', '.join(CLASSES)}")
    import diffusers
    import torch

    with torch.device("meta"):
        model: nn.Module = getattr(diffusers, name).from_config(config)
    return model
