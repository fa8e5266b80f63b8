"""Ancestral Euler: each step adds fresh noise (k-diffusion; Song et al. 2020, arXiv 2011.13456).

Fresh noise keeps trajectories that are long in flight from depending on a few initial draws.
https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import EulerAncestralDiscreteScheduler


def step_noise(
    config: Mapping[str, Any],
    *,
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
) -> EulerAncestralDiscreteScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
    """
    return EulerAncestralDiscreteScheduler.from_config(config, timestep_spacing=timestep_spacing)
