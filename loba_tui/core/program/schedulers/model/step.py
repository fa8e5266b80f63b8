"""Step decay: the learning rate drops at chosen points of the run.

He et al. 2015, Deep Residual Learning, https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import PositiveFloat

from loba_tui.core.option_types import UnitFloat


def get_scheduler(
    optimizer: Any,
    num_steps: int,
    *,
    drops_at: tuple[UnitFloat, ...] = (0.5, 0.75),
    drop_factor: PositiveFloat = 0.1,
) -> Callable[[int], float]:
    """Return the learning-rate factor by step: drop_factor ** (drops that have passed).

    Args:
        optimizer: Not used; the factor depends on the step alone.
        num_steps: Steps of the whole run.
        drops_at: Parts of the run after which the rate drops.
        drop_factor: What each drop multiplies it by.
    """
    steps = [round(part * num_steps) for part in drops_at]
    return lambda step: drop_factor ** sum(step >= drop for drop in steps)
