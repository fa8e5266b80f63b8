"""Heun's second-order steps of the probability-flow ODE.

Karras et al. 2022, algorithm 1, https://arxiv.org/abs/2206.00364. Every step but the last takes two
predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import HeunDiscreteScheduler

from loba_tui.core.program.trajectories.noise_schedulers import (
    MultistepOptions,
    diffusion_scheduler,
)


def step_noise(config: Mapping[str, Any], *, options: MultistepOptions) -> HeunDiscreteScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(HeunDiscreteScheduler, config, options)
