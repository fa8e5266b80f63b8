"""Offset noise: a constant is added to each channel, so that brightness itself is learned.

Guttenberg 2023, Diffusion with Offset Noise,
https://www.crosslabs.org/blog/diffusion-with-offset-noise
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor

Change = Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]


def get_noising(*, strength: PositiveFloat = 0.05) -> Change:
    """Return what changes the noise (B, C, H, W) that is put on latents, and that is asked for.

    Args:
        strength: Standard deviation of the constant.
    """

    def change(
        applied: Tensor, wanted: Tensor, normal: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        offset = strength * normal(applied.shape[1], 1, 1)
        return applied + offset, wanted + offset

    return change
