"""Ancestral Euler: each step adds fresh noise (k-diffusion; Song et al. 2020, arXiv 2011.13456).

Fresh noise keeps trajectories that are long in flight from depending on a few initial draws.
https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import EulerAncestralDiscreteScheduler

from loba_tui.core.program.trajectories.noise_schedulers import TimestepOptions, diffusion_scheduler


def step_noise(
    config: Mapping[str, Any], *, options: TimestepOptions
) -> EulerAncestralDiscreteScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(EulerAncestralDiscreteScheduler, config, options)
