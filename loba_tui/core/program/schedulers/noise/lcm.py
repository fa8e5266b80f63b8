"""LCM: few-step sampling of latent consistency models (Luo et al. 2023, https://arxiv.org/abs/2310.04378).

Only sensible for models, or with adapters, that were distilled for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import LCMScheduler
from pydantic import PositiveInt

from loba_tui.core.program.trajectories.noise_schedulers import ZeroSnr, diffusion_scheduler


def step_noise(
    config: Mapping[str, Any], *, original_inference_steps: PositiveInt = 50, options: ZeroSnr
) -> LCMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        original_inference_steps: The grid that the model was distilled on; its timesteps are picked
            from it.
        options: Of the grid.
    """
    return diffusion_scheduler(
        LCMScheduler,
        config,
        options,
        original_inference_steps=original_inference_steps,
        clip_sample=False,
        set_alpha_to_one=True,
    )
