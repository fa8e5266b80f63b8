"""DPM-Solver++ (2M) of the diffusion SDE: each step adds fresh noise.

Lu et al. 2022, https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DPMSolverMultistepScheduler

from loba_tui.core.program.trajectories.noise_schedulers import SigmaOptions, diffusion_scheduler


def step_noise(
    config: Mapping[str, Any], *, order: Literal[1, 2] = 2, options: SigmaOptions
) -> DPMSolverMultistepScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        order: Predictions that a step uses.
        options: Of the grid.
    """
    return diffusion_scheduler(
        DPMSolverMultistepScheduler,
        config,
        options,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
    )
