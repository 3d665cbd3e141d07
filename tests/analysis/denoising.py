"""Prompts, a tiny denoiser, and a pass of it under them."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

TOKENIZER = Path(__file__).resolve().parents[2] / "study" / "builtin" / "micro-unet" / "tokenizer"
LENGTH = 24
PROMPTS = ["a photo of a red robot on grass", "a photo of a blue lamp on snow"]


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        cross_attention_dim=12, attention_head_dim=2, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    ).eval().requires_grad_(False)  # fmt: skip


def inputs(rows: int = 2, height: int = 8, width: int = 8, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(rows, 4, height, width, generator=generator)
    return noisy, torch.randn(rows, LENGTH, 12, generator=generator) * 3


def run(denoiser, noisy, text, timestep=500, **more):
    with torch.no_grad():
        return denoiser(noisy, timestep=torch.as_tensor(timestep), encoder_hidden_states=text, return_dict=False,
                        **more)[0]  # fmt: skip
