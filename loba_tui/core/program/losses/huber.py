"""Huber loss: squared near zero, absolute beyond delta.

Huber 1964, https://doi.org/10.1214/aoms/1177703732
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional


def get_loss(*, delta: PositiveFloat = 0.1) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the elementwise loss of a prediction and its target, both (B, C, H, W) float32."""
    return lambda prediction, target: functional.huber_loss(
        prediction, target, reduction="none", delta=delta
    )
