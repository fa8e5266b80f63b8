"""PNDM: pseudo linear multistep (Liu et al. 2022, https://arxiv.org/abs/2202.09778).

It remembers four predictions; its first step takes two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import PNDMScheduler

from loba_tui.core.program.trajectories.noise_schedulers import Spacing, diffusion_scheduler


def step_noise(config: Mapping[str, Any], *, options: Spacing) -> PNDMScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config."""
    return diffusion_scheduler(
        PNDMScheduler, config, options, skip_prk_steps=True, set_alpha_to_one=True
    )
