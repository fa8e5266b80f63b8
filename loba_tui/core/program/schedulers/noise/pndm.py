"""PNDM: pseudo linear multistep (Liu et al. 2022, https://arxiv.org/abs/2202.09778).

It remembers four predictions; its first step takes two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import PNDMScheduler

from loba_tui.core.program.trajectories.noise_schedulers import diffusion_scheduler


def step_noise(
    config: Mapping[str, Any],
    *,
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
) -> PNDMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
    """
    return diffusion_scheduler(
        PNDMScheduler,
        config,
        timestep_spacing=timestep_spacing,
        skip_prk_steps=True,
        set_alpha_to_one=True,
    )
