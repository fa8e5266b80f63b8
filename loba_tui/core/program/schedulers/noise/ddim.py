"""DDIM (Song et al. 2020, https://arxiv.org/abs/2010.02502)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from loba_tui.core.program.trajectories.noise_schedulers import TimestepOptions, diffusion_scheduler


def step_noise(config: Mapping[str, Any], *, options: TimestepOptions) -> DDIMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(
        DDIMScheduler, config, options, clip_sample=False, set_alpha_to_one=True
    )
