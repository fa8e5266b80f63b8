"""Beta density: by default both ends, where structure and detail are decided.

Lee et al. 2024, Beta Sampling is All You Need, https://arxiv.org/abs/2407.12173
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.program.trajectories.timestep_density import shifted

# Below 1 the density is infinite at the ends; half a train timestep keeps off them.
_EDGE = 5e-4


def get_timestep_scheduler(
    *, alpha: PositiveFloat = 0.6, beta: PositiveFloat = 0.6, shift: PositiveFloat = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density t^(alpha − 1)·(1 − t)^(beta − 1) / B(alpha, beta) over t (N,) in [0, 1].

    Args:
        alpha: Below 1 prefers the clean end, above 1 avoids it.
        beta: Below 1 prefers the noisy end, above 1 avoids it.
        shift: Of flow-matching models; above 1 prefers noisy timesteps.
    """
    log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)

    def density(t: Tensor, progress: float) -> Tensor:
        t = t.double().clamp(_EDGE, 1 - _EDGE)
        return ((alpha - 1) * t.log() + (beta - 1) * (1 - t).log() - log_norm).exp()

    return shifted(density, shift)
