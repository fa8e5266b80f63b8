"""A density over timesteps that grows or decays exponentially."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def get_timestep_scheduler(*, rate: float = 2.0) -> Callable[[Tensor, float], Tensor]:
    """Return the density exp(rate·t) over normalised timesteps t (N,) in [0, 1].

    Args:
        rate: Above 0 prefers noisy timesteps, below 0 clean ones.
    """
    return lambda t, progress: torch.exp(rate * t.double())
