"""Inverse square root decay, the schedule of the Transformer.

Vaswani et al. 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt, PositiveInt


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    warmup_steps: NonNegativeInt = 10,
    timescale: PositiveInt | None = None,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: linear warm-up, then √(timescale / steps).

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Not used; the decay has no end.
        warmup_steps: Steps over which the factor rises to 1.
        timescale: Steps after which the rate has fallen to 1/√2; null takes the warm-up's length.
    """
    scale = timescale or max(1, warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return math.sqrt(scale / (step - warmup_steps + scale))

    return factor
