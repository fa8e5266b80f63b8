"""DDIM (Song et al. 2020, https://arxiv.org/abs/2010.02502)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DDIMScheduler


def step_noise(
    config: Mapping[str, Any],
    *,
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
) -> DDIMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
    """
    return DDIMScheduler.from_config(
        config, timestep_spacing=timestep_spacing, clip_sample=False, set_alpha_to_one=True
    )
