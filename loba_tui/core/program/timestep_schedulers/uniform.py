"""Train on all timesteps alike, or on those of a range."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.trajectories.timestep_density import shifted


def get_timestep_scheduler(
    *, low: UnitFloat = 0.0, high: UnitFloat = 1.0, shift: PositiveFloat = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density over timesteps: 1 inside [low, high], 0 outside.

    A timestep scheduler maps normalised timesteps t (N,), 0 clean and 1 pure noise, and the run's
    progress in [0, 1] to unnormalised weights (N,).

    Args:
        low: Cleanest timestep that is trained.
        high: Noisiest one.
        shift: Of flow-matching models; above 1 prefers noisy timesteps.
    """
    even = shifted(lambda t, progress: torch.ones_like(t, dtype=torch.float64), shift)

    def density(t: Tensor, progress: float) -> Tensor:
        return even(t, progress) * ((t >= low) & (t <= high))

    return density
