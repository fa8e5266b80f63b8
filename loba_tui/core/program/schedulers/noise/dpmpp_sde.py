"""DPM-Solver++ (2M) of the diffusion SDE: each step adds fresh noise.

Lu et al. 2022, https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DPMSolverMultistepScheduler

from loba_tui.core.program.trajectories.noise_schedulers import diffusion_scheduler


def step_noise(
    config: Mapping[str, Any],
    *,
    order: Literal[1, 2] = 2,
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
    use_karras_sigmas: bool = False,
    rescale_betas_zero_snr: bool | None = None,
) -> DPMSolverMultistepScheduler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config (betas, prediction type).
        order: Predictions that a step uses.
        timestep_spacing: Where the sampling grid lies; "trailing" includes the noisiest timestep.
        use_karras_sigmas: Space noise levels as in equation 5 of https://arxiv.org/abs/2206.00364.
        rescale_betas_zero_snr: Let the last timestep be pure noise (https://arxiv.org/abs/2305.08891);
            null keeps what the model was trained with.
    """
    return diffusion_scheduler(
        DPMSolverMultistepScheduler,
        config,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        timestep_spacing=timestep_spacing,
        use_karras_sigmas=use_karras_sigmas,
        rescale_betas_zero_snr=rescale_betas_zero_snr,
    )
