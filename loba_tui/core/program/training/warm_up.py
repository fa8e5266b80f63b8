"""The rise that model schedulers begin with. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import NonNegativeInt

from loba_tui.core.option_types import UnitFloat

Factor = Callable[[int], float]
"""The learning-rate factor of a step."""


@dataclass(frozen=True, kw_only=True)
class WarmUpAndFall:
    """Options of schedules that rise, and then fall until the end of the run.

    Attributes:
        warmup_steps: Steps over which the factor rises to 1.
        final_factor: Factor at the end of the run.
    """

    warmup_steps: NonNegativeInt = 0
    final_factor: UnitFloat = 0.0


def after_warm_up(warmup_steps: int, later: Factor) -> Factor:
    """Return a schedule that rises in a straight line, and then goes on as `later`."""
    return lambda step: (step + 1) / warmup_steps if step < warmup_steps else later(step)


def over_progress(num_steps: int, warmup_steps: int, curve: Callable[[float], float]) -> Factor:
    """Return a schedule that rises, and then follows `curve` over the rest of the run, 0 to 1."""
    rest = max(1, num_steps - warmup_steps)
    return after_warm_up(warmup_steps, lambda step: curve(min(1.0, (step - warmup_steps) / rest)))
