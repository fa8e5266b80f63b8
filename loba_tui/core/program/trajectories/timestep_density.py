"""Densities over timesteps, and the shift of flow-matching models that some of them offer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TimestepDensity = Callable[[Tensor, float], Tensor]
"""From normalised timesteps (N,), 0 clean and 1 noise, and progress in [0, 1] to weights (N,)."""


_PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)


def over_run(density: TimestepDensity) -> TimestepDensity:
    """Return the mean of a density over the run, at any progress the same."""

    def mean(t: Tensor, _progress: float) -> Tensor:
        found = [density(t, at).double() for at in _PROGRESS]
        shares = [each / each.sum().clamp_min(1e-300) for each in found]
        return torch.stack(shares).mean(0)

    return mean


def shifted(density: TimestepDensity, shift: float) -> TimestepDensity:
    """Return the density of t' = s·t / (1 + (s − 1)·t), where t has the given density.

    SD3 (Esser et al. 2024, equation 23, https://arxiv.org/abs/2403.03206) shifts timesteps towards
    noise for larger pictures.

    Args:
        density: Over normalised timesteps t (N,) in [0, 1].
        shift: s; above 1 moves towards noise, and 1 changes nothing.
    """
    if shift == 1:
        return density

    def moved(t: Tensor, progress: float) -> Tensor:
        t = t.double()
        left = shift - (shift - 1) * t
        return density(t / left, progress) * shift / left**2

    return moved
