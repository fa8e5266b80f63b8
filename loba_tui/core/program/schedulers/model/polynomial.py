"""Polynomial decay of the learning rate (Liu et al. 2015, ParseNet, https://arxiv.org/abs/1506.04579)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    power: PositiveFloat = 2.0,
    warmup_steps: NonNegativeInt = 0,
    final_factor: UnitFloat = 0.0,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: linear warm-up, then (1 − progress) ** power.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        power: 1 is a straight line; above 1 falls fast at first.
        warmup_steps: Steps over which the factor rises to 1.
        final_factor: Factor at the end of the run.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
        return final_factor + (1 - final_factor) * (1 - progress) ** power

    return factor
