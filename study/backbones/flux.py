"""Flux: joint attention in double and single blocks, latents in packs of four, guidance as an input."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from study.backbones.flow import FlowMatching
from study.backbones.pooled import joined, parted

TRAINED_GUIDANCE = 3.5
"""Guidance that a denoiser distilled for guidance is trained at, as in diffusers' training scripts."""


class Flux(FlowMatching):
    """A frozen FluxPipeline.

    Guidance is a number that the denoiser is told (dev) or nothing at all (schnell), not a second prediction without
    the prompt. The text carries it behind the pooled vector.
    """

    @property
    def _edge(self) -> int:
        return int(self.pipeline.default_sample_size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """As `Backbone.latent_shape`: before they are packed."""
        edge = self.size // self.pipeline.vae_scale_factor
        return self.denoiser.config.in_channels // 4, edge, edge

    @property
    def _reader(self) -> Any:
        return self.pipeline.tokenizer_2

    @property
    def tokens(self) -> int:
        """As `Backbone.tokens`: what T5 reads."""
        default = inspect.signature(self.pipeline.encode_prompt).parameters["max_sequence_length"].default
        return int(min(self._reader.model_max_length, default))

    def _patch(self) -> int:
        return 2

    def _sigmas(self, steps: int) -> np.ndarray:
        return np.linspace(1, 1 / steps, steps)

    def _encode_prompts(self, prompts: list[str]) -> Tensor:
        text, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.tokens
        )
        return joined(text, torch.cat([pooled, pooled.new_full((len(prompts), 1), TRAINED_GUIDANCE)], dim=1))

    def guided(self, context: Tensor, guidance: float) -> tuple[Tensor, ...]:
        """As `Backbone.guided`: the prompts alone, with the guidance they are drawn at."""
        text, vector = parted(context, self.denoiser.config.pooled_projection_dim + 1)
        return (joined(text, torch.cat([vector[:, :-1], vector.new_full((len(vector), 1), guidance)], dim=1)),)

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """As `Backbone.predict`."""
        config, pipeline = self.denoiser.config, self.pipeline
        count, channels, height, width = noisy.shape
        text, vector = parted(context, config.pooled_projection_dim + 1)
        places = pipeline._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype)
        predicted = self.denoiser(
            hidden_states=pipeline._pack_latents(noisy.contiguous(), count, channels, height, width),
            timestep=timesteps.expand(count).to(noisy.dtype) / self.timesteps,
            guidance=vector[:, -1] if config.guidance_embeds else None,
            pooled_projections=vector[:, :-1],
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        factor = pipeline.vae_scale_factor
        unpacked: Tensor = pipeline._unpack_latents(predicted, height * factor, width * factor, factor)
        return unpacked
