"""Polynomial decay of the learning rate (Liu et al. 2015, ParseNet, https://arxiv.org/abs/1506.04579)."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveFloat

from loba_tui.core.program.training.warm_up import Factor, WarmUpAndFall, over_progress


def get_scheduler(
    optimizer: Any, num_steps: int, *, power: PositiveFloat = 2.0, options: WarmUpAndFall
) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then (1 − progress) ** power.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        power: 1 is a straight line; above 1 falls fast at first.
        options: Of the warm-up and of the end.
    """
    final = options.final_factor

    def curve(progress: float) -> float:
        return final + (1 - final) * (1 - progress) ** power

    return over_progress(num_steps, options.warmup_steps, curve)
