"""Euler steps of the probability-flow ODE (Karras et al. 2022, https://arxiv.org/abs/2206.00364)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import EulerDiscreteScheduler

from loba_tui.core.program.trajectories.noise_schedulers import SigmaOptions, diffusion_scheduler


def step_noise(config: Mapping[str, Any], *, options: SigmaOptions) -> EulerDiscreteScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(EulerDiscreteScheduler, config, options)
