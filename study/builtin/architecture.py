"""The architectures of the built-in models: two pipelines, like Stable Diffusion and PixArt, and the scorers, all tiny.

Building gives random weights; `study.builtin.train` trains them and writes the folders that ship.
"""

import json
import string
from graphlib import TopologicalSorter
from pathlib import Path

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from torch import nn
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

from study.world.captions import WORDS

PIXELS = 64
TOKENS = 24
PIXART_TOKENS = 120
"""What diffusers' PixArt pipeline pads prompts to by default; the padding is masked, so it changes nothing."""
WIDTH = 96
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load the tokenizer: every word of the world one token, anything else split down to its bytes.

    Raises
    ------
    graphlib.CycleError
        If the words cannot be ordered so that each merges whole.
    """
    merges = [pair for word in _merge_order(WORDS) for pair in _merges(word)]
    merges = list(dict.fromkeys(merges))
    vocabulary = list(dict.fromkeys([*_byte_letters(), *(c + "</w>" for c in _byte_letters()),
                                     *("".join(pair) for pair in merges), START, END]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS,
                         bos_token=START, eos_token=END, unk_token=END, pad_token=END)


def vae() -> AutoencoderKL:
    """Autoencoder, 64×64×3 to 16×16×8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=8, norm_num_groups=8,
        mid_block_add_attention=False, sample_size=PIXELS)


def unet() -> UNet2DConditionModel:
    """Denoiser: ResNet and SA→CA→FFN blocks at 16×16, 8×8 and in the middle.

    diffusers reads `attention_head_dim` of this model as the number of heads.
    """
    return UNet2DConditionModel(
        sample_size=16, in_channels=8, out_channels=8, block_out_channels=(48, 96), layers_per_block=1,
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)


def transformer() -> PixArtTransformer2DModel:
    """Diffusion transformer: eight SA→CA→FFN blocks on the 64 patches of 2×2 latents, initialised as PixArt-α's.

    As many operations a picture as `unet`, so that studies on either take about as long.
    """
    model = PixArtTransformer2DModel(
        sample_size=16, in_channels=8, out_channels=8, patch_size=2, num_layers=8, num_attention_heads=6,
        attention_head_dim=32, cross_attention_dim=192, caption_channels=WIDTH)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = model.pos_embed.proj.weight
    nn.init.xavier_uniform_(projection.view(len(projection), -1))
    embedder, caption = model.adaln_single.emb.timestep_embedder, model.caption_projection
    for layer in (embedder.linear_1, embedder.linear_2, model.adaln_single.linear, caption.linear_1, caption.linear_2):
        nn.init.normal_(layer.weight, std=0.02)
    # What the network and its cross-attentions add is nothing at first.
    for layer in (model.proj_out, *(block.attn2.to_out[0] for block in model.transformer_blocks)):
        nn.init.zeros_(layer.weight)
    return model


def _text_config(words: CLIPTokenizer, positions: int = TOKENS) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=positions, projection_dim=WIDTH,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)


def text_encoder(words: CLIPTokenizer, positions: int = TOKENS) -> CLIPTextModel:
    """Text encoder that conditions the denoiser."""
    return CLIPTextModel(_text_config(words, positions))


def scheduler() -> DPMSolverMultistepScheduler:
    """Noise schedule of Stable Diffusion with velocity prediction, sampled by DPM-Solver++."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        steps_offset=1, prediction_type="v_prediction", algorithm_type="dpmsolver++", solver_order=2,
        timestep_spacing="trailing")


def clip(words: CLIPTokenizer) -> CLIPModel:
    """Small CLIP that scores pictures and prompts; shares no weight with the pipeline's text encoder."""
    vision = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
              "image_size": PIXELS, "patch_size": 8, "projection_dim": WIDTH}
    return CLIPModel(CLIPConfig(text_config=_text_config(words).to_dict(), vision_config=vision, projection_dim=WIDTH,
                                logit_scale_init_value=2.65))


def dino() -> ResNetModel:
    """Convolutional encoder of pictures, trained without words: the stand-in for DINO."""
    return ResNetModel(ResNetConfig(embedding_size=24, hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 1, 1],
                                    layer_type="basic", downsample_in_first_stage=False))


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in byte-level BPE (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def _merges(word: str) -> list[tuple[str, str]]:
    """Merges that build a word from the left, its last letter marked as the word's end."""
    letters = [*word[:-1], word[-1] + "</w>"]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def _merge_order(words: tuple[str, ...]) -> list[str]:
    """Order words so that no earlier merge breaks into the inside of a later word."""
    assert all(set(word) <= set(string.ascii_lowercase) for word in words)
    first = {word: _merges(word)[0] for word in words if len(word) > 1}
    order: TopologicalSorter[str] = TopologicalSorter({word: set() for word in words})
    for word in words:
        letters = [*word[:-1], word[-1] + "</w>"]
        inner = set(zip(letters[1:], letters[2:], strict=False))
        for other, pair in first.items():
            if pair in inner and first.get(word) != pair:
                order.add(other, word)
    return list(order.static_order())


def write_scorer(model: CLIPModel | ResNetModel, folder: Path, words: CLIPTokenizer | None = None) -> None:
    """Write a scorer as a transformers folder: half-precision weights, image processor, and tokenizer for a CLIP."""
    model.half().save_pretrained(folder)
    CLIPImageProcessorPil(do_resize=True, size={"shortest_edge": PIXELS}, do_center_crop=True, crop_size=PIXELS,
                          image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    if words is not None:
        words.save_pretrained(folder)
    declare_float32(folder)


def declare_float32(folder: Path) -> None:
    """Make transformers load half-precision weights as float32, as diffusers does, so that a pipeline's parts agree."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float32"}, indent=2) + "\n")
