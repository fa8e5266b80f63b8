"""Linear multistep on the probability-flow ODE, as k-diffusion has it.

The ODE is that of Karras et al. 2022, https://arxiv.org/abs/2206.00364; four derivatives are
remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import LMSDiscreteScheduler

from loba_tui.core.program.trajectories.noise_schedulers import (
    MultistepOptions,
    diffusion_scheduler,
)


def step_noise(config: Mapping[str, Any], *, options: MultistepOptions) -> LMSDiscreteScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(LMSDiscreteScheduler, config, options)
