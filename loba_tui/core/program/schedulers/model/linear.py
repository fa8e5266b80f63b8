"""A straight fall of the learning rate, after an optional warm-up.

The schedule of BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    warmup_steps: NonNegativeInt = 0,
    final_factor: UnitFloat = 0.0,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: linear warm-up, then a line to `final_factor`.

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run, warm-up included.
        warmup_steps: Steps over which the factor rises to 1.
        final_factor: Factor at the end of the run.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
        return 1 - (1 - final_factor) * progress

    return factor
