"""A density of one's own that changes over the run, drawn through given points.

Curricula order training from easy to hard (Bengio et al. 2009,
https://doi.org/10.1145/1553374.1553380). Two stages, from noisy timesteps to all of them:

    scheduler:
      timestep:
        name: curriculum
        stages: [[0.0, [0, 1, 2]], [1.0, [1, 1, 1]]]
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import UnitFloat


def get_timestep_scheduler(
    *,
    stages: tuple[tuple[UnitFloat, tuple[NonNegativeFloat, ...]], ...] = (
        (0.0, (0.0, 1.0, 2.0)),
        (1.0, (1.0, 1.0, 1.0)),
    ),
    smooth: bool = True,
) -> Callable[[Tensor, float], Tensor]:
    """Return the density over normalised timesteps t (N,) in [0, 1].

    Args:
        stages: Each the run's progress from which it holds, and weights at evenly spaced timesteps
            from clean to noisy, with straight lines between them.
        smooth: Pass gradually from stage to stage; false changes at once.

    Raises:
        RecipeError: The stages are not in order, or one has no weights.
    """
    starts = [float(start) for start, _ in stages]
    if not stages or any(a >= b for a, b in itertools.pairwise(starts)):
        raise RecipeError("scheduler.timestep.stages: each has to begin after the one before")
    if not all(any(weights) for _, weights in stages):
        raise RecipeError("scheduler.timestep.stages: each needs a weight above 0")

    def at_stage(stage: int, t: Tensor) -> Tensor:
        weights = torch.tensor(list(stages[stage][1]), dtype=torch.float64, device=t.device)
        place = t.double().clamp(0, 1) * (len(weights) - 1)
        left = place.floor().long().clamp_max(max(len(weights) - 2, 0))
        right = (left + 1).clamp_max(len(weights) - 1)
        return torch.lerp(weights[left], weights[right], place - left)

    def density(t: Tensor, progress: float) -> Tensor:
        stage = max(bisect_right(starts, progress) - 1, 0)
        here = at_stage(stage, t)
        if not smooth or stage + 1 == len(stages) or progress < starts[stage]:
            return here
        part = (progress - starts[stage]) / (starts[stage + 1] - starts[stage])
        return torch.lerp(here, at_stage(stage + 1, t), part)

    return density
