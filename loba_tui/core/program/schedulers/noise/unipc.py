"""UniPC: predictor and corrector of one prediction (Zhao et al. 2023, https://arxiv.org/abs/2302.04867)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import UniPCMultistepScheduler

from loba_tui.core.program.trajectories.noise_schedulers import SigmaOptions, diffusion_scheduler


def step_noise(
    config: Mapping[str, Any], *, order: Literal[1, 2, 3] = 2, options: SigmaOptions
) -> UniPCMultistepScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        order: Predictions that a step uses; 3 suits sampling without guidance.
        options: Of the grid.
    """
    return diffusion_scheduler(UniPCMultistepScheduler, config, options, solver_order=order)
