"""Stable Diffusion XL: two text encoders, the second's pooled text, and the pictures' sizes."""

import torch
from torch import Tensor

from study.backbones.loading import Backbone
from study.backbones.pooled import joined, parted


class StableDiffusionXL(Backbone):
    """A frozen StableDiffusionXLPipeline.

    The U-Net is told the size that pictures had, where they were cropped, and the size they have. Here the first and
    the last are the size they are drawn at, and the crop begins in the upper left corner, as the pipeline says it when
    it draws.
    """

    def _encode_prompts(self, prompts: list[str]) -> Tensor:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return joined(text, pooled)

    def _empty(self) -> Tensor:
        """As `Backbone._empty`; zeros where the pipeline says so, as the published one does."""
        empty = self.embed([""])
        return torch.zeros_like(empty) if self.pipeline.config.force_zeros_for_empty_prompt else empty

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """As `Backbone.predict`."""
        text, pooled = parted(context, self.pipeline.text_encoder_2.config.projection_dim)
        height, width = (edge * self.pipeline.vae_scale_factor for edge in noisy.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=text.dtype, device=text.device)
        predicted: Tensor = self.denoiser(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)},
            return_dict=False,
        )[0]
        return predicted
