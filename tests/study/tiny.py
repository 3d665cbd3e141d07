"""Tiny random models, saved as genuine folders, so that every test runs the true loading path in a second."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
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
    vae = autoencoder()
    words = tokenizer(root / "tokenizer", 16)
    text_encoder = CLIPTextModel(text_config())
    pipeline = StableDiffusionPipeline(
        vae,
        text_encoder,
        words,
        unet,
        scheduler(prediction),
        None,
        None,
        requires_safety_checker=False,  # type: ignore[arg-type]
    )
    for module in (unet, vae, text_encoder):
        module.half()
    pipeline.save_pretrained(folder)
    return folder


def pixart_folder(root: Path, prediction: str = "v_prediction", text: str = "clip", **changes: int) -> Path:
    """Save a random PixArtAlphaPipeline (32-pixel pictures, 8x8x4 latents, fp16) and return its folder.

    Its text encoder is a CLIP of 120 positions, or with `text="t5"` a T5 whose tokenizer is a SentencePiece model, as
    published ones are, and its denoiser then predicts a variance too, as theirs do.
    """
    torch.manual_seed(0)
    folder = root / "-".join(["tiny-pixart", prediction, text, *map(str, changes.values())])
    sizes = {"sample_size": 8, "out_channels": 8 if text == "t5" else 4, **changes}
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, num_layers=2, cross_attention_dim=24, caption_channels=16, **sizes
    )
    vae = autoencoder()
    if text == "t5":
        words = t5_tokenizer(root / "t5-tokenizer")
        text_encoder = T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
    else:
        words = tokenizer(root / "tokenizer", 16)
        text_encoder = CLIPTextModel(text_config(max_position_embeddings=120))
    pipeline = PixArtAlphaPipeline(words, text_encoder, vae, transformer, scheduler(prediction))
    for module in (transformer, vae, text_encoder):
        module.half()
    pipeline.save_pretrained(folder)
    if text == "t5":  # what is saved anew has a tokenizer.json; published folders do not
        for file in (folder / "tokenizer").iterdir():
            file.unlink()
        for file in (root / "t5-tokenizer").iterdir():
            (folder / "tokenizer" / file.name).write_bytes(file.read_bytes())
    return folder


def t5_tokenizer(folder: Path) -> T5Tokenizer:
    """Train a SentencePiece model of T5's kind on a few sentences; write it as published ones are, and load it."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"a photo of a {word} on {word}" for word in WORDS]),
        model_prefix=str(folder / "spiece"), vocab_size=40, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return T5Tokenizer.from_pretrained(folder)


def autoencoder() -> AutoencoderKL:
    """An autoencoder of 32-pixel pictures, to latents of 8x8x4."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    )


def scheduler(prediction: str) -> DDPMScheduler:
    """The noise schedule of Stable Diffusion."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=prediction,
        steps_offset=1,
    )


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


def photographs(root: Path) -> Path:
    """Write three pictures of a subject as users have them, and return their folder."""
    folder = root / "rex"
    folder.mkdir()
    for index, picture in enumerate(pictures()):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder
