"""Makes noise schedulers from a model's own scheduler config, for the drop-ins of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from loba_tui.core.errors import RecipeError

Scheduler = TypeVar("Scheduler")


def diffusion_scheduler(
    scheduler_class: type[Scheduler], config: Mapping[str, Any], **options: Any
) -> Scheduler:
    """Return a diffusers scheduler with the model's betas and prediction type.

    Args:
        scheduler_class: One that steps a diffusion process.
        config: The pipeline's scheduler config.
        options: What to set anew; None leaves it as the model has it.

    Raises:
        RecipeError: The model is a flow-matching one.
    """
    if is_flow_matching(config):
        raise RecipeError(
            "scheduler.noise: this model predicts a velocity between noise and image, which the"
            " chosen scheduler would read as noise",
            "Take flow_match_euler for flow-matching models.",
        )
    given = {name: value for name, value in options.items() if value is not None}
    scheduler: Scheduler = scheduler_class.from_config(config, **given)  # type: ignore[attr-defined]
    return scheduler


def is_flow_matching(config: Mapping[str, Any]) -> bool:
    """Say whether a scheduler config belongs to a flow-matching model."""
    if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return True
    return "shift" in config and "beta_start" not in config
