"""Tiny random models, saved as genuine folders, so that every test runs the true loading path in a second."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetModel,
)

WORDS = ["a", "photo", "of", "on", "in", "the", "sks", "robot", "lamp", "grass", "snow", "red", "dog"]
SIZE = 32


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges in which every one of WORDS is one token and every other text falls back to bytes."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = f"{parts[-2]} {parts[-1]}"
            parts[-2:] = ["".join(parts[-2:])]
            if merge not in merges:
                merges.append(merge)
                tokens.append(parts[-1])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """CLIPTokenizer made from a vocab.json and a merges.txt under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def text_config(**changes: int) -> CLIPTextConfig:
    """A CLIP text tower of one layer, 16 wide."""
    vocab, _ = vocabulary()
    sizes = {
        "vocab_size": len(vocab),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_dim": 12,
        "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
        "pad_token_id": vocab["<|endoftext|>"],
    }
    return CLIPTextConfig(**{**sizes, **changes})


def pipeline_folder(root: Path, prediction: str = "epsilon", seed: int = 0) -> Path:
    """Save a random StableDiffusionPipeline (32-pixel pictures, 8x8x4 latents, fp16) and return its folder."""
    torch.manual_seed(seed)
    folder = root / f"tiny-{prediction}-{seed}"
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    )
    words = tokenizer(root / "tokenizer", 16)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=prediction,
        steps_offset=1,
    )
    text_encoder = CLIPTextModel(text_config())
    pipeline = StableDiffusionPipeline(
        vae,
        text_encoder,
        words,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,  # type: ignore[arg-type]
    )
    for module in (unet, vae, text_encoder):
        module.half()
    pipeline.save_pretrained(folder)
    return folder


def clip_folder(root: Path, seed: int = 1) -> Path:
    """Save a random CLIPModel with tokenizer and image processor and return its folder."""
    torch.manual_seed(seed)
    folder = root / f"clip-{seed}"
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": 12,
    }
    config = CLIPConfig(text_config=text_config().to_dict(), vision_config=vision, projection_dim=12)
    CLIPModel(config).half().save_pretrained(folder)
    tokenizer(root / "tokenizer", 16).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def dino_folder(root: Path, seed: int = 2) -> Path:
    """Save a random ResNetModel with an image processor and return its folder."""
    torch.manual_seed(seed)
    folder = root / f"dino-{seed}"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).half().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@cache
def pictures(count: int = 3, size: int = SIZE, seed: int = 3) -> np.ndarray:
    """Smooth random pictures, uint8 (count, size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
