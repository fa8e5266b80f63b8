"""Pyramid noise: noise of several resolutions, so that large structures are learned too.

Whitaker 2023, Multi-Resolution Noise for Diffusion Model Training,
https://wandb.ai/johnowhitaker/multires_noise
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from loba_tui.core.option_types import UnitFloat

Change = Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]


def get_noising(*, discount: UnitFloat = 0.3, levels: PositiveInt = 6) -> Change:
    """Return what changes the noise (B, C, H, W) that is put on latents, and that is asked for.

    The sum is scaled back to standard deviation 1, which the noise schedule counts on.

    Args:
        discount: Level i, of 1/2^i of the resolution, is added with discount^i.
        levels: Most levels; the last is the one that has a single pixel along its shorter side.
    """

    def change(
        applied: Tensor, wanted: Tensor, normal: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        channels, height, width = applied.shape[1:]
        total, power = applied * 0, 1.0
        for level in range(1, levels + 1):
            size = max(1, height >> level), max(1, width >> level)
            coarse = normal(channels, *size)
            spread = functional.interpolate(coarse, (height, width), mode="nearest")
            total = total + discount**level * spread
            power += discount ** (2 * level)
            if 1 in size:
                break
        factor = power**-0.5
        return (applied + total) * factor, (wanted + total) * factor

    return change
