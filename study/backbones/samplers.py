"""The schedulers of diffusers that draw pictures, made from a backbone's own noise schedule."""

from collections.abc import Mapping
from typing import Any

from adapters.faults import InputFault

SAMPLERS = ("dpmsolver++", "ddim", "euler")


def diffusion_sampler(schedule: Mapping[str, Any], sampler: str) -> Any:
    """Make the scheduler of a sampler for a denoiser that predicts noise or velocity.

    Parameters
    ----------
    schedule : the configuration of the pipeline's own scheduler.

    Raises
    ------
    InputFault : an unknown sampler.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    config = {"clip_sample": False, **schedule}
    if sampler == "dpmsolver++":
        return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2)
    if sampler == "ddim":
        return DDIMScheduler.from_config(config)
    if sampler == "euler":
        return EulerDiscreteScheduler.from_config(config)
    raise InputFault(f"sampler {sampler!r} is unknown; expected one of {', '.join(SAMPLERS)}.")


def flow_sampler(schedule: Mapping[str, Any], sampler: str, shift: float) -> Any:
    """Make the scheduler of a sampler for a denoiser that was trained by flow matching.

    Parameters
    ----------
    shift : of the schedule towards noise, s in σ' = sσ / (1 + (s - 1)σ); only DPM-Solver++ is not told it by the
        pipeline's configuration.

    Raises
    ------
    InputFault : a sampler that is unknown, or does not follow flows.
    """
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    if sampler == "euler":
        return FlowMatchEulerDiscreteScheduler.from_config(schedule)
    if sampler == "dpmsolver++":
        return DPMSolverMultistepScheduler(
            num_train_timesteps=schedule["num_train_timesteps"],
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
        )
    raise InputFault(f"sampler {sampler!r} does not follow flows; expected euler or dpmsolver++ on this backbone.")
