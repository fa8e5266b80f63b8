"""Cosine annealing (Loshchilov & Hutter 2016, SGDR, https://arxiv.org/abs/1608.03983)."""

from __future__ import annotations

import math
from typing import Any

from loba_tui.core.program.training.warm_up import Factor, WarmUpAndFall, over_progress


def get_scheduler(optimizer: Any, num_steps: int, *, options: WarmUpAndFall) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then half a cosine wave."""
    final = options.final_factor

    def curve(progress: float) -> float:
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return over_progress(num_steps, options.warmup_steps, curve)
