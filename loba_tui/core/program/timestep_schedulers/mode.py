"""SD3's mode sampling: a hill, or with a negative scale a valley, that never falls to zero.

Esser et al. 2024, Scaling Rectified Flow Transformers, equation 20,
https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.trajectories.timestep_density import shifted

_LARGEST = 2 / (math.pi - 2)


def get_timestep_scheduler(
    *, scale: float = 1.29, shift: PositiveFloat = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density of f(u) = 1 − u − s·(cos²(πu/2) − 1 + u), u uniform, over t in [0, 1].

    Args:
        scale: s, at least -1 and less than 2/(π − 2), about 1.75. Above 0 prefers the middle.
        shift: Of flow-matching models; above 1 prefers noisy timesteps.

    Raises:
        RecipeError: f would not be monotonic.
    """
    if not -1 <= scale < _LARGEST:
        raise RecipeError(
            f"scheduler.timestep.scale: {scale} is outside -1 to {_LARGEST:.4f}, where the density"
            " of mode is defined"
        )

    def density(t: Tensor, progress: float) -> Tensor:
        u = _inverse(t.double(), scale)
        slope = 1 + scale * (1 - math.pi / 2 * torch.sin(math.pi * u))  # −df/du
        return 1 / slope.clamp_min(1e-9)

    return shifted(density, shift)


def _inverse(t: Tensor, scale: float) -> Tensor:
    """Return u with f(u) = t, by bisection: f falls from 1 to 0."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(53):  # bits of a double
        u = (low + high) / 2
        f = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        low, high = torch.where(f > t, u, low), torch.where(f > t, high, u)
    return (low + high) / 2
