"""PixArt: a diffusion transformer with cross-attention to T5's text, whose padding is masked."""

import inspect

import torch

from study.backbones.loading import Backbone


class PixArt(Backbone):
    """A frozen PixArtAlphaPipeline or PixArtSigmaPipeline.

    PixArt masks what pads a prompt, so the text carries its mask along: `embed` gives (N, tokens, width + 1), where the
    last feature of a token is 1 if it is read and 0 if it is padding.
    """

    @property
    def tokens(self) -> int:
        """As `Backbone.tokens`: as many as the pipeline reads by default, or fewer where its tokenizer says so.

        T5 reads prompts of any length; its tokenizer's limit is not what the transformer was trained on.
        """
        default = inspect.signature(self.pipeline.encode_prompt).parameters["max_sequence_length"].default
        return min(super().tokens, default)

    def _encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        text, mask, _, _ = self.pipeline.encode_prompt(prompts, False, device=self.device,
                                                       max_sequence_length=self.tokens, clean_caption=False)
        return torch.cat([text, mask[..., None].to(text.dtype)], dim=-1)

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `Backbone.predict`; of a denoiser that predicts a variance too, only the target."""
        predicted: torch.Tensor = self.denoiser(
            noisy,
            encoder_hidden_states=context[..., :-1],
            encoder_attention_mask=context[..., -1],
            timestep=timesteps.expand(len(noisy)),
            added_cond_kwargs=self._size_of(noisy),
            return_dict=False,
        )[0]
        return predicted[:, : noisy.shape[1]]

    def _size_of(self, noisy: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Give the pixels and the aspect ratio of each picture, of which the denoisers of 1024 pixels want to know."""
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        edges = torch.tensor(noisy.shape[-2:], dtype=noisy.dtype, device=noisy.device)
        return {
            "resolution": (edges * self.pipeline.vae_scale_factor).expand(len(noisy), 2),
            "aspect_ratio": (edges[0] / edges[1]).expand(len(noisy), 1),
        }
