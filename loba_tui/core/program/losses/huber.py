"""Huber loss: squared near zero, absolute beyond delta.

Huber 1964, https://doi.org/10.1214/aoms/1177703732. With a schedule, delta falls with the noise, so
that the noisiest timesteps, where targets have outliers, are the most robust: Khrapov et al. 2024,
Improving Diffusion Models's Data-Corruption Resistance using Scheduled Pseudo-Huber Loss,
https://arxiv.org/abs/2403.16728.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional


def get_loss(
    *, delta: PositiveFloat = 0.1, schedule: Literal["constant", "exponential"] = "constant"
) -> Callable[..., Tensor]:
    """Return the elementwise loss of a prediction and its target, both (B, C, H, W) float32.

    Args:
        delta: Where the loss turns from squared to absolute.
        schedule: "exponential" has delta^t at the timestep t, 0 clean and 1 noise: 1 for clean
            images, and `delta` for pure noise.
    """
    if schedule == "constant":
        return lambda prediction, target: functional.huber_loss(
            prediction, target, reduction="none", delta=delta
        )

    def scheduled(prediction: Tensor, target: Tensor, *, t: Tensor) -> Tensor:
        bend = (delta ** t.to(prediction)).view(-1, *[1] * (prediction.ndim - 1))
        off = (prediction - target).abs()
        return torch.where(off <= bend, off**2 / 2, bend * (off - bend / 2))

    return scheduled
