"""Warm-up, a long plateau, and a decay at the end.

Hu et al. 2024, MiniCPM, https://arxiv.org/abs/2404.06395. The shape "sqrt" of the decay is the best
of Hägele et al. 2024, https://arxiv.org/abs/2405.18392.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import NonNegativeInt

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.training.warm_up import Factor, after_warm_up


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    warmup_steps: NonNegativeInt = 10,
    decay: UnitFloat = 0.2,
    shape: Literal["linear", "cosine", "sqrt"] = "sqrt",
    final_factor: UnitFloat = 0.0,
) -> Factor:
    """Return the learning-rate factor by step.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run.
        warmup_steps: Steps over which the factor rises to 1.
        decay: Part of the run, at its end, over which it falls.
        shape: Of the fall; "sqrt" is 1 − √progress.
        final_factor: Factor at the end of the run.
    """
    decay_steps = round(decay * num_steps)

    def plateau_and_fall(step: int) -> float:
        progress = (step - (num_steps - decay_steps)) / max(1, decay_steps)
        progress = min(1.0, max(0.0, progress))
        height = {
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "sqrt": 1 - math.sqrt(progress),
        }[shape]
        return final_factor + (1 - final_factor) * height

    return after_warm_up(warmup_steps, plateau_and_fall)
