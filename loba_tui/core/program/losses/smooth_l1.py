"""Smooth L1 loss: squared near zero, and absolute, with slope 1, beyond beta.

Girshick 2015, Fast R-CNN, https://arxiv.org/abs/1504.08083
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional


def get_loss(*, beta: PositiveFloat = 0.1) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the elementwise loss of a prediction and its target, both (B, C, H, W) float32.

    Args:
        beta: Where the loss turns from squared to absolute.
    """
    return lambda prediction, target: functional.smooth_l1_loss(
        prediction, target, reduction="none", beta=beta
    )
