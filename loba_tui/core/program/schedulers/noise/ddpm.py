"""DDPM: ancestral sampling of the diffusion process (Ho et al. 2020, https://arxiv.org/abs/2006.11239)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DDPMScheduler

from loba_tui.core.program.trajectories.noise_schedulers import diffusion_scheduler


def step_noise(
    config: Mapping[str, Any],
    *,
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
    rescale_betas_zero_snr: bool | None = None,
) -> DDPMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
        rescale_betas_zero_snr: Let the last timestep be pure noise (https://arxiv.org/abs/2305.08891);
            null keeps what the model was trained with.
    """
    return diffusion_scheduler(
        DDPMScheduler,
        config,
        timestep_spacing=timestep_spacing,
        rescale_betas_zero_snr=rescale_betas_zero_snr,
        clip_sample=False,
    )
