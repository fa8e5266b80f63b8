"""Linear warm-up, then constant (Goyal et al. 2017, https://arxiv.org/abs/1706.02677)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt


def get_scheduler(
    optimizer: Any, num_steps: int, *, warmup_steps: NonNegativeInt = 10
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: (step + 1) / warmup_steps, at most 1."""
    return lambda step: min(1.0, (step + 1) / max(1, warmup_steps))
