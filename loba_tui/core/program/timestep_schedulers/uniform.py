"""Train on all timesteps alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat
from torch import Tensor


def get_timestep_scheduler(
    *, low: NonNegativeFloat = 0.0, high: NonNegativeFloat = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density over timesteps: 1 inside [low, high], 0 outside.

    A timestep scheduler maps normalised timesteps t (N,), 0 clean and 1 pure noise, and the run's
    progress in [0, 1] to unnormalised weights (N,).
    """

    def density(t: Tensor, progress: float) -> Tensor:
        return ((t >= low) & (t <= high)).to(torch.float64)

    return density
