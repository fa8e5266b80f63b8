"""REX: a slow fall that ends steeply, for runs with a fixed budget.

Chen et al. 2021, REX: Revisiting Budgeted Training with an Improved Schedule,
https://arxiv.org/abs/2107.04197
"""

from __future__ import annotations

from typing import Any

from loba_tui.core.program.training.warm_up import Factor, WarmUpAndFall, over_progress


def get_scheduler(optimizer: Any, num_steps: int, *, options: WarmUpAndFall) -> Factor:
    """Return the learning-rate factor by step: (1 − p) / (½ + ½·(1 − p)), p the run's progress."""
    final = options.final_factor

    def curve(progress: float) -> float:
        left = 1 - progress
        return final + (1 - final) * left / (0.5 + 0.5 * left)

    return over_progress(num_steps, options.warmup_steps, curve)
