"""Load a StableDiffusionPipeline folder and offer what training and sampling need: encode, embed, predict, decode.

Weights come from safetensors only and nothing of a folder is executed, so a stranger's folder is safe to load.
The safety checker is left out: it sees photographs of 224 pixels and blanks drawings at random.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.faults import InputFault
from study.backbones.names import Source, content_hash, fetch, resolve

PREDICTIONS = ("epsilon", "v_prediction")


class Backbone:
    """A frozen pipeline and its content hash.

    Attributes
    ----------
    pipeline : the diffusers pipeline.
    denoiser : its U-Net; no parameter of it requires a gradient.
    source, name, hash : as `resolve`, `Source.name` and `content_hash` give them.
    size : edge of a picture, in pixels.
    device, dtype : where and in what the weights are.
    """

    def __init__(self, pipeline: Any, source: Source, digest: str, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import DDPMScheduler

        self.pipeline = pipeline
        self.denoiser: torch.nn.Module = pipeline.unet
        self.source = source
        self.name = source.name
        self.hash = digest
        self.device = device
        self.dtype = dtype
        self.size: int = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        self.noiser = DDPMScheduler.from_config({"clip_sample": False, **pipeline.scheduler.config})
        self._embedded: dict[str, torch.Tensor] = {}
        self._text_is_tuned = False
        self._sizes: dict[int, Backbone] = {self.size: self}
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of one picture's latents."""
        edge = self.size // self.pipeline.vae_scale_factor
        return self.pipeline.unet.config.in_channels, edge, edge

    def at(self, size: int | None) -> "Backbone":
        """Give this backbone for pictures of another size; weights and what is put on the denoiser are shared.

        Raises
        ------
        InputFault : the size is no multiple of what the autoencoder and the denoiser halve pictures to.
        """
        if size is None:
            return self
        unit = self.pipeline.vae_scale_factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        if size < unit or size % unit:
            raise InputFault(f"size {size}: {self.name} draws pictures whose edge is a multiple of {unit} pixels.")
        if size not in self._sizes:  # one for all tasks of a size, so that they are tuned together
            self._sizes[size] = copy.copy(self)
            self._sizes[size].size = size
        return self._sizes[size]

    @property
    def timesteps(self) -> int:
        """Number of diffusion timesteps the backbone was trained with."""
        return self.noiser.config.num_train_timesteps

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        """Encode pictures, uint8 (N, H, W, 3), to latents (N, C, h, w): the distribution's mean, scaled."""
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device, self.dtype)
        pixels = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        vae = self.pipeline.vae
        return torch.cat([vae.encode(p).latent_dist.mean for p in pixels.split(16)]) * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Decode latents (N, C, h, w) to pictures, uint8 (N, H, W, 3)."""
        vae = self.pipeline.vae
        latents = latents.to(self.device, self.dtype) / vae.config.scaling_factor
        pixels = torch.cat([vae.decode(part).sample for part in latents.split(16)])
        pixels = ((pixels.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    @property
    def text_encoder(self) -> torch.nn.Module:
        """The pipeline's text encoder."""
        return self.pipeline.text_encoder

    @contextmanager
    def tuned_text(self, tuned: bool = True) -> Iterator[None]:
        """Embed every prompt anew, with gradients, while the context lasts: the text encoder is being tuned."""
        former, self._text_is_tuned = self._text_is_tuned, tuned
        try:
            yield
        finally:
            self._text_is_tuned = former

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embed prompts: (N, tokens, width). With a frozen text encoder a prompt is embedded once and remembered."""
        if self._text_is_tuned:
            distinct = list(dict.fromkeys(prompts))
            embedded = self.pipeline.encode_prompt(distinct, self.device, 1, False)[0]
            return embedded[[distinct.index(prompt) for prompt in prompts]]
        with torch.no_grad():
            for prompt in prompts:
                if prompt not in self._embedded:
                    self._embedded[prompt] = self.pipeline.encode_prompt(prompt, self.device, 1, False)[0]
        return torch.cat([self._embedded[prompt] for prompt in prompts])

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """List the prompts that have more tokens than the text encoder reads; their ends are cut off."""
        tokenizer = self.pipeline.tokenizer
        lengths = [len(tokenizer(prompt, truncation=False)["input_ids"]) for prompt in prompts]
        return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > tokenizer.model_max_length]

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Add noise to latents as at the given timesteps (N,)."""
        return self.noiser.add_noise(latents, noise, timesteps)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Give what the denoiser should predict: the noise, or the velocity for a v-prediction backbone."""
        if self.noiser.config.prediction_type == "epsilon":
            return noise
        return self.noiser.get_velocity(latents, noise, timesteps)

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the denoiser on (N, C, h, w) noisy latents, (N,) timesteps and (N, tokens, width) text.

        A condition changes nothing: what was never trained with conditions takes no notice of them; see
        `study.conditioning`.
        """
        return self.denoiser(noisy, timesteps, encoder_hidden_states=context, return_dict=False)[0]


def load(
    name: str | dict[str, Any], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Backbone:
    """Load a backbone by name (see `study.backbones.names.resolve`); a hub id is downloaded if need be.

    Raises
    ------
    InputFault : an unknown name, or a folder that is broken, has no safetensors weights, or is of an unknown kind.
    """
    source = resolve(name)
    folder = fetch(source)
    pipeline = _pipeline(folder, source.name, dtype)
    prediction = pipeline.scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise InputFault(f"backbone {source.name}: it predicts {prediction!r}, expected {' or '.join(PREDICTIONS)}.")
    target = torch.device(device)
    return Backbone(pipeline.to(target), source, content_hash(source), target, dtype)


def _pipeline(folder: Path, name: str, dtype: torch.dtype) -> Any:
    kind = pipeline_class()
    try:
        pipeline = kind.from_pretrained(
            folder,
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            use_safetensors=True,
            local_files_only=True,
        )
    except Exception as error:  # whatever a broken file makes the libraries raise, the folder is at fault
        reason = " ".join(str(error).split())[:300]
        raise InputFault(
            f"backbone {name}: {folder} cannot be loaded ({type(error).__name__}: {reason}). "
            "Expected a StableDiffusionPipeline saved by save_pretrained; save or download it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_class() -> Any:
    """Import StableDiffusionPipeline, quietly. All of diffusers and transformers comes with it, which takes seconds."""
    quiet()
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline


def quiet() -> None:
    """Silence what the libraries print while they load: progress bars, and hints about torchvision."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
