"""Cosine annealing with warm restarts (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    cycles: PositiveInt = 3,
    growth: PositiveFloat = 1.0,
    warmup_steps: NonNegativeInt = 0,
    final_factor: UnitFloat = 0.0,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: linear warm-up, then half cosine waves.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        cycles: Number of waves; each begins at 1.
        growth: How many times as long each wave is as the one before; 2 is the paper's T_mult.
        warmup_steps: Steps over which the factor rises to 1.
        final_factor: Factor at the end of each wave.
    """
    lengths = [growth**cycle for cycle in range(cycles)]
    total = sum(lengths)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        if progress >= 1:
            return final_factor
        place = progress * total
        for length in lengths:
            if place < length:
                break
            place -= length
        wave = 0.5 * (1 + math.cos(math.pi * place / length))
        return final_factor + (1 - final_factor) * wave

    return factor
