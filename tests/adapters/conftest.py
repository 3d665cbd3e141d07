"""Tiny random denoisers in float64, and the true ones on the meta device."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from study.backbones.architectures import ARCHITECTURES, architecture

CONTEXT = 12


def tiny_unet(**changes) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 2,
        **changes,
    }
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).double().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def unets() -> dict[str, UNet2DConditionModel]:
    """Convolutional projection with one transformer block; linear projection with two a transformer."""
    return {"plain": tiny_unet(), "deep": tiny_unet(use_linear_projection=True, transformer_layers_per_block=2)}


@pytest.fixture
def unet(unets) -> UNet2DConditionModel:
    return unets["plain"]


@pytest.fixture(scope="session")
def batch() -> dict[str, torch.Tensor]:
    """Four rows: noisy latents, timesteps, text."""
    generator = torch.Generator().manual_seed(7)
    return {
        "sample": torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64),
        "timestep": torch.tensor([10, 400, 700, 999]),
        "encoder_hidden_states": torch.randn(4, 5, CONTEXT, generator=generator, dtype=torch.float64),
    }


@pytest.fixture(scope="session")
def architectures() -> dict[str, torch.nn.Module]:
    return {name: architecture(name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def dit() -> torch.nn.Module:
    """A class-conditional diffusion transformer of two blocks: self-attention and feed-forward, adaptive norms."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    )
    for parameter in model.parameters():  # some layers start at zero, which would hide what comes before them
        torch.nn.init.normal_(parameter, std=0.1)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def dit_batch() -> dict[str, torch.Tensor]:
    """Four rows: noisy latents, timesteps, classes."""
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64),
        "timestep": torch.tensor([10, 400, 700, 999]),
        "class_labels": torch.tensor([1, 3, 5, 7]),
    }
