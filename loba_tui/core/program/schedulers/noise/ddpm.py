"""DDPM: ancestral sampling of the diffusion process (Ho et al. 2020, https://arxiv.org/abs/2006.11239)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDPMScheduler

from loba_tui.core.program.trajectories.noise_schedulers import TimestepOptions, diffusion_scheduler


def step_noise(config: Mapping[str, Any], *, options: TimestepOptions) -> DDPMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(DDPMScheduler, config, options, clip_sample=False)
