"""A window that travels over the timesteps during the run, by default from noisy to clean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loba_tui.core.option_types import UnitFloat


def get_timestep_scheduler(
    *, width: UnitFloat = 0.4, begin: UnitFloat = 1.0, end: UnitFloat = 0.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density over timesteps t (N,) in [0, 1]: 1 inside the window, 0 outside.

    Args:
        width: Of the window; it always lies inside [0, 1].
        begin: Where it is at the start of the run; 0 is the clean end and 1 the noisy one.
        end: Where it is at the end of the run.
    """

    def density(t: Tensor, progress: float) -> Tensor:
        low = (begin + (end - begin) * progress) * (1 - width)
        # A hair wider, so that rounding never leaves its own edges out.
        inside = (t.double() >= low - 1e-9) & (t.double() <= low + width + 1e-9)
        return inside.to(torch.float64)

    return density
