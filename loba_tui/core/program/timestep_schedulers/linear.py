"""A density over timesteps that rises or falls in a straight line."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import NonNegativeFloat
from torch import Tensor


def get_timestep_scheduler(
    *, clean: NonNegativeFloat = 0.5, noisy: NonNegativeFloat = 1.5
) -> Callable[[Tensor, float], Tensor]:
    """Return the density clean + (noisy − clean)·t over normalised timesteps t (N,) in [0, 1].

    Args:
        clean: Weight of the clean end, t = 0.
        noisy: Weight of the noisy end, t = 1.
    """
    return lambda t, progress: clean + (noisy - clean) * t.double()
