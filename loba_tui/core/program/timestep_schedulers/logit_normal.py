"""Logit-normal density: timesteps in the middle, where a prediction is hardest.

Esser et al. 2024, Scaling Rectified Flow Transformers, https://arxiv.org/abs/2403.03206

With mean 0 it is what other trainers call "sigmoid" sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.program.trajectories.timestep_density import shifted


def get_timestep_scheduler(
    *, mean: float = 0.0, std: PositiveFloat = 1.0, shift: PositiveFloat = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """Return the density of sigmoid(mean + std·z), z normal, over timesteps t (N,) in [0, 1].

    Args:
        mean: Above 0 prefers noisy timesteps.
        std: Small values stay close to the middle.
        shift: Of flow-matching models; above 1 prefers noisy timesteps.
    """

    def density(t: Tensor, progress: float) -> Tensor:
        t = t.double()
        inside = (t > 0) & (t < 1)
        safe = torch.where(inside, t, 0.5)
        height = torch.exp(-(((safe.logit() - mean) / std) ** 2) / 2)
        height = height / (std * math.sqrt(2 * math.pi) * safe * (1 - safe))
        return torch.where(inside, height, 0.0)

    return shifted(density, shift)
