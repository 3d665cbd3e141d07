"""Stable Diffusion 3: joint attention over text and picture, three text encoders of which T5 may be missing."""

import inspect
from typing import Any

from torch import Tensor

from study.backbones.flow import FlowMatching
from study.backbones.pooled import joined, parted


class StableDiffusion3(FlowMatching):
    """A frozen StableDiffusion3Pipeline."""

    @property
    def _reader(self) -> Any:
        return self.pipeline.tokenizer_3 or self.pipeline.tokenizer

    @property
    def tokens(self) -> int:
        """As `Backbone.tokens`: what T5 reads, or CLIP where there is no T5."""
        return super().tokens if self.pipeline.tokenizer_3 is None else self._t5_tokens()

    def _t5_tokens(self) -> int:
        default = inspect.signature(self.pipeline.encode_prompt).parameters["max_sequence_length"].default
        words = self.pipeline.tokenizer_3
        return int(default if words is None else min(words.model_max_length, default))

    def _encode_prompts(self, prompts: list[str]) -> Tensor:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens(),
        )  # fmt: skip
        return joined(text, pooled)

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """As `Backbone.predict`."""
        text, pooled = parted(context, self.denoiser.config.pooled_projection_dim)
        predicted: Tensor = self.denoiser(
            hidden_states=noisy,
            timestep=timesteps.expand(len(noisy)),
            encoder_hidden_states=text,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return predicted
