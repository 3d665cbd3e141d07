"""Flow matching: what is learned is the way from a picture to noise, on a straight line between them (2210.02747)."""

import math
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from study.backbones.loading import Backbone
from study.backbones.samplers import flow_sampler


class FlowMatching(Backbone):
    """A backbone whose denoiser predicts the flow, noise minus latents, at latents · (1 - σ) + noise · σ.

    A timestep is a thousand times σ. A training step is drawn evenly from the scheduler's own steps, so the pipeline's
    shift towards noise (3 of Stable Diffusion 3) holds in training too; a shift that depends on the pictures' size is
    one of sampling only, as in diffusers' training scripts.
    """

    predictions: ClassVar[tuple[str, ...]] = ()

    def _noise_schedule(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)

    def times(self, indices: Tensor) -> Tensor:
        """As `Backbone.times`: a thousand times σ."""
        return self.noiser.timesteps.flip(0).to(indices.device)[indices]

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """As `Backbone.noised`."""
        sigma = (timesteps.to(latents.dtype) / self.timesteps).view(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Give the flow."""
        return noise - latents

    def scheduler(self, sampler: str) -> Any:
        """As `Backbone.scheduler`."""
        config = self.noiser.config
        shift = config.shift
        if config.use_dynamic_shifting:
            shift = self._mu() if config.time_shift_type == "linear" else math.exp(self._mu())
        return flow_sampler(config, sampler, shift)

    def set_steps(self, scheduler: Any, steps: int) -> None:
        """As `Backbone.set_steps`."""
        if scheduler.config.get("use_flow_sigmas"):
            return scheduler.set_timesteps(steps, device=self.device)
        dynamic = {"mu": self._mu()} if scheduler.config.use_dynamic_shifting else {}
        scheduler.set_timesteps(steps, device=self.device, sigmas=self._sigmas(steps), **dynamic)

    def _sigmas(self, steps: int) -> np.ndarray | None:
        """Give the σ of the steps before they are shifted; None where the scheduler's own are taken."""
        return None

    def _patch(self) -> int:
        """Say how many latents wide a patch is."""
        return int(self.denoiser.config.patch_size)

    def _mu(self) -> float:
        """Say how far the schedule is shifted at this size of pictures, where the scheduler asks for that."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.noiser.config
        _, height, width = self.latent_shape
        return float(
            calculate_shift(
                (height // self._patch()) * (width // self._patch()),
                config.base_image_seq_len,
                config.max_image_seq_len,
                config.base_shift,
                config.max_shift,
            )
        )
