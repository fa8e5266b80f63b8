"""Inverse square root decay, the schedule of the Transformer.

Vaswani et al. 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from loba_tui.core.program.training.warm_up import Factor, after_warm_up


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    warmup_steps: NonNegativeInt = 10,
    timescale: PositiveInt | None = None,
) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then √(timescale / steps).

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Not used; the decay has no end.
        warmup_steps: Steps over which the factor rises to 1.
        timescale: Steps after which the rate has fallen to 1/√2; null takes the warm-up's length.
    """
    scale = timescale or max(1, warmup_steps)
    return after_warm_up(
        warmup_steps, lambda step: math.sqrt(scale / (step - warmup_steps + scale))
    )
