"""A soft threshold: timesteps beyond it count fully, those before it hardly.

For what other trainers call "sigmoid" sampling, the sigmoid of normal numbers, take logit_normal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loba_tui.core.option_types import UnitFloat


def get_timestep_scheduler(
    *, midpoint: UnitFloat = 0.5, steepness: float = 10.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density 1 / (1 + exp(−steepness·(t − midpoint))) over t (N,) in [0, 1].

    Args:
        midpoint: Where it is one half.
        steepness: Above 0 prefers noisy timesteps, below 0 clean ones.
    """
    return lambda t, progress: torch.sigmoid(steepness * (t.double() - midpoint))
