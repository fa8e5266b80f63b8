"""CosMap: the cosine noise schedule's density, carried over to flow matching.

Esser et al. 2024, Scaling Rectified Flow Transformers, equation 22,
https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.program.trajectories.timestep_density import shifted


def get_timestep_scheduler(*, shift: PositiveFloat = 1.0) -> Callable[[Tensor, float], Tensor]:
    """Return the density 2 / (π − 2πt + 2πt²) over normalised timesteps t (N,) in [0, 1].

    Args:
        shift: Of flow-matching models; above 1 prefers noisy timesteps.
    """

    def density(t: Tensor, progress: float) -> Tensor:
        t = t.double()
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))

    return shifted(density, shift)
