"""Euler steps of flow-matching models (Esser et al. 2024, https://arxiv.org/abs/2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveFloat

from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.trajectories.noise_schedulers import FlowMatchEuler


def step_noise(
    config: Mapping[str, Any],
    *,
    shift: PositiveFloat | None = None,
    use_karras_sigmas: bool = False,
) -> FlowMatchEuler:
    """Return the diffusers scheduler that steps the noise, made from the model's own config.

    Args:
        config: The pipeline's scheduler config.
        shift: Above 1 takes more steps where there is much noise, as large pictures need it; null
            keeps the model's own.
        use_karras_sigmas: Space noise levels as in equation 5 of https://arxiv.org/abs/2206.00364.

    Raises:
        RecipeError: The model is not a flow-matching one.
    """
    if not is_flow_matching(config):
        kind = config.get("prediction_type", "epsilon")
        raise RecipeError(
            "scheduler.noise: flow_match_euler is for flow-matching models; this is a diffusion"
            f" model ({kind})",
            "Take ddim, euler, dpmpp_2m or another one.",
        )
    given = {} if shift is None else {"shift": shift, "use_dynamic_shifting": False}
    return FlowMatchEuler.from_config(config, use_karras_sigmas=use_karras_sigmas, **given)
