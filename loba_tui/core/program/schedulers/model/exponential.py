"""Exponential decay: every step multiplies the learning rate by the same number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    final_factor: PositiveFloat = 0.1,
    warmup_steps: NonNegativeInt = 0,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: linear warm-up, then final_factor ** progress.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        final_factor: Factor at the end of the run.
        warmup_steps: Steps over which the factor rises to 1.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
        return final_factor**progress

    return factor
