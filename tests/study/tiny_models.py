"""The architectures of the literature with tiny random weights, each built by its own diffusers class and saved."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.study import tiny

LABELS = {"0": "tench, Tinca tinca", "1": "robot", "2": "dog, domestic dog", "3": "robot dog"}


def sd2_folder(root: Path) -> Path:
    """Stable Diffusion 2.1: predicts velocity, linear projections, a head width for each level, OpenCLIP's GELU."""
    unet = _unet(cross_attention_dim=16, attention_head_dim=(2, 3), use_linear_projection=True, upcast_attention=True)
    text = CLIPTextModel(tiny.text_config(num_hidden_layers=2, hidden_act="gelu"))
    pipeline = StableDiffusionPipeline(
        tiny.autoencoder(), text, tiny.tokenizer(root / "tokenizer", 16), unet, tiny.scheduler("v_prediction"),
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    return _saved(pipeline, root / "sd2")


def sdxl_folder(root: Path) -> Path:
    """Stable Diffusion XL: two text encoders, the second's pooled text, sizes and crops of pictures."""
    unet = _unet(
        cross_attention_dim=32, attention_head_dim=(2, 3), use_linear_projection=True,
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )  # fmt: skip
    words = tiny.tokenizer(root / "tokenizer", 16)
    first = CLIPTextModel(tiny.text_config(num_hidden_layers=2))
    second = CLIPTextModelWithProjection(tiny.text_config(num_hidden_layers=2, hidden_act="gelu"))
    pipeline = StableDiffusionXLPipeline(
        tiny.autoencoder(), first, second, words, words, unet, tiny.scheduler("epsilon"), add_watermarker=False
    )
    return _saved(pipeline, root / "sdxl")


def dit_folder(root: Path) -> Path:
    """DiT: classes instead of text, a variance that is predicted too."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    schedule = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    folder = _saved(DiTPipeline(transformer, tiny.autoencoder(), schedule), root / "dit")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": LABELS}))
    return folder


def sd3_folder(root: Path, t5: bool = True, **schedule: float | bool) -> Path:
    """Stable Diffusion 3.5 medium: joint attention, self-attention beside it in the first block, flow matching."""
    transformer = SD3Transformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, in_channels=4, out_channels=4,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=24, pos_embed_max_size=12,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    words = tiny.tokenizer(root / "tokenizer", 16)
    clips = [CLIPTextModelWithProjection(tiny.text_config(num_hidden_layers=2)) for _ in range(2)]
    reader, third = _t5(root, 40) if t5 else (None, None)
    settings = schedule or {"shift": 3.0}
    pipeline = StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(**settings), _shifted(), clips[0], words, clips[1], words,
        third, reader,
    )  # fmt: skip
    return _saved(pipeline, root / f"sd3-{t5}-{len(schedule)}")


def flux_folder(root: Path, dev: bool = True) -> Path:
    """Flux: double and single blocks; dev is told the guidance and shifts by size, schnell does neither."""
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=dev, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    text = CLIPTextModel(tiny.text_config())
    reader, second = _t5(root, 16)
    schedule = FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
    pipeline = FluxPipeline(
        schedule, _shifted(), text, tiny.tokenizer(root / "tokenizer", 16), second, reader, transformer
    )
    return _saved(pipeline, root / f"flux-{dev}")


MODELS: dict[str, Callable[[Path], Path]] = {
    "sd2": sd2_folder,
    "sdxl": sdxl_folder,
    "dit": dit_folder,
    "sd3": sd3_folder,
    "sd3 without T5, shifted by size": lambda root: sd3_folder(root, False, use_dynamic_shifting=True),
    "flux dev": flux_folder,
    "flux schnell": lambda root: flux_folder(root, False),
}
"""Every architecture that is no Stable Diffusion 1 and no PixArt, by what it is called in tests."""


def _unet(**changes: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (16, 24),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**sizes, **changes)


def _t5(root: Path, width: int) -> tuple[object, T5EncoderModel]:
    reader = tiny.t5_tokenizer(root / "t5-tokenizer")
    config = T5Config(vocab_size=len(reader), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return reader, T5EncoderModel(config)


def _shifted() -> AutoencoderKL:
    """An autoencoder whose latents have a shift too, and that has no convolutions between them and itself."""
    config = {name: value for name, value in tiny.autoencoder().config.items() if not name.startswith("_")}
    return AutoencoderKL(**config | {"shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False})


def _saved(pipeline: object, folder: Path) -> Path:
    for number, module in enumerate(pipeline.components.values()):
        if isinstance(module, torch.nn.Module):
            _drawn(module, number)
    pipeline.save_pretrained(folder)
    return folder


def _drawn(module: torch.nn.Module, seed: int) -> None:
    """Draw the matrices anew: some start at zero, which would hide what comes before them; norms stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            std = parameter[0].numel() ** -0.5
            parameter.data.normal_(std=std, generator=generator)
