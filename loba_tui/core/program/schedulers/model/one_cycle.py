"""One cycle: a rise to the learning rate, and a longer fall far below the start.

Smith & Topin 2017, Super-Convergence, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from pydantic import PositiveFloat

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    rise: UnitFloat = 0.3,
    initial_factor: PositiveFloat = 0.04,
    final_factor: PositiveFloat = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
) -> Callable[[int], float]:
    """Return the learning-rate factor by step; `optimizer.lr` is the peak, where it is 1.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run.
        rise: Part of the run until the peak.
        initial_factor: Factor of the first step.
        final_factor: Factor of the last step.
        shape: Of the rise and of the fall.
    """
    last = max(num_steps - 1, 1)
    peak = min(max(rise * num_steps - 1, 0.0), float(last))

    def between(begin: float, end: float, part: float) -> float:
        if shape == "cosine":
            part = 0.5 * (1 - math.cos(math.pi * part))
        return begin + (end - begin) * part

    def factor(step: int) -> float:
        if step < peak:
            return between(initial_factor, 1.0, step / peak)
        return between(1.0, final_factor, min(1.0, (step - peak) / max(last - peak, 1e-9)))

    return factor
