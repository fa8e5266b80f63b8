"""REX: a slow fall that ends steeply, for runs with a fixed budget.

Chen et al. 2021, REX: Revisiting Budgeted Training with an Improved Schedule,
https://arxiv.org/abs/2107.04197
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    warmup_steps: NonNegativeInt = 0,
    final_factor: UnitFloat = 0.0,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: (1 − p) / (½ + ½·(1 − p)), p the run's progress.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        warmup_steps: Steps over which the factor rises to 1.
        final_factor: Factor at the end of the run.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        left = 1 - min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
        return final_factor + (1 - final_factor) * left / (0.5 + 0.5 * left)

    return factor
