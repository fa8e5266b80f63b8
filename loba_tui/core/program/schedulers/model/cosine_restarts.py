"""Cosine annealing with warm restarts (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from loba_tui.core.program.training.warm_up import Factor, WarmUpAndFall, over_progress


@dataclass(frozen=True, kw_only=True)
class RestartOptions(WarmUpAndFall):
    """Options of the waves.

    Attributes:
        cycles: Number of waves; each begins at 1.
        growth: How many times as long each wave is as the one before; 2 is the paper's T_mult.
        final_factor: Factor at the end of each wave.
    """

    cycles: PositiveInt = 3
    growth: PositiveFloat = 1.0


def get_scheduler(optimizer: Any, num_steps: int, *, options: RestartOptions) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then half cosine waves."""
    lengths = [options.growth**cycle for cycle in range(options.cycles)]
    total, final = sum(lengths), options.final_factor

    def curve(progress: float) -> float:
        if progress >= 1:
            return final
        place = progress * total
        for length in lengths:
            if place < length:
                break
            place -= length
        wave = 0.5 * (1 + math.cos(math.pi * place / length))
        return final + (1 - final) * wave

    return over_progress(num_steps, options.warmup_steps, curve)
