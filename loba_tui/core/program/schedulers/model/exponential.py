"""Exponential decay: every step multiplies the learning rate by the same number."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from loba_tui.core.program.training.warm_up import Factor, over_progress


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    final_factor: PositiveFloat = 0.1,
    warmup_steps: NonNegativeInt = 0,
) -> Factor:
    """Return the learning-rate factor by step: linear warm-up, then final_factor ** progress.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        final_factor: Factor at the end of the run.
        warmup_steps: Steps over which the factor rises to 1.
    """
    return over_progress(num_steps, warmup_steps, lambda progress: final_factor**progress)
