"""The shift of flow-matching models, for the timestep schedulers that offer it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Density = Callable[[Tensor, float], Tensor]


def shifted(density: Density, shift: float) -> Density:
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
